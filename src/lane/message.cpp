// SPDX-License-Identifier: Apache-2.0
#include "lane/message.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/amqp.hpp"
#include "lane/connection.hpp"
#include "penstock/envelope.hpp"
#include "penstock/event.hpp"

namespace penstock::lane {
namespace {

constexpr std::size_t short_limit = 255;  // AMQP's "short string"
// Properties that no attribute stands for travel as headers of these names in a Wire, and back.
constexpr std::string_view encoding_header = "amqp-content-encoding";
constexpr std::string_view reply_header = "amqp-reply-to";
constexpr std::string_view priority_header = "amqp-priority";

bool same_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

std::string fitting(std::string_view text) { return text.size() <= short_limit ? std::string{text} : std::string{}; }

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> integer(const amqp_field_value_t& value) {
  const auto digits = canonical_text(value);
  return digits ? number<std::uint64_t>(*digits) : std::nullopt;
}

std::optional<amqp_field_value_t> lookup(const amqp_table_t& table, std::string_view name) {
  for (int i = 0; i < table.num_entries; ++i) {
    if (view(table.entries[i].key) == name) return table.entries[i].value;
  }
  return std::nullopt;
}

bool names_delay_of(std::string_view name, std::string_view queue) {
  constexpr std::string_view mark = ".retry.";
  return name.size() > queue.size() + mark.size() && name.starts_with(queue) && name.substr(queue.size()).starts_with(mark);
}

bool is_trace_of_delay(const amqp_field_value_t& death, std::string_view queue) {
  if (death.kind != AMQP_FIELD_KIND_TABLE) return false;
  const auto where = lookup(death.value.table, "queue");
  return where && where->kind == AMQP_FIELD_KIND_UTF8 && names_delay_of(view(where->value.bytes), queue);
}

/// RabbitMQ writes down every dead-lettering, also those that are nothing but our delay. True when the header is to be dropped;
/// otherwise `value` is left with the entries that are none of ours.
bool strip_traces(std::string_view name, amqp_field_value_t& value, const amqp_table_t& table, std::string_view queue,
                  std::vector<amqp_field_value_t>& kept) {
  if (name == deliveries_header || name == null_header || name == order_header || name == "x-delivery-count" ||
      name == "x-acquired-count")
    return true;
  for (const std::string_view prefix : {"x-first-death-", "x-last-death-"}) {
    if (!name.starts_with(prefix)) continue;
    const auto where = lookup(table, std::string{prefix} + "queue");
    return where && where->kind == AMQP_FIELD_KIND_UTF8 && names_delay_of(view(where->value.bytes), queue);
  }
  if (name != "x-death" || value.kind != AMQP_FIELD_KIND_ARRAY) return false;
  const amqp_array_t deaths = value.value.array;
  for (int i = 0; i < deaths.num_entries; ++i) {
    if (!is_trace_of_delay(deaths.entries[i], queue)) kept.push_back(deaths.entries[i]);
  }
  if (static_cast<int>(kept.size()) == deaths.num_entries) return false;
  value.value.array = amqp_array_t{static_cast<int>(kept.size()), kept.data()};
  return kept.empty();
}

std::size_t value_size(const amqp_field_value_t& value) {
  constexpr std::size_t frame = 5;  // kind, and the length where there is one
  switch (value.kind) {
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES: return frame + value.value.bytes.len;
    case AMQP_FIELD_KIND_ARRAY: {
      std::size_t size = frame;
      for (int i = 0; i < value.value.array.num_entries; ++i) size += value_size(value.value.array.entries[i]);
      return size;
    }
    case AMQP_FIELD_KIND_TABLE: {
      std::size_t size = frame;
      for (int i = 0; i < value.value.table.num_entries; ++i) {
        size += 1 + value.value.table.entries[i].key.len + value_size(value.value.table.entries[i].value);
      }
      return size;
    }
    default: return 9;
  }
}

/// Positions in the order of names; equal names keep theirs.
template <class Named>
std::vector<std::size_t> by_name(const std::vector<Named>& items, std::string_view (*name)(const Named&)) {
  std::vector<std::size_t> positions(items.size());
  std::iota(positions.begin(), positions.end(), std::size_t{0});
  std::stable_sort(positions.begin(), positions.end(),
                   [&](std::size_t a, std::size_t b) { return name(items[a]) < name(items[b]); });
  return positions;
}

std::string order_of(const std::vector<amqp_table_entry_t>& entries) {
  std::string text;
  for (const std::size_t position : by_name<amqp_table_entry_t>(entries, [](const auto& item) { return view(item.key); })) {
    if (!text.empty()) text += ' ';
    text += std::to_string(position);
  }
  return text;
}

/// Puts the headers back; leaves them alone when they are not those that the order was taken of.
void restore_order(Headers& headers, std::string_view order) {
  const auto sorted = by_name<Header>(headers, [](const auto& item) { return std::string_view{item.name}; });
  std::vector<std::size_t> from(headers.size(), headers.size());
  for (const std::size_t position : sorted) {
    const auto place = number<std::size_t>(order.substr(0, order.find(' ')));
    if (!place || *place >= from.size() || from[*place] != headers.size()) return;
    from[*place] = position;
    order.remove_prefix(std::min(order.size(), order.find(' ') == std::string_view::npos ? order.size() : order.find(' ') + 1));
  }
  if (!order.empty()) return;
  Headers restored;
  restored.reserve(headers.size());
  for (const std::size_t position : from) restored.push_back(std::move(headers[position]));
  headers = std::move(restored);
}

std::string refusal(const Header& header) {
  if (header.name.size() > short_limit) {
    return "the header name '" + header.name.substr(0, 40) + "…' has " + std::to_string(header.name.size()) +
           " bytes and AMQP allows 255; shorten it";
  }
  if (header.name == "CC" || header.name == "BCC") {
    return "RabbitMQ routes by the header '" + header.name + "' and would close the channel over a text in it; rename it";
  }
  if (header.name == deliveries_header || header.name == null_header || header.name == order_header) {
    return "the header '" + header.name + "' is penstock's own; rename it";
  }
  return {};
}

void place(Header& header, Parcel& parcel) {
  if (header.value && header.value->size() <= short_limit) {
    if (parcel.content_type.empty() && same_ignoring_case(header.name, "content-type")) {
      parcel.content_type = std::move(*header.value);
      return;
    }
    if (parcel.content_encoding.empty() && header.name == encoding_header) {
      parcel.content_encoding = std::move(*header.value);
      return;
    }
    if (parcel.reply_to.empty() && header.name == reply_header) {
      parcel.reply_to = std::move(*header.value);
      return;
    }
    if (const auto priority = number<std::uint8_t>(*header.value);
        priority && !parcel.priority && header.name == priority_header) {
      parcel.priority = priority;
      return;
    }
  }
  parcel.headers.push_back(std::move(header));
}

}  // namespace

RawProperties::RawProperties(std::string_view encoded) : encoded_{encoded} {
  init_amqp_pool(&pool_, 4096);
  void* decoded = nullptr;
  const int status = amqp_decode_properties(AMQP_BASIC_CLASS, &pool_, bytes(encoded_), &decoded);
  if (status != AMQP_STATUS_OK) {
    empty_amqp_pool(&pool_);
    throw AmqpError{0, false, std::string{"reading a content header: "} + amqp_error_string2(status)};
  }
  properties_ = static_cast<amqp_basic_properties_t*>(decoded);
}

RawProperties::~RawProperties() { empty_amqp_pool(&pool_); }

Parcel pack(const Event& event, const std::string& queue) {
  Parcel parcel;
  parcel.routing_key = queue;
  try {
    Wire wire = encode(event, Binding::amqp, Mode::binary);
    for (Header& header : wire.headers) {
      if (parcel.refused.empty()) parcel.refused = refusal(header);
      place(header, parcel);
    }
    parcel.null_body = !wire.payload.has_value();
    parcel.body = std::move(wire.payload).value_or("");
  } catch (const InvalidEvent& error) {
    parcel.refused = error.what();
    return parcel;
  }
  parcel.message_id = fitting(event.id);
  parcel.type = fitting(event.type);
  parcel.correlation_id = fitting(event.correlation_id);
  parcel.app_id = fitting(event.source);
  if (const auto time = parse_time(event.time)) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(time->time_since_epoch()).count();
    if (seconds >= 0) parcel.timestamp = static_cast<std::uint64_t>(seconds);
  }
  return parcel;
}

