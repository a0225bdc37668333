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

std::string_view fitting(std::string_view text) { return text.size() <= short_limit ? text : std::string_view{}; }

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

std::string refusal(std::string_view name) {
  if (name.size() > short_limit) {
    return "the header name '" + std::string{name.substr(0, 40)} + "…' has " + std::to_string(name.size()) +
           " bytes and AMQP allows 255; shorten it";
  }
  if (name == "CC" || name == "BCC") {
    return "RabbitMQ routes by the header '" + std::string{name} + "' and would close the channel over a text in it; rename it";
  }
  if (name == deliveries_header || name == null_header || name == order_header) {
    return "the header '" + std::string{name} + "' is penstock's own; rename it";
  }
  return {};
}

/// Appends, and tells where to.
std::size_t put(std::vector<char>& text, std::string_view added) {
  const std::size_t at = text.size();
  text.insert(text.end(), added.begin(), added.end());
  return at;
}

/// Fills a parcel. Its text moves as it grows, so what points into it is made at the end.
class Layout {
 public:
  explicit Layout(Parcel& parcel) : parcel_{parcel} {}

  void header(std::string_view name, const std::optional<std::string_view>& value) {
    if (parcel_.refused.empty()) parcel_.refused = refusal(name);
    if (value && is_property(name, *value)) return;
    const std::size_t at = put(parcel_.text, name);
    parcel_.places.push_back(
        {at, name.size(), put(parcel_.text, value.value_or("")), value ? std::optional{value->size()} : std::nullopt});
  }

  void finish(const Event& event, std::string_view routing_key) {
    const Piece key = piece(routing_key);
    const Piece body = piece(event.data ? std::string_view{*event.data} : std::string_view{});
    const Piece id = piece(fitting(event.id));
    const Piece type = piece(fitting(event.type));
    const Piece story = piece(fitting(event.correlation_id));
    const Piece source = piece(fitting(event.source));

    for (const Parcel::Place& place : parcel_.places) {
      parcel_.headers.push_back(
          entry(shown({place.name, place.name_size}), shown({place.value, place.value_size.value_or(0)})));
      if (!place.value_size) parcel_.headers.back().value.kind = AMQP_FIELD_KIND_VOID;
    }
    if (!event.data) parcel_.headers.push_back(entry(null_header, true));

    amqp_basic_properties_t& properties = parcel_.properties;
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    properties.headers = amqp_table_t{static_cast<int>(parcel_.headers.size()), parcel_.headers.data()};
    set(properties.content_type, AMQP_BASIC_CONTENT_TYPE_FLAG, content_type_);
    set(properties.message_id, AMQP_BASIC_MESSAGE_ID_FLAG, id);
    set(properties.type, AMQP_BASIC_TYPE_FLAG, type);
    set(properties.correlation_id, AMQP_BASIC_CORRELATION_ID_FLAG, story);
    set(properties.app_id, AMQP_BASIC_APP_ID_FLAG, source);
    set(properties.content_encoding, AMQP_BASIC_CONTENT_ENCODING_FLAG, encoding_);
    set(properties.reply_to, AMQP_BASIC_REPLY_TO_FLAG, reply_to_);
    if (const auto time = parse_time(event.time)) {
      const auto seconds = std::chrono::floor<std::chrono::seconds>(time->time_since_epoch()).count();
      if (seconds >= 0) {
        properties.timestamp = static_cast<std::uint64_t>(seconds);
        properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
      }
    }
    if (priority_) {
      properties.priority = *priority_;
      properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
    }
    parcel_.routing_key = shown(key);
    parcel_.body = shown(body);
  }

 private:
  struct Piece {
    std::size_t at = 0;
    std::size_t size = 0;
  };

  Piece piece(std::string_view added) { return {put(parcel_.text, added), added.size()}; }
  [[nodiscard]] std::string_view shown(Piece piece) const {
    return std::string_view{parcel_.text.data(), parcel_.text.size()}.substr(piece.at, piece.size);
  }
  void set(amqp_bytes_t& field, amqp_flags_t flag, Piece value) {
    if (value.size == 0) return;
    field = bytes(shown(value));
    parcel_.properties._flags |= flag;
  }

  /// Each property takes the first header that stands for it and is no empty text.
  bool is_property(std::string_view name, std::string_view value) {
    if (value.size() > short_limit) return false;
    const auto take = [&](Piece& property) {
      if (property.size > 0) return false;
      property = piece(value);
      return true;
    };
    if (same_ignoring_case(name, "content-type") && take(content_type_)) return true;
    if (name == encoding_header && take(encoding_)) return true;
    if (name == reply_header && take(reply_to_)) return true;
    if (name != priority_header || priority_) return false;
    priority_ = number<std::uint8_t>(value);
    return priority_.has_value();
  }

