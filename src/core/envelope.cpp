// SPDX-License-Identifier: Apache-2.0
#include "penstock/envelope.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "core/base64.hpp"
#include "core/envelope_internal.hpp"
#include "core/syntax.hpp"
#include "core/text.hpp"

namespace penstock {
namespace envelope {
namespace {

/// Most bytes of an AMQP header's name (a short string).
constexpr std::size_t longest_amqp_name = 255;

/// Why the binding cannot carry a foreign header; null when it can.
const char* obstacle(const Header& header, Binding binding) noexcept {
  if (is_own(header.name, binding)) return "has a name that is read as an attribute; set the attribute instead";
  switch (binding) {
    case Binding::kafka: return nullptr;
    case Binding::amqp:
      return header.name.size() > longest_amqp_name ? "has a name longer than AMQP's 255 bytes; shorten it" : nullptr;
    case Binding::nats: break;
  }
  constexpr std::string_view breaks{"\r\n\0", 3};
  if (header.name.empty() || header.name.find(':') != std::string::npos ||
      header.name.find_first_of(breaks) != std::string::npos) {
    return "has a name NATS cannot carry; use letters, digits and dashes";
  }
  if (header.value && header.value->find_first_of(breaks) != std::string::npos) {
    return "has a line break or NUL in its value, which NATS cannot carry; encode it";
  }
  return nullptr;
}

bool is_cloudevents_content_type(const Header& header) {
  return header.value && text::iequals(header.name, content_type_header) && syntax::is_cloudevents(*header.value);
}

/// Some SDKs send structured events over NATS without any header.
bool is_bare_structured(const Wire& wire, Binding binding) {
  if (binding != Binding::nats || !wire.payload) return false;
  for (const Header& header : wire.headers) {
    if (!attribute_in(header.name, binding).empty()) return false;
  }
  const std::size_t first = wire.payload->find_first_not_of(" \t\r\n");
  return first != std::string::npos && (*wire.payload)[first] == '{';
}

}  // namespace

std::string_view prefix_of(Binding binding) noexcept {
  switch (binding) {
    case Binding::kafka: return "ce_";
    case Binding::amqp: return "cloudEvents_";
    case Binding::nats: return "ce-";
  }
  return "ce_";
}

std::string_view attribute_in(std::string_view header, Binding binding) noexcept {
  constexpr std::array<std::string_view, 4> amqp{"cloudEvents_", "cloudEvents:", "ce-", "ce_"};
  const auto after = [&](std::string_view prefix) {
    if (!text::istarts_with(header, prefix)) return std::string_view{};
    const std::string_view name = header.substr(prefix.size());
    return syntax::is_attribute_name(name) ? name : std::string_view{};
  };
  if (binding != Binding::amqp) return after(prefix_of(binding));
  for (const std::string_view prefix : amqp) {
    const std::string_view name = after(prefix);
    if (!name.empty()) return name;
  }
  return {};
}

bool is_own(std::string_view header, Binding binding) noexcept {
  if (!attribute_in(header, binding).empty() || text::iequals(header, content_type_header)) return true;
  return binding != Binding::kafka && (text::iequals(header, key_header) || text::iequals(header, data_header));
}

HeaderVisitor into(Wire& wire) {
  return [&wire](std::string_view name, const std::optional<std::string_view>& value) {
    wire.headers.push_back({std::string{name}, value ? std::optional<std::string>{*value} : std::nullopt});
  };
}

void write_rest(const Event& event, Binding binding, const HeaderVisitor& write) {
  for (const Header& header : event.headers) {
    if (const char* why = obstacle(header, binding)) {
      throw InvalidEvent{"headers", text::shown(header.name) + " " + why};
    }
    // NATS has no null.
    const bool null = !header.value && binding != Binding::nats;
    write(header.name,
          null ? std::nullopt : std::optional{std::string_view{header.value ? *header.value : std::string_view{}}});
  }
  if (binding != Binding::kafka && !event.key.empty() && !text::is_ce_string(event.key)) {
    write(key_header, base64::encode(event.key));
  }
}

void read_rest(const Wire& wire, Binding binding, Event& event) {
  for (const Header& header : wire.headers) {
    if (binding != Binding::kafka && header.value && text::iequals(header.name, key_header)) {
      auto key = base64::decode(*header.value);
      if (!key) {
        throw MalformedMessage{"malformed message: header '" + std::string{key_header} + "' is " + text::shown(*header.value) +
                               ", which is no base64"};
      }
      if (event.key.empty()) event.key = std::move(*key);
    }
    if (is_own(header.name, binding)) continue;
    if (const char* why = obstacle(header, binding)) {
      throw MalformedMessage{"malformed message: header " + text::shown(header.name) + " " + why};
    }
    event.headers.push_back(header);
    if (binding == Binding::nats && !header.value) event.headers.back().value.emplace();
  }
  if (binding == Binding::kafka && event.key.empty() && wire.key) event.key = *wire.key;
}

}  // namespace envelope

void encode_headers(const Event& event, Binding binding, const envelope::HeaderVisitor& header) {
  validate(event);
  envelope::write_binary(event, binding, header);
}

Wire encode(const Event& event, Binding binding, Mode mode) {
  validate(event);
  if (mode == Mode::structured) return envelope::encode_structured(event, binding);
  Wire wire;
  wire.headers.reserve(8 + event.extensions.size() + event.headers.size());
  envelope::write_binary(event, binding, envelope::into(wire));
  if (binding == Binding::kafka && !event.key.empty()) wire.key = event.key;
  wire.payload = event.data;
  return wire;
}

Event decode(const Wire& wire, Binding binding, Event&& room) {
  decode_into(wire, binding, room);
  return std::move(room);
}

void decode_into(const Wire& wire, Binding binding, Event& event) {
  if (std::any_of(wire.headers.begin(), wire.headers.end(), envelope::is_cloudevents_content_type) ||
      envelope::is_bare_structured(wire, binding)) {
    envelope::decode_structured(wire, binding, event);
  } else {
    envelope::decode_binary(wire, binding, event);
  }
}

}  // namespace penstock
