// SPDX-License-Identifier: Apache-2.0
#include "penstock/dead_letter.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "penstock/envelope.hpp"

namespace penstock {
namespace {

DeadLetter letter() {
  DeadLetter dead;
  dead.group = "fulfillment";
  Event& event = dead.message.event;
  event.id = "42";
  event.source = "/shop";
  event.type = "shop.order.placed.v1";
  event.key = "o-1";
  event.data = "{\"b\": 1.00}";
  event.content_type = "application/json";
  event.time = "2026-11-22T08:00:00Z";
  event.correlation_id = "story";
  event.causation_id = "41";
  event.extensions = {{"ext", "x"}};
  event.headers = {{"x-tenant", "t1"}, {"x-null", std::nullopt}};
  dead.message.origin = {.backend = "kafka", .channel = "order-events", .partition = 3, .position = 1234};
  dead.reason = "attempts exhausted: connection refused";
  dead.attempts = {{.number = 1, .error = "timeout", .at = "2026-11-22T08:30:00.000000Z"},
                   {.number = 2, .error = "connection refused", .at = "2026-11-22T08:31:00.000000Z"}};
  return dead;
}

std::string header(const Event& event, const std::string& name) {
  const auto count = std::count_if(event.headers.begin(), event.headers.end(), [&](const Header& h) { return h.name == name; });
  if (count != 1) return "<" + std::to_string(count) + ">";
  return std::find_if(event.headers.begin(), event.headers.end(), [&](const Header& h) { return h.name == name; })
      ->value.value();
}

DeadLetter malformed() {
  DeadLetter dead;
  dead.group = "fulfillment";
  dead.message.defect = "malformed message: no CloudEvent";
  dead.message.wire = {.key = "k-1",
                       .headers = {{"ce_id", "7"}, {"content-type", "text/plain"}, {"x-tenant", "t1"}, {"cloudEvents:x", "y"}},
                       .payload = "garbage \xff"};
  dead.message.origin = {.backend = "kafka", .channel = "order-events", .partition = 3, .position = 1234};
  return dead;
}

TEST(DeadLetter, CarriesTheOriginalUntouched) {
  const DeadLetter dead = letter();
  Event event = to_event(dead);
  EXPECT_NE(event.id, dead.message.event.id);
  EXPECT_EQ(header(event, "dlq-original-id"), "42");
  event.id = dead.message.event.id;
  event.headers.resize(2);
  EXPECT_EQ(event, dead.message.event);
}

TEST(DeadLetter, SaysWhereFromAndWhy) {
  const Event event = to_event(letter());
  EXPECT_EQ(header(event, "dlq-original-topic"), "order-events");
  EXPECT_EQ(header(event, "dlq-partition"), "3");
  EXPECT_EQ(header(event, "dlq-offset"), "1234");
  EXPECT_EQ(header(event, "dlq-consumer-group"), "fulfillment");
  EXPECT_EQ(header(event, "dlq-timestamp"), "2026-11-22T08:00:00Z");
  EXPECT_EQ(header(event, "dlq-attempts"), "2");
  EXPECT_EQ(header(event, "dlq-first-failed-at"), "2026-11-22T08:30:00.000000Z");
  EXPECT_EQ(header(event, "dlq-last-failed-at"), "2026-11-22T08:31:00.000000Z");
  EXPECT_EQ(header(event, "dlq-error-class"), "attempts exhausted");
  EXPECT_EQ(header(event, "dlq-error-message"), "connection refused");
}

TEST(DeadLetter, LeavesOutWhatIsNotKnown) {
  DeadLetter dead = letter();
  dead.message.origin = {.backend = "rabbitmq", .channel = "jobs"};
  dead.attempts.clear();
  dead.reason = "address unknown";
  const Event event = to_event(dead);
  EXPECT_EQ(header(event, "dlq-partition"), "<0>");
  EXPECT_EQ(header(event, "dlq-offset"), "<0>");
  EXPECT_EQ(header(event, "dlq-first-failed-at"), "<0>");
  EXPECT_EQ(header(event, "dlq-attempts"), "0");
  EXPECT_EQ(header(event, "dlq-error-class"), "error");
  EXPECT_EQ(header(event, "dlq-error-message"), "address unknown");
}

TEST(DeadLetter, HasAnIdThatRepeats) {
  EXPECT_EQ(to_event(letter()).id, to_event(letter()).id);
  DeadLetter other = letter();
  other.group = "billing";
  EXPECT_NE(to_event(other).id, to_event(letter()).id);
}

TEST(DeadLetter, HasAShortErrorOnOneLine) {
  DeadLetter dead = letter();
  dead.attempts.back().error = "line one\r\nline two\x01 \xff" + std::string(5000, 'x');
  const std::string error = header(to_event(dead), "dlq-error-message");
  EXPECT_EQ(error.substr(0, 22), "line one  line two  ?x");
  EXPECT_EQ(error.size(), 1024U);
  for (std::string text : {std::string(1023, 'x') + "€", std::string(1500, ' ')}) {
    dead.attempts.back().error = text;
    EXPECT_NO_THROW(encode(to_event(dead), Binding::nats)) << text.substr(0, 2);
  }
}

TEST(Rule16, TheCountSurvivesBeingDeadLetteredAgain) {
  DeadLetter again = letter();
  again.message.event = to_event(letter());
  again.message.event.headers.push_back({"dlq-replay-count", "1"});
  again.attempts = {{.number = 1, .error = "HTTP 500", .at = "2026-11-23T00:00:00.000000Z"}};
  const Event event = to_event(again);
  EXPECT_EQ(header(event, "dlq-attempts"), "3");
  EXPECT_EQ(header(event, "dlq-first-failed-at"), "2026-11-22T08:30:00.000000Z");
  EXPECT_EQ(header(event, "dlq-last-failed-at"), "2026-11-23T00:00:00.000000Z");
  EXPECT_EQ(header(event, "dlq-error-message"), "HTTP 500");
  EXPECT_EQ(header(event, "dlq-replay-count"), "1");
  EXPECT_EQ(header(event, "x-tenant"), "t1");

  again.group = "billing";  // its own failures only
  EXPECT_EQ(header(to_event(again), "dlq-attempts"), "1");
  EXPECT_EQ(header(to_event(again), "dlq-first-failed-at"), "2026-11-23T00:00:00.000000Z");
}

TEST(DeadLetter, OfWhatWasNoEventIsOne) {
  const Event event = to_event(malformed());
  EXPECT_NO_THROW(validate(event));
  EXPECT_EQ(event.type, "penstock.malformed.v1");
  EXPECT_EQ(event.source, "/penstock/fulfillment");
  EXPECT_EQ(event.data, "garbage \xff");
  EXPECT_EQ(event.key, "k-1");
  EXPECT_EQ(header(event, "dlq-header-ce_id"), "7");
  EXPECT_EQ(header(event, "dlq-header-content-type"), "text/plain");
  EXPECT_EQ(header(event, "dlq-header-cloudEvents:x"), "y");
  EXPECT_EQ(header(event, "x-tenant"), "t1");
  EXPECT_EQ(header(event, "dlq-error-class"), "malformed");
  EXPECT_EQ(header(event, "dlq-error-message"), "malformed message: no CloudEvent");
  EXPECT_EQ(header(event, "dlq-offset"), "1234");
  EXPECT_EQ(header(event, "dlq-original-id"), "<0>");
  EXPECT_EQ(decode(encode(event, Binding::kafka), Binding::kafka), event);
  EXPECT_EQ(decode(encode(event, Binding::amqp), Binding::amqp), event);
}

TEST(DeadLetter, OfWhatWasNoEventHasAnIdThatRepeatsForThatMessageOnly) {
  EXPECT_EQ(to_event(malformed()).id, to_event(malformed()).id);
  DeadLetter next = malformed();
  next.message.origin.position = 1235;
  EXPECT_NE(to_event(next).id, to_event(malformed()).id);
  DeadLetter other = malformed();
  other.message.wire.payload = std::nullopt;
  EXPECT_NE(to_event(other).id, to_event(malformed()).id);
  EXPECT_EQ(to_event(other).data, std::nullopt);
}

TEST(DeadLetter, OfWhatWasNoEventKeepsAKeyThatIsNoText) {
  DeadLetter dead = malformed();
  dead.message.wire.key = "\xff\x01";
  dead.group = "not a uri";
  const Event event = to_event(dead);
  EXPECT_NO_THROW(validate(event));
  EXPECT_EQ(event.key, "");
  EXPECT_EQ(header(event, "dlq-original-key-base64"), "/wE=");
}

TEST(DeadLetter, OfAnInvalidEventIsStillValid) {
  DeadLetter dead = letter();
  dead.message.event.source = "not a uri";
  EXPECT_EQ(to_event(dead).type, "penstock.malformed.v1");
  EXPECT_NO_THROW(validate(to_event(dead)));
}

}  // namespace
}  // namespace penstock
