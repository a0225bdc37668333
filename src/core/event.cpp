// SPDX-License-Identifier: Apache-2.0
#include "penstock/event.hpp"

#include <charconv>
#include <cstddef>

#include "core/attributes.hpp"
#include "core/base64.hpp"
#include "core/syntax.hpp"
#include "core/text.hpp"
#include "core/trace_context.hpp"

namespace penstock {
namespace {

[[noreturn]] void invalid(std::string_view attribute, std::string_view value, std::string_view remedy) {
  throw InvalidEvent{std::string{attribute}, text::shown(value) + " " + std::string{remedy}};
}

void require(const std::string& value, const char* attribute, const char* remedy) {
  if (value.empty()) throw InvalidEvent{attribute, std::string{"is not set; "} + remedy};
}

void validate_extension(const std::string& name, const ExtensionValue& value) {
  bool lower = true;
  for (const char c : name) lower = lower && !(c >= 'A' && c <= 'Z');
  if (!lower || !syntax::is_attribute_name(name)) {
    throw InvalidEvent{"extensions", text::shown(name) + " is no attribute name; use lower-case letters and digits only" +
                                         (name == "data" ? ", and not 'data', which is the payload" : "")};
  }
  if (is_core_attribute(name)) {
    throw InvalidEvent{"extensions", text::shown(name) + " is no extension; set the member of Event that stands for it"};
  }
  if (!text::is_ce_string(value.text())) {
    invalid(name, value.text(), "is not UTF-8 without control characters; use ExtensionValue::binary for bytes");
  }
}

}  // namespace

InvalidEvent::InvalidEvent(std::string attribute, const std::string& message)
    : std::invalid_argument{"invalid event: " + attribute + " " + message}, attribute_{std::move(attribute)} {}

ExtensionValue ExtensionValue::binary(std::string_view bytes) {
  ExtensionValue value{base64::encode(bytes)};
  value.type_ = Type::binary;
  return value;
}

std::optional<bool> ExtensionValue::as_boolean() const {
  // Some SDKs write "True" and "False".
  if (text::iequals(text_, "true")) return true;
  if (text::iequals(text_, "false")) return false;
  return std::nullopt;
}

std::optional<std::int32_t> ExtensionValue::as_integer() const {
  std::int32_t value = 0;
  const char* end = text_.data() + text_.size();
  const auto [stop, error] = std::from_chars(text_.data(), end, value);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

std::optional<std::string> ExtensionValue::as_binary() const { return base64::decode(text_); }

void validate(const Event& event) {
  require(event.id, "id", "give each event an id that is unique for its source, as uuid7()");
  require(event.source, "source", "name the producer by a URI-reference, as \"/shop/orders-api\"");
  require(event.type, "type", "give a reverse-DNS name with its version, as \"shop.order.placed.v1\"");
  for (const Attribute& attribute : attributes) {
    const std::string& value = event.*attribute.field;
    // The ordering key is bytes to a broker; one that is no text travels beside the attributes.
    if (attribute.field != &Event::key && !text::is_ce_string(value)) {
      invalid(attribute.name, value, "is not UTF-8 without control characters; remove them or encode the value");
    }
  }
  if (!syntax::is_uri_reference(event.source)) {
    invalid("source", event.source, "is no URI-reference; percent-encode what a URI cannot hold, as %20 for a space");
  }
  if (!event.data_schema.empty() && !syntax::is_absolute_uri(event.data_schema)) {
    invalid("dataschema", event.data_schema, "is no absolute URI; begin it with a scheme, as \"urn:\" or \"https:\"");
  }
  if (!event.time.empty() && !syntax::is_time(event.time)) {
    invalid("time", event.time, "is no RFC 3339 time; write it as format_time() does, as \"2026-11-22T08:30:00Z\"");
  }
  if (!event.content_type.empty() && !syntax::is_media_type(event.content_type)) {
    invalid("datacontenttype", event.content_type, "is no media type; write it as \"application/json\"");
  }
  if (syntax::is_cloudevents(event.content_type)) {
    invalid("datacontenttype", event.content_type,
            "marks a message in structured mode; a payload that is a CloudEvent itself needs another type");
  }
  if (!event.traceparent.empty() && !parse_traceparent(event.traceparent)) {
    invalid("traceparent", event.traceparent, "is no W3C trace parent; leave it empty to carry no trace");
  }
  if (!event.tracestate.empty()) {
    if (event.traceparent.empty()) {
      invalid("tracestate", event.tracestate, "comes without a traceparent; set both or neither");
    }
    if (!parse_tracestate(event.tracestate)) {
      invalid("tracestate", event.tracestate, "is no W3C trace state; leave it empty to carry none");
    }
  }
  for (const auto& extension : event.extensions) validate_extension(extension.first, extension.second);
  for (const Header& header : event.headers) {
    if (header.name.find('\0') != std::string::npos) {
      invalid("headers", header.name, "has a NUL in its name, which no broker carries; remove it");
    }
  }
}

}  // namespace penstock
