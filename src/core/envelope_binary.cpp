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

/// The full name of each attribute's header, by its place.
using Names = std::array<std::string, attributes.size() + 1>;

const Names& names_of(Binding binding) {
  static const auto names = [] {
    std::array<Names, 3> all;
    for (const Binding each : {Binding::kafka, Binding::amqp, Binding::nats}) {
      Names& of_binding = all.at(static_cast<std::size_t>(each));
      for (std::size_t i = 0; i < of_binding.size(); ++i) {
        of_binding.at(i) = prefix_of(each);
        of_binding.at(i) += i == specversion_place ? "specversion" : attributes.at(i).name;
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

/// The place of an attribute whose header is named exactly as we write it; the size of `names` for any other. It is looked for
/// from `first` on, as messages of one producer have their headers in one order.
std::size_t place_of(std::string_view header, const Names& names, std::size_t first) {
  for (std::size_t tries = 0, place = first; tries < names.size(); ++tries, ++place) {
    if (place == names.size()) place = 0;
    if (names[place] == header) return place;
  }
  return names.size();
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

void decode_binary(const Wire& wire, Binding binding, Event& event) {
  AttributeReader reader{event};
  const Names& names = names_of(binding);
  std::size_t place = specversion_place;
  std::optional<std::string_view> content_type;
  bool empty_data = false;
  bool others = false;
  std::string lower;
  for (const Header& header : wire.headers) {
    if (!header.value) {
      others = true;
      continue;
    }
    const bool encoded = binding == Binding::nats && !percent::is_plain(*header.value);
    if (const std::size_t found = place_of(header.name, names, place); found < names.size()) {
      reader.set_at(found, encoded ? std::string_view{decoded(header)} : std::string_view{*header.value});
      place = found + 1;
    } else if (const std::string_view name = attribute_in(header.name, binding); !name.empty()) {
      lower.assign(name);
      for (char& c : lower) c = text::lower(c);
      reader.set(lower, encoded ? std::string_view{decoded(header)} : std::string_view{*header.value});
    } else if (text::iequals(header.name, content_type_header)) {
      content_type = *header.value;
    } else if (binding != Binding::kafka && text::iequals(header.name, data_header)) {
      empty_data = *header.value == "empty";
    } else {
      others = true;
    }
  }
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
  if (others || event.key.empty()) read_rest(wire, binding, event);
  reader.finish(prefix_of(binding));
}

}  // namespace penstock::envelope
