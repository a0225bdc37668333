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
bool is_plain(std::string_view name, const std::optional<std::string_view>& value) {
  if (name.empty() || !value || value->empty()) return false;
  // "Status: 503" with an empty body would look like "no responders".
  if (is_reserved(name) || is(name, "penstock-headers") || is(name, "status") || is(name, "description")) return false;
  const bool token = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f' && c != ':'; });
  const bool text = std::all_of(value->begin(), value->end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= ' ' && byte != 0x7f;
  });
  return token && text && value->front() != ' ' && value->back() != ' ';
}

void check(natsStatus status) {
  if (status != NATS_OK) throw std::runtime_error{"NATS message: " + last_error(status)};
}

/// A header of a message, as long as the message is there, until somebody takes it.
struct Field {
  std::string_view name{};
  std::string_view value{};
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
  return Header{std::move(*name), std::string{found->value}};
}

/// What the directory tells, in its order.
Headers listed(Fields& there) {
  Headers headers;
  Field* const directory = first_of(there, kHeaders);
  if (directory == nullptr) return headers;
  const std::string_view list = directory->value;
  for (std::size_t begin = 0; begin <= list.size();) {
    const auto comma = std::min(list.find(',', begin), list.size());
    if (auto header = entry(list.substr(begin, comma - begin), there)) headers.push_back(std::move(*header));
    begin = comma + 1;
  }
  return headers;
}

/// Writes headers over those that are there, for the room of their strings.
class Overwriting {
 public:
  explicit Overwriting(Headers& headers) : headers_{headers} {}
  void add(const Field& field) {
    if (count_ == headers_.size()) headers_.emplace_back();
    Header& header = headers_[count_++];
    header.name.assign(field.name);
    if (!header.value) header.value.emplace();
    header.value->assign(field.value);
  }
  void add(Headers headers) {
    headers_.resize(count_);
    count_ += headers.size();
    std::move(headers.begin(), headers.end(), std::back_inserter(headers_));
  }
  void finish() { headers_.resize(count_); }

 private:
  Headers& headers_;
  std::size_t count_ = 0;
};

Header header_of(const Arrival::Reserved& reserved) { return {std::string{reserved.name}, std::string{reserved.value}}; }

}  // namespace

MessageHandle Loader::load(const Event& event, const std::string& subject, const std::string& reply) {
  if (event.data && event.data->size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw std::length_error{"a payload beyond 2 GiB"};
  }
  check(natsMsg_Create(&message_, subject.c_str(), reply.empty() ? nullptr : reply.c_str(),
                       event.data ? event.data->data() : nullptr, event.data ? static_cast<int>(event.data->size()) : 0));
  MessageHandle message{message_};
  check(natsMsgHeader_Set(message_, kMessageId, message_id(event.source, event.id).c_str()));
  check(natsMsgHeader_Set(message_, kExpectedStream, stream_.c_str()));
  directory_.clear();
  first_listed_.clear();
  needs_directory_ = false;
  encode_headers(event, Binding::nats, [this](std::string_view name, const auto& value) { add(name, value); });
  if (needs_directory_) check(natsMsgHeader_Set(message_, kHeaders, directory_.c_str()));
  return message;
}

void Loader::add(std::string_view name, const std::optional<std::string_view>& value) {
  const bool plain = is_plain(name, value);
  if (plain) {
    name_.assign(name);
    value_.assign(*value);
    check(natsMsgHeader_Add(message_, name_.c_str(), value_.c_str()));
  }
  if (!plain || !is_codec(name)) list(name, value, plain);
}

/// One header that keeps its place needs no directory, however often it is there.
void Loader::list(std::string_view name, const std::optional<std::string_view>& value, bool plain) {
  needs_directory_ = needs_directory_ || !plain || (!directory_.empty() && name != first_listed_);
  if (directory_.empty()) {
    first_listed_.assign(name);
  } else {
    directory_ += ',';
  }
  append_escaped(directory_, name, '%', ".~");
  if (plain) return;
  if (!value) {
    directory_ += '!';
  } else {
    directory_ += '=';
    append_escaped(directory_, *value, '%', ".~");
  }
}

Arrival from_message(natsMsg* message, Wire&& room) {
  Arrival arrival{.wire = std::move(room), .reserved = {}};
  arrival.wire.key.reset();
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

  Headers foreign = listed(there);
  arrival.reserved.reserve(4);
  Overwriting headers{arrival.wire.headers};
  for (Field& field : there) {
    if (field.taken || !(is_reserved(field.name) || is_codec(field.name))) continue;
    field.taken = true;
    if (is_reserved(field.name)) {
      arrival.reserved.push_back({field.name, field.value});
    } else {
      headers.add(field);
    }
  }
  if (!foreign.empty()) headers.add(std::move(foreign));
  for (const Field& field : there) {
    if (!field.taken && field.name != kHeaders) headers.add(field);
  }
  headers.finish();
  return arrival;
}

Event read_event(Arrival& arrival, Event&& room) {
  const auto adopt = [&](Headers& headers) {
    std::transform(arrival.reserved.begin(), arrival.reserved.end(), std::back_inserter(headers), header_of);
  };
  Event event = std::move(room);
  try {
    decode_into(arrival.wire, Binding::nats, event);
  } catch (const MalformedMessage&) {
    adopt(arrival.wire.headers);
    throw;
  }
  const auto ours = std::find_if(arrival.reserved.begin(), arrival.reserved.end(),
                                 [](const Arrival::Reserved& header) { return header.name == kMessageId; });
  if (ours == arrival.reserved.end() || ours->value != message_id(event.source, event.id)) {
    adopt(arrival.wire.headers);
    adopt(event.headers);
    return event;
  }
  for (const auto& header : arrival.reserved) {
    if (header.name == kMessageId || header.name == kExpectedStream) continue;
    arrival.wire.headers.push_back(header_of(header));
    event.headers.push_back(header_of(header));
  }
  return event;
}

}  // namespace penstock::beacon
