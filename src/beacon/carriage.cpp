// SPDX-License-Identifier: Apache-2.0
#include "beacon/carriage.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "beacon/names.hpp"

namespace penstock::beacon {
namespace {

constexpr const char* kMessageId = "Nats-Msg-Id";
constexpr const char* kExpectedStream = "Nats-Expected-Stream";
constexpr const char* kHeaders = "Penstock-Headers";
constexpr const char* kEmptyMark = "penstock-data";  // of the codec: NATS does not tell an empty payload from none

bool begins(std::string_view name, std::string_view lower_prefix) {
  return name.size() >= lower_prefix.size() &&
         std::equal(lower_prefix.begin(), lower_prefix.end(), name.begin(),
                    [](char lower, char c) { return lower == (c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c); });
}
bool is(std::string_view name, std::string_view lower_name) {
  return name.size() == lower_name.size() && begins(name, lower_name);
}
/// Written by the codec, which does not mind their order.
bool is_codec(std::string_view name) {
  return begins(name, "ce-") || is(name, "content-type") || is(name, "penstock-key") || is(name, kEmptyMark);
}
bool is_reserved(std::string_view name) { return begins(name, "nats-"); }

/// Arrives in every client as it was sent.
bool is_plain(const Header& header) {
  if (header.name.empty() || !header.value || header.value->empty()) return false;
  // "Status: 503" with an empty body would look like "no responders".
  if (is_reserved(header.name) || is(header.name, "penstock-headers") || is(header.name, "status") ||
      is(header.name, "description")) {
    return false;
  }
  const bool token =
      std::all_of(header.name.begin(), header.name.end(), [](char c) { return c > ' ' && c < '\x7f' && c != ':'; });
  const bool text = std::all_of(header.value->begin(), header.value->end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= ' ' && byte != 0x7f;
  });
  return token && text && header.value->front() != ' ' && header.value->back() != ' ';
}

void check(natsStatus status) {
  if (status != NATS_OK) throw std::runtime_error{"NATS message: " + last_error(status)};
}

/// Only headers that need it are told; most messages have none.
std::string directory(const Headers& headers) {
  std::set<std::string_view> names;
  bool all_plain = true;
  std::string list;
  for (const auto& header : headers) {
    const bool plain = is_plain(header);
    if (plain && is_codec(header.name)) continue;
    all_plain = all_plain && plain;
    names.insert(header.name);
    if (!list.empty()) list += ',';
    list += escape(header.name, '%', ".~");
    if (!plain) list += header.value ? '=' + escape(*header.value, '%', ".~") : "!";
  }
  return all_plain && names.size() < 2 ? std::string{} : list;
}

/// A header of a message, until somebody takes it.
struct Field {
  std::string name{};
  std::string value{};
  bool taken = false;
};
using Fields = std::vector<Field>;

/// Every header of a message: the names sorted, as NATS keeps no order among them; the values of one name as they came.
Fields fields_of(natsMsg* message) {
  Fields result;
  const char** keys = nullptr;
  int count = 0;
  if (natsMsgHeader_Keys(message, &keys, &count) != NATS_OK) return result;
  const std::unique_ptr<const char*, Free<std::free>> keep_keys{keys};
  std::sort(keys, keys + count, [](const char* a, const char* b) { return std::strcmp(a, b) < 0; });
  result.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    const char** values = nullptr;
    int number = 0;
    if (natsMsgHeader_Values(message, keys[i], &values, &number) != NATS_OK) continue;
    const std::unique_ptr<const char*, Free<std::free>> keep_values{values};
    for (int j = 0; j < number; ++j) result.push_back({keys[i], values[j]});
  }
  return result;
}

/// The first one of that name that is still there, or null.
Field* first_of(Fields& fields, std::string_view name) {
  auto found =
      std::lower_bound(fields.begin(), fields.end(), name, [](const Field& a, std::string_view b) { return a.name < b; });
  while (found != fields.end() && found->name == name && found->taken) ++found;
  return found != fields.end() && found->name == name ? &*found : nullptr;
}

