// SPDX-License-Identifier: Apache-2.0
#include "core/attributes.hpp"

#include <utility>

#include "core/text.hpp"
#include "core/trace_context.hpp"
#include "penstock/envelope.hpp"

namespace penstock {
namespace {

[[noreturn]] void conflict(std::string_view name, std::string_view a, std::string_view b) {
  throw MalformedMessage{"malformed message: attribute " + text::shown(name) + " is given twice, as " + text::shown(a) +
                         " and " + text::shown(b) + "; the producer must send it once"};
}

void clean_trace(Event& event, bool twice) {
  event.traceparent = text::trim(event.traceparent);
  event.tracestate = text::trim(event.tracestate);
  if (twice || !text::is_ce_string(event.traceparent) || !parse_traceparent(event.traceparent)) event.traceparent.clear();
  if (event.traceparent.empty() || !text::is_ce_string(event.tracestate) || !parse_tracestate(event.tracestate)) {
    event.tracestate.clear();
  }
}

}  // namespace

AttributeReader::AttributeReader(Event& event) : event_{event} {
  for (const Attribute& attribute : attributes) {
    (event_.*attribute.field).clear();
  }
  event_.extensions.clear();
  event_.headers.clear();
}

void AttributeReader::set(std::string_view name, const ExtensionValue& value) {
  const std::size_t known = find_attribute(name);
  if (known < attributes.size() || name == "specversion") {
    set_at(known, value.text());
    return;
  }
  const auto [place, added] = event_.extensions.try_emplace(std::string{name}, value);
  if (!added && !(place->second == value)) conflict(name, place->second.text(), value.text());
}

void AttributeReader::set(std::string_view name, std::string_view value) {
  const std::size_t known = find_attribute(name);
  if (known < attributes.size() || name == "specversion") {
    set_at(known, value);
  } else {
    set(name, ExtensionValue{std::string{value}});
  }
}

void AttributeReader::set_at(std::size_t place, std::string_view value) {
  std::string& field = place == specversion_place ? version_ : event_.*attributes[place].field;
  if (field.empty()) {
    field = value;
  } else if (!value.empty() && field != value) {
    const std::string_view name = place == specversion_place ? "specversion" : attributes[place].name;
    if (name != "traceparent" && name != "tracestate") conflict(name, field, value);
    trace_twice_ = true;
  }
}

void AttributeReader::finish(std::string_view prefix) {
  const auto missing = [&](std::string_view name) {
    throw MalformedMessage{"malformed message: no CloudEvent, as '" + std::string{prefix} + std::string{name} +
                           "' is missing or empty; send CloudEvents 1.0 in binary or structured mode"};
  };
  if (event_.id.empty()) missing("id");
  if (event_.source.empty()) missing("source");
  if (event_.type.empty()) missing("type");
  if (version_.empty()) missing("specversion");
  if (version_ != spec_version) {
    throw MalformedMessage{"malformed message: '" + std::string{prefix} + "specversion' is " + text::shown(version_) +
                           "; only CloudEvents 1.0 is read"};
  }
  clean_trace(event_, trace_twice_);
  try {
    validate(event_);
  } catch (const InvalidEvent& error) {
    throw MalformedMessage{std::string{"malformed message: "} + error.what()};
  }
}

}  // namespace penstock
