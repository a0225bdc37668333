// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/dead_letter.hpp"
#include "penstock/envelope.hpp"

namespace penstock::fuzz {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "broken property: %s\n", what);
  std::abort();
}

/// Text as a message: "name: value" lines are headers, "name" alone a null one, "@…" is the key; an empty line begins the
/// payload. Readable, so that seeds and crashes are too.
inline Wire to_wire(std::string_view input) {
  Wire wire;
  while (!input.empty()) {
    const std::size_t end = input.find('\n');
    const std::string_view line = input.substr(0, end);
    input = end == std::string_view::npos ? std::string_view{} : input.substr(end + 1);
    if (line.empty()) {
      wire.payload.emplace(input);
      break;
    }
    const std::size_t colon = line.find(": ");
    if (line.front() == '@') {
      wire.key.emplace(line.substr(1));
    } else if (colon == std::string_view::npos) {
      wire.headers.push_back({std::string{line}, std::nullopt});
    } else {
      wire.headers.push_back({std::string{line.substr(0, colon)}, std::string{line.substr(colon + 2)}});
    }
  }
  return wire;
}

/// Any message is read or refused; what was read can be written in both modes and reads the same again; and what was refused
/// can be dead-lettered.
inline void check(const Wire& wire, Binding binding) {
  Event event;
  try {
    event = decode(wire, binding);
  } catch (const MalformedMessage& error) {
    DeadLetter letter;
    letter.group = "g";
    letter.message.wire = wire;
    letter.message.defect = error.what();
    validate(to_event(letter));
    return;
  }
  validate(event);
  Event used{.id = "id",
             .source = "/source",
             .type = "type",
             .subject = "subject",
             .key = "key",
             .data = "data",
             .content_type = "text/plain",
             .data_schema = "urn:schema",
             .time = "2026-01-01T00:00:00Z",
             .correlation_id = "correlation",
             .causation_id = "causation",
             .traceparent = "traceparent",
             .tracestate = "tracestate",
             .extensions = {{"extension", "value"}},
             .headers = {{"header", "value"}}};
  decode_into(wire, binding, used);
  if (!(used == event)) fail("nothing is left of the event that was there before");
  if (!(decode(encode(event, binding), binding) == event)) fail("binary mode keeps the event");
  const Event structured = decode(encode(event, binding, Mode::structured), binding);
  // Once the blanks around JSON data are gone, nothing changes any more.
  Event respaced = event;
  respaced.data = structured.data;
  if (!(structured == respaced)) fail("structured mode keeps everything but the data");
  if (event.data.has_value() != structured.data.has_value()) fail("structured mode tells null from no bytes");
  if (event.data && event.data->find(*structured.data) == std::string::npos)
    fail("structured mode keeps the data but for blanks");
  if (!(decode(encode(structured, binding, Mode::structured), binding) == structured)) fail("structured mode is stable");
}

inline int run(const std::uint8_t* data, std::size_t size, Binding binding) {
  check(to_wire({reinterpret_cast<const char*>(data), size}), binding);
  return 0;
}

}  // namespace penstock::fuzz
