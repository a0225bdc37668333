// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "penstock/event.hpp"

namespace penstock {

/// A CloudEvents attribute that has a member of Event to itself.
struct Attribute {
  std::string_view name;
  std::string Event::*field;
  /// Defined by CloudEvents itself and always a string; the others are well-known extensions.
  bool core;
};

inline constexpr std::array<Attribute, 12> attributes{{
    {"id", &Event::id, true},
    {"source", &Event::source, true},
    {"type", &Event::type, true},
    {"time", &Event::time, true},
    {"subject", &Event::subject, true},
    {"datacontenttype", &Event::content_type, true},
    {"dataschema", &Event::data_schema, true},
    {"partitionkey", &Event::key, false},
    {"correlationid", &Event::correlation_id, false},
    {"causationid", &Event::causation_id, false},
    {"traceparent", &Event::traceparent, false},
    {"tracestate", &Event::tracestate, false},
}};

inline constexpr std::string_view spec_version = "1.0";
/// The version of the envelope is no member of Event; it stands behind all others.
inline constexpr std::size_t specversion_place = attributes.size();

/// The place of a name in `attributes`, or its size. The name is in lower case.
[[nodiscard]] inline std::size_t find_attribute(std::string_view name) noexcept {
  std::size_t i = 0;
  while (i < attributes.size() && attributes[i].name != name) ++i;
  return i;
}

/// Whether a lower-case name is taken, so that no extension may have it.
[[nodiscard]] inline bool is_core_attribute(std::string_view name) noexcept {
  return name == "specversion" || find_attribute(name) < attributes.size();
}

/// Collects the attributes of a message that is being read, whatever mode it came in.
///
/// Lifetime: the event must outlive it.
class AttributeReader {
 public:
  /// Empties the event, but for its data, and uses the room of its strings.
  explicit AttributeReader(Event& event);

  /// Takes one attribute by its lower-case name. Throws MalformedMessage when it was given before with another value.
  void set(std::string_view name, const ExtensionValue& value);
  /// The same for text that need not be kept.
  void set(std::string_view name, std::string_view value);
  /// The same for one that is known, by its place in `attributes`, or `specversion_place`.
  void set_at(std::size_t place, std::string_view value);

  /// Checks the event with these attributes; `prefix` is what the message writes before their names, for errors.
  /// Throws MalformedMessage. A broken trace context is left out: it must never cost the message.
  void finish(std::string_view prefix);

 private:
  Event& event_;
  std::string version_{};
  bool trace_twice_ = false;
};

}  // namespace penstock
