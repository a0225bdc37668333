// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "penstock/event.hpp"

namespace penstock {

/// A message as a broker carries it: key, headers, payload, all opaque. Null and empty are different things.
struct Wire {
  std::optional<std::string> key{};
  Headers headers{};
  std::optional<std::string> payload{};
  friend bool operator==(const Wire&, const Wire&) = default;
};

/// Which CloudEvents protocol binding names and escapes the headers.
enum class Binding : std::uint8_t {
  kafka,  ///< `ce_<name>`, `content-type`; key = partitionkey                              (kafka-protocol-binding 1.0.2)
  amqp,   ///< `cloudEvents_<name>` headers, `content-type`; read: also `cloudEvents:`, `ce-`, `ce_` (amqp-protocol-binding)
  nats    ///< `ce-<name>`, values percent-encoded, `ce-datacontenttype`                     (nats-protocol-binding)
};

/// How the event is laid out. Both modes are read everywhere; binary is written unless asked otherwise.
enum class Mode : std::uint8_t { binary, structured };

/// A message that is no CloudEvent, or a broken one. `what()` names the attribute or header, the value and the reason.
class PENSTOCK_EXPORT MalformedMessage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Lays out a valid event (throws InvalidEvent otherwise). In binary mode the payload is the data, byte for byte, and
/// foreign headers follow the attributes in their order, duplicates and nulls included.
///
/// The key is text, or any bytes: on Kafka it is the message key, and also `ce_partitionkey` when it is text; elsewhere it is
/// the attribute, or base64 in the header `penstock-key` when it is no text. Payloads of AMQP and NATS cannot be null, so there
/// an empty one means null, and zero bytes of data are marked by the header `penstock-data: empty`. A foreign header that the
/// binding would read as an attribute, or cannot carry (NATS: line breaks, NUL), is InvalidEvent; a null one is empty on NATS.
PENSTOCK_EXPORT Wire encode(const Event& event, Binding binding, Mode mode = Mode::binary);

/// Gives the headers of `encode` in binary mode one by one, in their order, without making copies; the views end with the call.
/// The rest of the message is the event's own: `data`, and on Kafka the key. Throws as `encode`, before the first header or
/// between two.
PENSTOCK_EXPORT void encode_headers(
    const Event& event, Binding binding,
    const std::function<void(std::string_view name, const std::optional<std::string_view>& value)>& header);

/// Reads either mode (throws MalformedMessage). Liberal in what it takes: attribute names in any case, unknown attributes as
/// extensions, a redundant `ce_datacontenttype`, values NATS clients did not encode, structured JSON without a content type on
/// NATS; a broken trace context is left out. Headers that are no attributes become `Event::headers`, and a Kafka key without
/// `ce_partitionkey` becomes `Event::key`, byte for byte. Batches and event formats other than JSON are MalformedMessage.
/// `decode(encode(e)) == e` for every valid event, binding and mode; except that structured mode may respace JSON data.
///
/// The strings of `room`, an event that is needed no more, lend their memory to the new one.
PENSTOCK_EXPORT Event decode(const Wire& wire, Binding binding, Event&& room = {});

/// The same in its place: overwrites an event that is needed no more. What is in it after an exception is of no use.
PENSTOCK_EXPORT void decode_into(const Wire& wire, Binding binding, Event& event);

}  // namespace penstock
