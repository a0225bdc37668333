// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

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
/// foreign headers follow the attributes in their order.
PENSTOCK_EXPORT Wire encode(const Event& event, Binding binding, Mode mode = Mode::binary);

/// Reads either mode (throws MalformedMessage). Liberal in what it takes: attribute names in any case, unknown attributes as
/// extensions, a redundant `ce_datacontenttype`. Headers that are no attributes become `Event::headers`.
/// `decode(encode(e)) == e` for every valid event, binding and mode; except that structured mode may respace JSON data.
PENSTOCK_EXPORT Event decode(const Wire& wire, Binding binding);

}  // namespace penstock
