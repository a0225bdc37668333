// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/envelope.hpp"

namespace penstock::envelope {

inline constexpr std::string_view content_type_header = "content-type";

/// Two headers of penstock's own, for what AMQP and NATS have no place for.
inline constexpr std::string_view key_header = "penstock-key";  ///< base64 of an ordering key that is no text
inline constexpr std::string_view data_header =
    "penstock-data";  ///< `empty`: zero bytes of data, where an empty payload is none

/// What the binding writes before an attribute's name.
[[nodiscard]] std::string_view prefix_of(Binding binding) noexcept;

/// The attribute's name inside a header's name, as written; empty when the header is no attribute in that binding.
[[nodiscard]] std::string_view attribute_in(std::string_view header, Binding binding) noexcept;

/// Whether the binding reads the header by itself, so that no foreign one may have its name.
[[nodiscard]] bool is_own(std::string_view header, Binding binding) noexcept;

using HeaderVisitor = std::function<void(std::string_view name, const std::optional<std::string_view>& value)>;

/// Puts copies into the message.
[[nodiscard]] HeaderVisitor into(Wire& wire);

/// Gives foreign headers, and the key where it is a header, in their order. Throws InvalidEvent for a header the binding cannot
/// carry.
void write_rest(const Event& event, Binding binding, const HeaderVisitor& header);
/// Takes them back; what the binding reads by itself is left out. Throws MalformedMessage.
void read_rest(const Wire& wire, Binding binding, Event& event);

void write_binary(const Event& event, Binding binding, const HeaderVisitor& header);
void decode_binary(const Wire& wire, Binding binding, Event& event);
[[nodiscard]] Wire encode_structured(const Event& event, Binding binding);
void decode_structured(const Wire& wire, Binding binding, Event& event);

}  // namespace penstock::envelope
