// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/attributes.hpp"
#include "core/envelope_internal.hpp"
#include "core/percent.hpp"
#include "core/text.hpp"

namespace penstock::envelope {
namespace {

void write(Wire& wire, Binding binding, std::string_view name, std::string_view value) {
  std::string header{prefix_of(binding)};
  header += name;
  if (binding == Binding::amqp && header.size() > 255) {
    throw InvalidEvent{"extensions", text::shown(name) + " is longer than AMQP allows (243 characters); shorten it"};
  }
  wire.headers.push_back({std::move(header), binding == Binding::nats ? percent::encode(value) : std::string{value}});
}

std::string read(const Header& header, Binding binding) {
  if (binding != Binding::nats) return *header.value;
  std::optional<std::string> value = percent::decode(*header.value);
  if (!value) {
    throw MalformedMessage{"malformed message: header " + text::shown(header.name) + " is " + text::shown(*header.value) +
                           ", which does not decode to UTF-8"};
  }
  return std::move(*value);
}

}  // namespace

Wire encode_binary(const Event& event, Binding binding) {
  Wire wire;
  wire.headers.reserve(8 + event.extensions.size() + event.headers.size());
  write(wire, binding, "specversion", spec_version);
  for (const Attribute& attribute : attributes) {
    const std::string& value = event.*attribute.field;
    if (value.empty()) continue;
    if (attribute.field == &Event::content_type && binding != Binding::nats) {
      wire.headers.push_back({std::string{content_type_header}, value});
    } else if (attribute.field != &Event::key || text::is_ce_string(value)) {
      write(wire, binding, attribute.name, value);
    }
  }
  for (const auto& extension : event.extensions) write(wire, binding, extension.first, extension.second.text());
  write_rest(event, binding, wire);
  if (binding != Binding::kafka && event.data && event.data->empty()) {
    wire.headers.push_back({std::string{data_header}, "empty"});
  }
  wire.payload = event.data;
  return wire;
}

Event decode_binary(const Wire& wire, Binding binding) {
  AttributeReader reader;
  std::optional<std::string_view> content_type;
  bool empty_data = false;
  std::string lower;
  for (const Header& header : wire.headers) {
    if (!header.value) continue;
    const std::string_view name = attribute_in(header.name, binding);
    if (!name.empty()) {
      lower.assign(name);
      for (char& c : lower) c = text::lower(c);
      reader.set(lower, read(header, binding));
    } else if (text::iequals(header.name, content_type_header)) {
      content_type = *header.value;
    } else if (binding != Binding::kafka && text::iequals(header.name, data_header)) {
      empty_data = *header.value == "empty";
    }
  }
  Event& event = reader.event();
  // The binding's own place for the content type wins over a redundant one.
  if (content_type && !text::trim(*content_type).empty() && (binding != Binding::nats || event.content_type.empty())) {
    event.content_type = text::trim(*content_type);
  }
  if (binding == Binding::kafka || (wire.payload && !wire.payload->empty())) {
    event.data = wire.payload;
  } else if (empty_data) {
    event.data.emplace();
  }
  read_rest(wire, binding, event);
  return std::move(reader).finish(prefix_of(binding));
}

}  // namespace penstock::envelope
