// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/attributes.hpp"
#include "core/base64.hpp"
#include "core/envelope_internal.hpp"
#include "core/json_text.hpp"
#include "core/syntax.hpp"
#include "core/text.hpp"

namespace penstock::envelope {
namespace {

using json_text::append_literal;

[[noreturn]] void malformed(const std::string& what) { throw MalformedMessage{"malformed message: " + what}; }

void append_member(std::string& out, std::string_view name, std::string_view value) {
  if (out.size() > 1) out.push_back(',');
  append_literal(out, name);
  out.push_back(':');
  out += value;
}

void append_text(std::string& out, std::string_view name, std::string_view text) {
  append_member(out, name, {});
  append_literal(out, text);
}

void append_extension(std::string& out, const std::string& name, const ExtensionValue& value) {
  // A number or truth value whose text is not the canonical one would come back changed.
  const std::string& text = value.text();
  const bool boolean = value.type() == ExtensionValue::Type::boolean && (text == "true" || text == "false");
  const auto integer = value.type() == ExtensionValue::Type::integer ? value.as_integer() : std::nullopt;
  if (boolean || (integer && std::to_string(*integer) == text)) {
    append_member(out, name, text);
  } else {
    append_text(out, name, text);
  }
}

void append_data(std::string& out, const Event& event) {
  const std::string& data = *event.data;
  const bool json = syntax::is_json(event.content_type);
  // A JSON null would be read as no data at all.
  if (json && json_text::is_valid(data) && json_text::trimmed(data) != "null") {
    append_member(out, "data", json_text::trimmed(data));
  } else if (!json && syntax::is_text(event.content_type) && text::is_utf8(data)) {
    append_text(out, "data", data);
  } else {
    append_text(out, "data_base64", base64::encode(data));
  }
}

}  // namespace

Wire encode_structured(const Event& event, Binding binding) {
  Wire wire;
  wire.headers.reserve(2 + event.headers.size());
  wire.headers.push_back({binding == Binding::nats ? "Content-Type" : std::string{content_type_header},
                          "application/cloudevents+json; charset=UTF-8"});
  write_rest(event, binding, into(wire));
  if (binding == Binding::kafka && !event.key.empty()) wire.key = event.key;

  std::string json{"{"};
  json.reserve(512 + (event.data ? event.data->size() : 0));
  append_text(json, "specversion", spec_version);
  for (const Attribute& attribute : attributes) {
    const std::string& value = event.*attribute.field;
    if (!value.empty() && (attribute.field != &Event::key || text::is_ce_string(value))) {
      append_text(json, attribute.name, value);
    }
  }
  for (const auto& extension : event.extensions) append_extension(json, extension.first, extension.second);
  if (event.data) append_data(json, event);
  json.push_back('}');
  wire.payload = std::move(json);
  return wire;
}

namespace {

/// The value of an attribute; empty for null, which is an attribute that is not set.
std::optional<ExtensionValue> attribute_value(const std::string& name, std::string_view value) {
  const char first = value.empty() ? '\0' : value.front();
  if (first == '"') return ExtensionValue{json_text::string_of(value)};
  if (value == "null") return std::nullopt;
  const std::size_t known = find_attribute(name);
  const bool text_only = name == "specversion" || (known < attributes.size() && attributes[known].core);
  if (first == '{' || first == '[' || text_only) {
    malformed("attribute " + text::shown(name) + " is " + text::shown(value) + "; it must be a JSON string");
  }
  if (value == "true" || value == "false") return ExtensionValue{value == "true"};
  const ExtensionValue text{std::string{value}};
  const auto integer = text.as_integer();
  return integer && std::to_string(*integer) == value ? ExtensionValue{*integer} : text;
}

void read_data(Event& event, std::string_view data, std::string_view data_base64) {
  if (!data.empty() && !data_base64.empty()) malformed("it has both 'data' and 'data_base64'; only one may be there");
  if (!data_base64.empty()) {
    auto bytes = data_base64.front() == '"' ? base64::decode(json_text::string_of(data_base64)) : std::nullopt;
    if (!bytes) malformed("'data_base64' is " + text::shown(data_base64) + ", which is no base64 string");
    event.data = std::move(*bytes);
  }
  if (data.empty()) return;
  if (event.content_type.empty()) event.content_type = "application/json";
  const bool text = !syntax::is_json(event.content_type) && data.front() == '"';
  event.data = text ? json_text::string_of(data) : std::string{data};
}

}  // namespace

void decode_structured(const Wire& wire, Binding binding, Event& event) {
  for (const Header& header : wire.headers) {
    if (!header.value || !text::iequals(header.name, content_type_header)) continue;
    const std::string_view type = text::trim(std::string_view{*header.value}.substr(0, header.value->find(';')));
    if (text::istarts_with(type, "application/cloudevents-batch")) {
      malformed("it is a batch (" + text::shown(type) + "); batches are not read, send one event per message");
    }
    if (syntax::is_cloudevents(type) && !text::iequals(type, "application/cloudevents+json") &&
        !text::iequals(type, "application/cloudevents")) {
      malformed("its event format " + text::shown(type) + " is not read; send application/cloudevents+json");
    }
  }
  std::string_view json = wire.payload ? std::string_view{*wire.payload} : std::string_view{};
  if (json.substr(0, 3) == "\xEF\xBB\xBF") json.remove_prefix(3);
  if (!json_text::is_valid(json)) malformed("its structured payload is no JSON in UTF-8");
  const auto members = json_text::members(json);
  if (!members) malformed("its structured payload is no JSON object");

  AttributeReader reader{event};
  event.data.reset();
  std::string_view data;
  std::string_view data_base64;
  std::string lower;
  for (const json_text::Member& member : *members) {
    if (member.name == "data" || member.name == "data_base64") {
      std::string_view& place = member.name == "data" ? data : data_base64;
      if (!place.empty() && place != member.value) malformed("'" + member.name + "' is given twice");
      if (member.value != "null") place = member.value;
      continue;
    }
    lower = member.name;
    for (char& c : lower) c = text::lower(c);
    if (!syntax::is_attribute_name(lower)) {
      malformed("member " + text::shown(member.name) + " is no attribute name; use lower-case letters and digits only");
    }
    if (const auto value = attribute_value(lower, member.value)) reader.set(lower, *value);
  }
  read_data(event, data, data_base64);
  read_rest(wire, binding, event);
  reader.finish("");
}

}  // namespace penstock::envelope
