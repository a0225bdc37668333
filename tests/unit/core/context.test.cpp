// SPDX-License-Identifier: Apache-2.0
#include "penstock/context.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <stop_token>

#include "penstock/source.hpp"
#include "penstock/uuid.hpp"

namespace penstock {
namespace {

Message cause() {
  Message message;
  message.event.id = "42";
  message.event.source = "/shop";
  message.event.type = "shop.order.placed.v1";
  message.event.key = "o-1";
  message.event.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01";
  message.event.tracestate = "a=b";
  return message;
}

TEST(Context, FillsInWhatIsNotSet) {
  const Message message = cause();
  Context context{message, "fulfillment", "", 1, nullptr, {}};
  context.emit({.type = "shop.order.shipped.v1", .key = "o-1", .data = "{}"});
  const Event& event = context.emitted().at(0);
  EXPECT_EQ(event.id, derived_id("fulfillment", "/shop", "42", 0));
  EXPECT_EQ(event.source, "/penstock/fulfillment");
  EXPECT_EQ(event.correlation_id, "42");  // the message began the story
  EXPECT_EQ(event.causation_id, "42");
  EXPECT_EQ(event.traceparent, message.event.traceparent);
  EXPECT_EQ(event.tracestate, "a=b");
  EXPECT_EQ(event.content_type, "application/json");
  EXPECT_EQ(event.key, "o-1");
}

TEST(Context, LeavesAloneWhatIsSet) {
  const Message message = cause();
  Context context{message, "fulfillment", "/warehouse", 1, nullptr, {}};
  Event event{.id = "7", .source = "/mine", .type = "t", .data = "x", .content_type = "text/plain"};
  event.correlation_id = "c";
  event.causation_id = "d";
  event.traceparent = "00-11111111111111111111111111111111-2222222222222222-00";
  context.emit(event);
  EXPECT_EQ(context.emitted().at(0), event);
}

TEST(Context, GoesOnWithTheStory) {
  Message message = cause();
  message.event.correlation_id = "story";
  Context context{message, "g", "/warehouse", 1, nullptr, {}};
  context.emit({.type = "t"});
  EXPECT_EQ(context.emitted().at(0).correlation_id, "story");
  EXPECT_EQ(context.emitted().at(0).causation_id, "42");
  EXPECT_EQ(context.emitted().at(0).source, "/warehouse");
  EXPECT_EQ(context.emitted().at(0).content_type, "");  // no data, no type
}

TEST(Context, DerivesTheSameIdsAgainForARepeat) {
  const Message message = cause();
  Context first{message, "g", "", 1, nullptr, {}};
  Context second{message, "g", "", 2, nullptr, {}};
  for (Context* context : {&first, &second}) {
    for (int i = 0; i < 3; ++i) context->emit({.type = "t"});
  }
  EXPECT_EQ(first.emitted(), second.emitted());
  EXPECT_NE(first.emitted().at(0).id, first.emitted().at(1).id);
  Context other{message, "h", "", 1, nullptr, {}};
  other.emit({.type = "t"});
  EXPECT_NE(other.emitted().at(0).id, first.emitted().at(0).id);
}

TEST(Context, RefusesAnInvalidEventAndKeepsTheOthers) {
  const Message message = cause();
  Context context{message, "g", "", 1, nullptr, {}};
  context.emit({.type = "t"});
  EXPECT_THROW(context.emit({.type = ""}), InvalidEvent);
  EXPECT_THROW(context.emit({.type = "t", .subject = "a\nb"}), InvalidEvent);
  EXPECT_EQ(context.emitted().size(), 1U);
}

TEST(Context, HasOneIdempotencyKeyForAllAttempts) {
  Message message = cause();
  const std::string key = Context{message, "g", "", 1, nullptr, {}}.idempotency_key();
  EXPECT_EQ((Context{message, "g", "/other", 5, nullptr, {}}.idempotency_key()), key);
  EXPECT_NE((Context{message, "h", "", 1, nullptr, {}}.idempotency_key()), key);
  message.event.source = "/elsewhere";
  EXPECT_NE((Context{message, "g", "", 1, nullptr, {}}.idempotency_key()), key);
  EXPECT_FALSE(key.empty());
}

TEST(Context, KnowsItsAttemptAndStop) {
  const Message message = cause();
  std::stop_source stop;
  const Context context{message, "g", "", 3, nullptr, stop.get_token()};
  EXPECT_EQ(context.attempt(), 3);
  EXPECT_FALSE(context.stop_token().stop_requested());
  stop.request_stop();
  EXPECT_TRUE(context.stop_token().stop_requested());
}

TEST(Context, SaysThatThereIsNoTransaction) {
  const Message message = cause();
  const Context context{message, "g", "", 1, nullptr, {}};
  try {
    static_cast<void>(&context.tx());
    FAIL();
  } catch (const std::logic_error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("PostgresDatastore"));
  }
}

}  // namespace
}  // namespace penstock