/// One entry of the directory. Falls back on nothing when it is damaged.
std::optional<Header> entry(std::string_view text, Fields& there) {
  const auto mark = text.find_first_of("=!");
  auto name = unescape(text.substr(0, mark), '%');
  if (!name) return std::nullopt;
  if (mark != std::string_view::npos) {
    if (text[mark] == '!') return Header{std::move(*name), std::nullopt};
    auto value = unescape(text.substr(mark + 1), '%');
    if (!value) return std::nullopt;
    return Header{std::move(*name), std::move(*value)};
  }
  Field* const found = first_of(there, *name);
  if (found == nullptr) return std::nullopt;
  found->taken = true;
  return Header{std::move(*name), std::move(found->value)};
}

}  // namespace

MessageHandle to_message(const Wire& wire, const std::string& subject, const std::string& reply, const std::string& stream,
                         const std::string& message_id) {
  if (wire.payload && wire.payload->size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw std::length_error{"a payload beyond 2 GiB"};
  }
  natsMsg* made = nullptr;
  const char* data = wire.payload ? wire.payload->data() : nullptr;
  check(natsMsg_Create(&made, subject.c_str(), reply.empty() ? nullptr : reply.c_str(), data,
                       wire.payload ? static_cast<int>(wire.payload->size()) : 0));
  MessageHandle message{made};
  check(natsMsgHeader_Set(made, kMessageId, message_id.c_str()));
  check(natsMsgHeader_Set(made, kExpectedStream, stream.c_str()));
  for (const auto& header : wire.headers) {
    if (is_plain(header)) check(natsMsgHeader_Add(made, header.name.c_str(), header.value->c_str()));
  }
  if (const auto list = directory(wire.headers); !list.empty()) check(natsMsgHeader_Set(made, kHeaders, list.c_str()));
  return message;
}

Arrival from_message(natsMsg* message, Wire&& room) {
  Arrival arrival{.wire = std::move(room), .reserved = {}};
  arrival.wire.key.reset();
  arrival.wire.headers.clear();
  Fields there = fields_of(message);
  const auto size = natsMsg_GetDataLength(message);
  if (size > 0) {
    if (!arrival.wire.payload) arrival.wire.payload.emplace();
    arrival.wire.payload->assign(natsMsg_GetData(message), static_cast<std::size_t>(size));
  } else if (const Field* const mark = first_of(there, kEmptyMark); mark != nullptr && mark->value == "empty") {
    arrival.wire.payload.emplace();
  } else {
    arrival.wire.payload.reset();
  }

  Headers foreign;
  if (Field* const found = first_of(there, kHeaders)) {
    const std::string list = std::move(found->value);
    for (std::size_t begin = 0; begin <= list.size();) {
      const auto comma = std::min(list.find(',', begin), list.size());
      if (auto header = entry(std::string_view{list}.substr(begin, comma - begin), there))
        foreign.push_back(std::move(*header));
      begin = comma + 1;
    }
  }
  arrival.wire.headers.reserve(there.size());
  for (Field& field : there) {
    if (field.taken || field.name == kHeaders) continue;
    auto& into = is_reserved(field.name) ? arrival.reserved : is_codec(field.name) ? arrival.wire.headers : foreign;
    into.push_back({std::move(field.name), std::move(field.value)});
  }
  std::move(foreign.begin(), foreign.end(), std::back_inserter(arrival.wire.headers));
  return arrival;
}

Event read_event(Arrival& arrival, Event&& room) {
  const auto adopt = [&] {
    arrival.wire.headers.insert(arrival.wire.headers.end(), arrival.reserved.begin(), arrival.reserved.end());
  };
  Event event;
  try {
    event = decode(arrival.wire, Binding::nats, std::move(room));
  } catch (const MalformedMessage&) {
    adopt();
    throw;
  }
  const auto ours = std::find_if(arrival.reserved.begin(), arrival.reserved.end(),
                                 [](const Header& header) { return header.name == kMessageId; });
  if (ours == arrival.reserved.end() || ours->value != message_id(event.source, event.id)) {
    adopt();
    event.headers.insert(event.headers.end(), arrival.reserved.begin(), arrival.reserved.end());
    return event;
  }
  for (const auto& header : arrival.reserved) {
    if (header.name == kMessageId || header.name == kExpectedStream) continue;
    arrival.wire.headers.push_back(header);
    event.headers.push_back(header);
  }
  return event;
}

}  // namespace penstock::beacon
