// SPDX-License-Identifier: Apache-2.0
#include "penstock/envelope.hpp"

#include <gtest/gtest.h>

#include <string>

namespace penstock {
namespace {

constexpr Binding all_bindings[] = {Binding::kafka, Binding::amqp, Binding::nats};
constexpr Mode all_modes[] = {Mode::binary, Mode::structured};

Event full_event() {
  Event event;
  event.id = "A234-1234-1234";
  event.source = "https://github.com/cloudevents?q=a%20b#x";
  event.type = "com.example.someevent.v1";
  event.subject = "Euro € 😀";
  event.key = "order \"17\" 100%";
  event.data = R"({"b": 1.00, "a": 12345678901234567890123})";
  event.content_type = "application/json; charset=utf-8";
  event.data_schema = "urn:schema:1.0";
  event.time = "2018-04-05T17:31:00Z";
  event.correlation_id = "story";
  event.causation_id = "cause";
  event.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01";
  event.tracestate = "foo=1, bar=2";
  event.extensions = {{"comexampleextension1", "value"}, {"flag", true}, {"number", -5}, {"bytes", ExtensionValue::binary("\x01")}};
  event.headers = {{"x-one", "1"}, {"X-Other", "two"}, {"x-one", "again"}, {"empty", ""}};
  return event;
}

TEST(Envelope, EveryAttributeSurvivesEveryBindingAndMode) {
  for (const Binding binding : all_bindings) {
    for (const Mode mode : all_modes) {
      EXPECT_EQ(decode(encode(full_event(), binding, mode), binding), full_event())
          << static_cast<int>(binding) << "/" << static_cast<int>(mode);
    }
  }
}

}  // namespace
}  // namespace penstock
