// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <chrono>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "penstock/dead_letter.hpp"
#include "penstock/envelope.hpp"
#include "penstock/random.hpp"
#include "penstock/retry_policy.hpp"
#include "penstock/uuid.hpp"

namespace penstock {

// Found by name lookup when a property fails.
void showValue(const Event& event, std::ostream& out) {
  const Wire wire = encode(event, Binding::kafka);
  rc::show(wire.key, out);
  for (const Header& header : wire.headers) {
    out << "\n  ";
    rc::show(header.name, out);
    out << ": ";
    rc::show(header.value, out);
  }
  out << "\n  ";
  rc::show(wire.payload, out);
}

namespace {

rc::Gen<std::string> bytes() { return rc::gen::string<std::string>(); }

/// A String of CloudEvents: pieces of every width of UTF-8 and all that headers and JSON must escape.
rc::Gen<std::string> text() {
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(
                          std::vector<std::string>{"a", "Z", "0", " ", "  ", "\"", "%", "%41", "\\", "\\u0041", "€",
                                                   "😀", "é", ",", ";", "=",  ":",  "/", "~",   "{",  "null"})),
                      [](const std::vector<std::string>& pieces) {
                        std::string all;
                        for (const std::string& piece : pieces) all += piece;
                        return all;
                      });
}

rc::Gen<std::string> text_of(std::string alphabet) {
  return rc::gen::container<std::string>(rc::gen::elementOf(std::move(alphabet)));
}

rc::Gen<std::string> non_empty(rc::Gen<std::string> gen) { return rc::gen::nonEmpty(std::move(gen)); }

rc::Gen<std::optional<std::string>> maybe(rc::Gen<std::string> gen) {
  return rc::gen::oneOf(rc::gen::just(std::optional<std::string>{}), rc::gen::map(std::move(gen), [](std::string value) {
                          return std::optional<std::string>{std::move(value)};
                        }));
}

std::string hex(std::uint64_t value) {
  std::string out(16, '0');
  for (std::size_t i = 0; i < 16; ++i) out[15 - i] = "0123456789abcdef"[(value >> (4 * i)) & 15U];
  return out;
}

Event any_event(bool nats_headers) {
  Event event;
  event.id = *non_empty(text());
  event.source = "/" + *text_of("abz09-._~!$&'()*+,;=:@/?");
  event.type = *non_empty(text());
  event.subject = *text();
  event.key = *rc::gen::oneOf(text(), bytes());
  event.content_type = *rc::gen::element<std::string>("", "application/json", "Application/X+JSON; charset=\"utf-8\"",
                                                      "text/plain", "application/octet-stream", "image/svg+xml");
  event.data = *maybe(rc::gen::oneOf(
      bytes(), text(), rc::gen::element<std::string>("{}", "null", "\"x\"", "[1,2.50,{\"a\":[]}]", "1e400", "-0")));
  event.data_schema = *rc::gen::element<std::string>("", "urn:a:b", "https://example.com/%20#x");
  event.time = *rc::gen::element<std::string>("", "2026-11-22T08:30:00Z", "0001-01-01t00:00:00.123456789+14:00");
  event.correlation_id = *text();
  event.causation_id = *text();
  if (*rc::gen::arbitrary<bool>()) {
    event.traceparent = "00-" + hex(*rc::gen::arbitrary<std::uint64_t>()) + "000000000000000a-" + "b00000000000000b-0" +
                        *rc::gen::element<std::string>("0", "1", "2", "3");
    event.tracestate = *rc::gen::element<std::string>("", "a=b", "a@b=1, c= d,,e=f");
  }
  const int extensions = *rc::gen::inRange(0, 4);
  for (int i = 0; i < extensions; ++i) {
    const auto value =
        *rc::gen::oneOf(rc::gen::map(text(), [](const std::string& v) { return ExtensionValue{v}; }),
                        rc::gen::map(rc::gen::arbitrary<bool>(), [](bool v) { return ExtensionValue{v}; }),
                        rc::gen::map(rc::gen::arbitrary<std::int32_t>(), [](std::int32_t v) { return ExtensionValue{v}; }),
                        rc::gen::map(bytes(), [](const std::string& v) { return ExtensionValue::binary(v); }));
    event.extensions.insert_or_assign("x" + *text_of("abcdefghijklmnopqrstuvwxyz0123456789"), value);
  }
  const int headers = *rc::gen::inRange(0, 4);
  for (int i = 0; i < headers; ++i) {
    std::string name = *rc::gen::element<std::string>("x-a", "X-A", "traceparent", "ce", "dlq-attempts", "x ü");
    if (nats_headers) {
      event.headers.push_back({std::move(name), *text()});
    } else {
      event.headers.push_back({std::move(name), *maybe(bytes())});
    }
  }
  return event;
}