OutgoingProperties::OutgoingProperties(Parcel& parcel) {
  if (parcel.raw) {
    properties_ = &**parcel.raw;
    return;
  }
  entries_.reserve(parcel.headers.size() + 1);
  for (const Header& header : parcel.headers) {
    entries_.push_back(entry(header.name, header.value ? std::string_view{*header.value} : std::string_view{}));
    if (!header.value) entries_.back().value.kind = AMQP_FIELD_KIND_VOID;
  }
  if (parcel.null_body) entries_.push_back(entry(null_header, true));
  own_._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
  own_.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  own_.headers = amqp_table_t{static_cast<int>(entries_.size()), entries_.data()};
  const auto set = [this](amqp_bytes_t& field, amqp_flags_t flag, const std::string& value) {
    if (value.empty()) return;
    field = bytes(value);
    own_._flags |= flag;
  };
  set(own_.content_type, AMQP_BASIC_CONTENT_TYPE_FLAG, parcel.content_type);
  set(own_.message_id, AMQP_BASIC_MESSAGE_ID_FLAG, parcel.message_id);
  set(own_.type, AMQP_BASIC_TYPE_FLAG, parcel.type);
  set(own_.correlation_id, AMQP_BASIC_CORRELATION_ID_FLAG, parcel.correlation_id);
  set(own_.app_id, AMQP_BASIC_APP_ID_FLAG, parcel.app_id);
  set(own_.content_encoding, AMQP_BASIC_CONTENT_ENCODING_FLAG, parcel.content_encoding);
  set(own_.reply_to, AMQP_BASIC_REPLY_TO_FLAG, parcel.reply_to);
  if (parcel.timestamp) {
    own_.timestamp = *parcel.timestamp;
    own_._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
  }
  if (parcel.priority) {
    own_.priority = *parcel.priority;
    own_._flags |= AMQP_BASIC_PRIORITY_FLAG;
  }
}

