// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "penstock/export.hpp"

namespace penstock {

/// The value of a CloudEvents extension: a type and its canonical text (CloudEvents 1.0.2, "Type System").
///
/// Binary mode carries the text alone, so two values are equal when their texts are: types are a courtesy of structured
/// mode. Thread safety: a value. Lifetime: owns its text.
class PENSTOCK_EXPORT ExtensionValue {
 public:
  enum class Type : std::uint8_t { string, boolean, integer, binary };

  ExtensionValue(std::string text) : text_{std::move(text)} {}                           // NOLINT(google-explicit-constructor)
  ExtensionValue(const char* text) : text_{text} {}                                      // NOLINT(google-explicit-constructor)
  ExtensionValue(bool value) : type_{Type::boolean}, text_{value ? "true" : "false"} {}  // NOLINT
  ExtensionValue(std::int32_t value) : type_{Type::integer}, text_{std::to_string(value)} {}  // NOLINT

  /// Bytes, held as base64 (RFC 4648, padded).
  static ExtensionValue binary(std::string_view bytes);

  [[nodiscard]] Type type() const noexcept { return type_; }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  /// The text read as that type, whatever mode it travelled in; empty when it is not one.
  [[nodiscard]] std::optional<bool> as_boolean() const;
  [[nodiscard]] std::optional<std::int32_t> as_integer() const;
  [[nodiscard]] std::optional<std::string> as_binary() const;

  friend bool operator==(const ExtensionValue& a, const ExtensionValue& b) { return a.text_ == b.text_; }

 private:
  Type type_ = Type::string;
  std::string text_;
};

/// One header of a message as it travels. A name may repeat, order is kept (RabbitMQ 4 sorts by name), and a value may be null
/// (Kafka).
struct Header {
  std::string name{};
  std::optional<std::string> value{};
  friend bool operator==(const Header&, const Header&) = default;
};
using Headers = std::vector<Header>;

/// A business event: the attributes of CloudEvents 1.0, opaque payload bytes, and whatever headers it came with.
///
///     Event placed{.type = "shop.order.placed.v1", .key = order.id, .data = to_json(order)};
///
/// An empty string is an attribute that is not set; Outbox::append, MemoryBroker and Context::emit fill in `id` (UUIDv7, or
/// derived), `source`, `time` and `content_type`, and leave what is set alone. The payload is never parsed or changed;
/// `data` without a value is null (a tombstone on a compacted Kafka topic), which is not the same as zero bytes.
///
/// Thread safety: a value. Lifetime: owns everything.
struct Event {
  std::string id{};                   ///< with `source`, the identity: equal pairs are duplicates
  std::string source{};               ///< URI-reference of the producer
  std::string type{};                 ///< reverse-DNS name, with its version: "shop.order.placed.v1"
  std::string subject{};              ///< what the event is about, inside the source
  std::string key{};                  ///< ordering key (`partitionkey`); events of one key stay in order
  std::optional<std::string> data{};  ///< the payload, opaque
  std::string content_type{};         ///< `datacontenttype`, RFC 2046
  std::string data_schema{};          ///< `dataschema`, absolute URI
  std::string time{};                 ///< RFC 3339, kept as written
  std::string correlation_id{};       ///< `correlationid`: the story this event belongs to
  std::string causation_id{};         ///< `causationid`: the id of the event that caused it
  std::string traceparent{};          ///< W3C trace context at creation, frozen
  std::string tracestate{};
  std::map<std::string, ExtensionValue> extensions{};  ///< every other CloudEvents attribute
  Headers headers{};                                   ///< headers that are no CloudEvents attributes; carried untouched

  friend bool operator==(const Event&, const Event&) = default;
};

/// An event that breaks CloudEvents 1.0. `what()` names the attribute, the value and the remedy.
class PENSTOCK_EXPORT InvalidEvent : public std::invalid_argument {
 public:
  InvalidEvent(std::string attribute, const std::string& message);
  [[nodiscard]] const std::string& attribute() const noexcept { return attribute_; }

 private:
  std::string attribute_;
};

/// Throws InvalidEvent unless the event is complete and valid: id, source and type set, URIs, time, media type and trace
/// context well formed, names of extensions lower-case letters and digits and none a core attribute's, texts free of
/// control characters. Does not look at the payload.
PENSTOCK_EXPORT void validate(const Event& event);

/// RFC 3339 in UTC with microseconds: "2026-11-22T08:30:00.000001Z".
PENSTOCK_EXPORT std::string format_time(std::chrono::system_clock::time_point time);

/// Reads any RFC 3339 time; empty when the text is none. Digits below the clock's resolution are dropped, and a year beyond
/// its range (1677 to 2262) is read as its end.
PENSTOCK_EXPORT std::optional<std::chrono::system_clock::time_point> parse_time(std::string_view text);

}  // namespace penstock