/// Structured mode may drop the blanks around JSON data; nothing generated here has any unless it is text.
Event as_read_structured(Event event) {
  const bool json = event.content_type.find("son") != std::string::npos || event.content_type.find("SON") != std::string::npos;
  if (json && event.data && !event.data->empty()) {
    const std::size_t first = event.data->find_first_not_of(" \t\r\n");
    if (first != std::string::npos) {
      const std::string inner = event.data->substr(first, event.data->find_last_not_of(" \t\r\n") - first + 1);
      Event trimmed = event;
      trimmed.data = inner;
      // Only what is JSON is written as such.
      if (encode(trimmed, Binding::kafka, Mode::structured).payload ==
          encode(event, Binding::kafka, Mode::structured).payload) {
        return trimmed;
      }
    }
  }
  return event;
}

TEST(EnvelopeProperty, EveryValidEventSurvivesEveryCodecAndMode) {
  EXPECT_TRUE(rc::check("decode(encode(e)) == e", [] {
    for (const Binding binding : {Binding::kafka, Binding::amqp, Binding::nats}) {
      const Event event = any_event(binding == Binding::nats);
      validate(event);
      RC_ASSERT(decode(encode(event, binding), binding) == event);
      RC_ASSERT(decode(encode(event, binding, Mode::structured), binding) == as_read_structured(event));
    }
  }));
}

TEST(EnvelopeProperty, BinaryModeNeverTouchesThePayload) {
  EXPECT_TRUE(rc::check("payload == data", [] {
    const Event event = any_event(true);
    for (const Binding binding : {Binding::kafka, Binding::amqp, Binding::nats})
      RC_ASSERT(encode(event, binding).payload == event.data);
  }));
}

TEST(EnvelopeProperty, WhatIsWrittenToNatsIsPlainAscii) {
  EXPECT_TRUE(rc::check("attributes are printable", [] {
    Event event = any_event(true);
    event.headers.clear();
    for (const Header& header : encode(event, Binding::nats).headers) {
      for (const char c : header.name + header.value.value()) RC_ASSERT(c > 0x20 && c < 0x7f);
    }
  }));
}

TEST(EnvelopeProperty, ADeadLetterIsAValidEventWhateverDied) {
  EXPECT_TRUE(rc::check("validate(to_event(d))", [] {
    DeadLetter dead;
    dead.group = *text();
    if (*rc::gen::arbitrary<bool>()) dead.message.event = any_event(false);
    dead.message.wire.key = *maybe(bytes());
    dead.message.wire.payload = *maybe(bytes());
    dead.message.wire.headers = {{*bytes(), *maybe(bytes())}, {"ce_id", *maybe(bytes())}};
    dead.message.origin.channel = *bytes();
    dead.reason = *bytes();
    dead.attempts = {{.error = *bytes(), .at = *bytes()}};
    const Event event = to_event(dead);
    validate(event);
    RC_ASSERT(decode(encode(event, Binding::kafka), Binding::kafka) == event);
    RC_ASSERT(to_event(dead) == event);
  }));
}

TEST(RetryPolicyProperty, DelaysAreNeverNegativeNorAboveTheCap) {
  EXPECT_TRUE(rc::check("0 <= delay <= cap", [] {
    const RetryPolicy::Duration base{*rc::gen::inRange<std::int64_t>(0, std::numeric_limits<std::int64_t>::max())};
    const RetryPolicy::Duration cap{*rc::gen::inRange<std::int64_t>(0, std::numeric_limits<std::int64_t>::max())};
    auto policy = RetryPolicy::exponential(base, 1.0 + *rc::gen::inRange(0, 1000) / 10.0)
                      .cap(cap)
                      .attempts(std::numeric_limits<int>::max())
                      .jitter(*rc::gen::element(Jitter::none, Jitter::full, Jitter::equal));
    const auto random = Random::seeded(*rc::gen::arbitrary<std::uint64_t>());
    const auto delay = policy.delay(*rc::gen::inRange(1, std::numeric_limits<int>::max()), ErrorClass::transient, *random);
    RC_ASSERT(delay.has_value());
    RC_ASSERT(delay->count() >= 0);
    RC_ASSERT(*delay <= cap);
  }));
}

TEST(TimeProperty, WrittenTimesAreReadBack) {
  EXPECT_TRUE(rc::check("parse(format(t)) == t", [] {
    const std::chrono::system_clock::time_point time{
        std::chrono::microseconds{*rc::gen::inRange<std::int64_t>(-9'000'000'000'000'000, 9'000'000'000'000'000)}};
    RC_ASSERT(parse_time(format_time(time)) == time);
  }));
}

TEST(UuidProperty, LaterTimesSortLater) {
  EXPECT_TRUE(rc::check("t < u implies uuid7(t) < uuid7(u)", [] {
    const auto a = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 42);
    const auto b = a + *rc::gen::inRange<std::int64_t>(1, 1'000'000);
    const auto random = Random::seeded(*rc::gen::arbitrary<std::uint64_t>());
    using Point = std::chrono::system_clock::time_point;
    RC_ASSERT(uuid7(Point{std::chrono::milliseconds{a}}, *random) < uuid7(Point{std::chrono::milliseconds{b}}, *random));
  }));
}

}  // namespace
}  // namespace penstock