std::size_t OutgoingProperties::encoded_size() const {
  const amqp_basic_properties_t& p = *properties_;
  std::size_t size = 64;  // class, weight, body size, flags, fixed-size properties and the lengths of the short strings
  if ((p._flags & AMQP_BASIC_HEADERS_FLAG) != 0) {
    amqp_field_value_t table{};
    table.kind = AMQP_FIELD_KIND_TABLE;
    table.value.table = p.headers;
    size += value_size(table);
  }
  for (const auto& [flag, value] :
       {std::pair{AMQP_BASIC_CONTENT_TYPE_FLAG, p.content_type},
        std::pair{AMQP_BASIC_CONTENT_ENCODING_FLAG, p.content_encoding},
        std::pair{AMQP_BASIC_CORRELATION_ID_FLAG, p.correlation_id}, std::pair{AMQP_BASIC_REPLY_TO_FLAG, p.reply_to},
        std::pair{AMQP_BASIC_MESSAGE_ID_FLAG, p.message_id}, std::pair{AMQP_BASIC_TYPE_FLAG, p.type},
        std::pair{AMQP_BASIC_USER_ID_FLAG, p.user_id}, std::pair{AMQP_BASIC_APP_ID_FLAG, p.app_id},
        std::pair{AMQP_BASIC_CLUSTER_ID_FLAG, p.cluster_id}}) {
    if ((p._flags & static_cast<amqp_flags_t>(flag)) != 0) size += value.len;
  }
  return size;
}

