// SPDX-License-Identifier: Apache-2.0
#include <array>
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

/// The full name of each attribute's header: `attributes` in their order, then specversion.
using Names = std::array<std::string, attributes.size() + 1>;

const Names& names_of(Binding binding) {
  static const auto names = [] {
    std::array<Names, 3> all;
    for (const Binding each : {Binding::kafka, Binding::amqp, Binding::nats}) {
      Names& of_binding = all.at(static_cast<std::size_t>(each));
      for (std::size_t i = 0; i < of_binding.size(); ++i) {
        of_binding.at(i) = prefix_of(each);
        of_binding.at(i) += i < attributes.size() ? attributes.at(i).name : "specversion";
      }
    }
    return all;
  }();
  return names.at(static_cast<std::size_t>(binding));
}

void write(const HeaderVisitor& header, Binding binding, std::string_view name, std::string_view value) {
  if (binding == Binding::nats && !percent::is_plain(value)) {
    header(name, percent::encode(value));
  } else {
    header(name, value);
  }
}

std::string decoded(const Header& header) {
  std::optional<std::string> value = percent::decode(*header.value);
  if (!value) {
    throw MalformedMessage{"malformed message: header " + text::shown(header.name) + " is " + text::shown(*header.value) +
                           ", which does not decode to UTF-8"};
  }
  return std::move(*value);
}

}  // namespace

void write_binary(const Event& event, Binding binding, const HeaderVisitor& header) {
  const Names& names = names_of(binding);
  write(header, binding, names.back(), spec_version);
  for (std::size_t i = 0; i < attributes.size(); ++i) {
    const Attribute& attribute = attributes[i];
    const std::string& value = event.*attribute.field;
    if (value.empty()) continue;
    if (attribute.field == &Event::content_type && binding != Binding::nats) {
      header(content_type_header, value);
    } else if (attribute.field != &Event::key || text::is_ce_string(value)) {
      write(header, binding, names[i], value);
    }
  }
  for (const auto& [extension, value] : event.extensions) {
    std::string name{prefix_of(binding)};
    name += extension;
    if (binding == Binding::amqp && name.size() > 255) {
      throw InvalidEvent{"extensions", text::shown(extension) + " is longer than AMQP allows (243 characters); shorten it"};
    }
    write(header, binding, name, value.text());
  }
  write_rest(event, binding, header);
  if (binding != Binding::kafka && event.data && event.data->empty()) header(data_header, "empty");
}

Event decode_binary(const Wire& wire, Binding binding, Event&& room) {
  AttributeReader reader{std::move(room)};
  std::optional<std::string_view> content_type;
  bool empty_data = false;
  std::string lower;
  for (const Header& header : wire.headers) {
    if (!header.value) continue;
    const std::string_view name = attribute_in(header.name, binding);
    if (!name.empty()) {
      lower.assign(name);
      for (char& c : lower) c = text::lower(c);
      if (binding == Binding::nats) {
        reader.set(lower, std::string_view{decoded(header)});
      } else {
        reader.set(lower, std::string_view{*header.value});
      }
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
  } else {
    event.data.reset();
  }
  read_rest(wire, binding, event);
  return std::move(reader).finish(prefix_of(binding));
}

}  // namespace penstock::envelope