  Parcel& parcel_;
  Piece content_type_{};
  Piece encoding_{};
  Piece reply_to_{};
  std::optional<std::uint8_t> priority_{};
};

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

void Parcel::shrink() {
  constexpr std::size_t small = std::size_t{16} << 10U;
  if (!raw && text.capacity() <= small) return;
  std::vector<char> kept;
  const std::string_view id = returned_id();
  kept.reserve(routing_key.size() + id.size());
  put(kept, routing_key);
  put(kept, id);
  const std::string_view all{kept.data(), kept.size()};
  const bool has_id = (properties._flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0;
  properties = {};
  if (has_id) {
    properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG;
    properties.message_id = bytes(all.substr(routing_key.size()));
  }
  routing_key = all.substr(0, routing_key.size());
  body = {};
  text = std::move(kept);
  headers.clear();
  raw.reset();
  raw_arrays.clear();
}

std::size_t Parcel::footprint() const noexcept {
  return sizeof(Parcel) + text.capacity() + headers.capacity() * sizeof(amqp_table_entry_t) + places.capacity() * sizeof(Place);
}

Parcel pack(const Event& event, std::string_view routing_key, Parcel&& room) {
  Parcel parcel;
  parcel.text = std::move(room.text);
  parcel.headers = std::move(room.headers);
  parcel.places = std::move(room.places);
  parcel.text.clear();
  parcel.headers.clear();
  parcel.places.clear();
  // What most events need, at once.
  parcel.text.reserve(512 + (event.data ? event.data->size() : 0));
  parcel.headers.reserve(12 + event.headers.size());
  parcel.places.reserve(12 + event.headers.size());
  Layout layout{parcel};
  try {
    encode_headers(event, Binding::amqp, [&layout](std::string_view name, const std::optional<std::string_view>& value) {
      layout.header(name, value);
    });
  } catch (const InvalidEvent& error) {
    parcel.refused = error.what();
  }
  if (parcel.refused.empty() && routing_key.size() > short_limit) {
    parcel.refused = "its routing key '" + std::string{routing_key.substr(0, 40)} + "…' has " +
                     std::to_string(routing_key.size()) +
                     " bytes and AMQP allows 255; shorten what it is made of, or route by " +
                     "something else (LaneChannelOptions::routing_key)";
  }
  if (parcel.refused.empty()) layout.finish(event, routing_key);
  return parcel;
}

std::size_t encoded_size(const amqp_basic_properties_t& p) {
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

Parcel repack(std::string_view encoded_properties, std::string_view body, const std::string& queue,
              std::optional<DelayQueue> through, std::uint32_t deliveries, const std::string& user) {
  Parcel parcel;
  parcel.raw = std::make_unique<RawProperties>(encoded_properties);
  parcel.properties = **parcel.raw;
  amqp_basic_properties_t& properties = parcel.properties;

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
    parcel.headers.push_back(item);
    if (!keep_null) ordered.push_back(item);
  }
  // What was retried before has been sorted since, and says how it was.
  const auto known = lookup(table, order_header);
  const std::string order = known ? canonical_text(*known).value_or("") : order_of(ordered);
  const std::string key = through ? through->name() : queue;
  parcel.through = std::move(through);
  parcel.text.reserve(key.size() + order.size() + body.size());
  for (const std::string_view part : {std::string_view{key}, std::string_view{order}, std::string_view{body}}) {
    put(parcel.text, part);
  }
  const std::string_view all{parcel.text.data(), parcel.text.size()};
  parcel.routing_key = all.substr(0, key.size());
  parcel.body = all.substr(key.size() + order.size());
  parcel.headers.push_back(entry(order_header, all.substr(key.size(), order.size())));
  parcel.headers.push_back(entry(deliveries_header, static_cast<std::int64_t>(deliveries)));
  properties.headers = amqp_table_t{static_cast<int>(parcel.headers.size()), parcel.headers.data()};
  properties._flags |= AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  // A shorter expiration would cut the delay short or drop the message; a user id other than ours closes the channel.
  properties._flags &= ~static_cast<amqp_flags_t>(AMQP_BASIC_EXPIRATION_FLAG);
  if (view(properties.user_id) != user) properties._flags &= ~static_cast<amqp_flags_t>(AMQP_BASIC_USER_ID_FLAG);
  return parcel;
}

}  // namespace penstock::lane