Received unpack(const amqp_basic_properties_t& properties, std::string body, const std::string& delays_of) {
  Received received;
  Headers& headers = received.wire.headers;
  const auto add = [&](amqp_flags_t flag, std::string_view name, std::string_view value) {
    if ((properties._flags & flag) != 0) headers.push_back(Header{std::string{name}, std::string{value}});
  };
  add(AMQP_BASIC_CONTENT_TYPE_FLAG, "content-type", view(properties.content_type));
  bool is_null = false;
  std::string order;
  Headers foreign;
  if ((properties._flags & AMQP_BASIC_HEADERS_FLAG) != 0) {
    const amqp_table_t& table = properties.headers;
    for (int i = 0; i < table.num_entries; ++i) {
      const std::string_view name = view(table.entries[i].key);
      amqp_field_value_t value = table.entries[i].value;
      if (name == deliveries_header || name == "x-delivery-count") {
        received.earlier += static_cast<std::uint32_t>(std::min<std::uint64_t>(integer(value).value_or(0), 1'000'000'000));
        received.counted |= name == "x-delivery-count";
      }
      is_null |= name == null_header;
      if (name == order_header) order = canonical_text(value).value_or("");
      std::vector<amqp_field_value_t> kept;
      if (!strip_traces(name, value, table, delays_of, kept))
        foreign.push_back(Header{std::string{name}, canonical_text(value)});
    }
    if (!order.empty()) restore_order(foreign, order);
    std::move(foreign.begin(), foreign.end(), std::back_inserter(headers));
  }
  add(AMQP_BASIC_CONTENT_ENCODING_FLAG, encoding_header, view(properties.content_encoding));
  add(AMQP_BASIC_REPLY_TO_FLAG, reply_header, view(properties.reply_to));
  if ((properties._flags & AMQP_BASIC_PRIORITY_FLAG) != 0)
    add(AMQP_BASIC_PRIORITY_FLAG, priority_header, std::to_string(properties.priority));
  if (!is_null || !body.empty()) received.wire.payload = std::move(body);
  return received;
}

Parcel repack(std::string_view encoded_properties, std::string body, const std::string& queue,
              std::optional<DelayQueue> through, std::uint32_t deliveries, const std::string& user) {
  Parcel parcel;
  parcel.routing_key = through ? through->name() : queue;
  parcel.through = std::move(through);
  parcel.body = std::move(body);
  parcel.raw = std::make_unique<RawProperties>(encoded_properties);
  amqp_basic_properties_t& properties = **parcel.raw;

  const bool has_headers = (properties._flags & AMQP_BASIC_HEADERS_FLAG) != 0;
  const amqp_table_t table = has_headers ? properties.headers : amqp_table_t{0, nullptr};
  std::vector<amqp_table_entry_t> ordered;
  for (int i = 0; i < table.num_entries; ++i) {
    amqp_table_entry_t item = table.entries[i];
    const std::string_view name = view(item.key);
    std::vector<amqp_field_value_t> kept;
    const bool keep_null = name == null_header;
    // The copies that CC asked for were made when the message was first published.
    if (!keep_null && (name == "CC" || name == "BCC" || strip_traces(name, item.value, table, queue, kept))) continue;
    if (!kept.empty()) {
      // Foreign entries beside ours: keep their array alive with the parcel.
      parcel.raw_arrays.push_back(std::move(kept));
      item.value.value.array.entries = parcel.raw_arrays.back().data();
    }
    parcel.raw_headers.push_back(item);
    if (!keep_null) ordered.push_back(item);
  }
  // At one place, as a short string moves with the parcel. What was retried before has been sorted since, and says how it was.
  const auto known = lookup(table, order_header);
  parcel.order = std::make_unique<std::string>(known ? canonical_text(*known).value_or("") : order_of(ordered));
  parcel.raw_headers.push_back(entry(order_header, std::string_view{*parcel.order}));
  parcel.raw_headers.push_back(entry(deliveries_header, static_cast<std::int64_t>(deliveries)));
  properties.headers = amqp_table_t{static_cast<int>(parcel.raw_headers.size()), parcel.raw_headers.data()};
  properties._flags |= AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  // A shorter expiration would cut the delay short or drop the message; a user id other than ours closes the channel.
  properties._flags &= ~static_cast<amqp_flags_t>(AMQP_BASIC_EXPIRATION_FLAG);
  if (view(properties.user_id) != user) properties._flags &= ~static_cast<amqp_flags_t>(AMQP_BASIC_USER_ID_FLAG);
  return parcel;
}

}  // namespace penstock::lane
