// SPDX-License-Identifier: Apache-2.0
#include "penstock/consumer.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <stdexcept>

#include "consumer_support.hpp"

namespace penstock::test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(ConsumerTest, HandlesAndAcknowledges) {
  const auto consumer = run([this](const Message& message, Context& context) {
    seen.add(message.id());
    context.emit({.type = "test.followed.v1", .key = message.key()});
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(seen.all(), ElementsAre("a-1"));
  ASSERT_EQ(store.emitted().size(), 1U);
  EXPECT_EQ(store.emitted()[0].causation_id, "a-1");
  EXPECT_EQ(store.emitted()[0].source, "/penstock/shipping");
  EXPECT_EQ(consumer->status().done, 1U);
  EXPECT_TRUE(script->closed());
}

TEST_F(ConsumerTest, Rule10_ADuplicateIsAcknowledgedAndNotHandled) {
  const auto consumer = run([this](const Message& message, Context&) {
    seen.add(message.id());
    return Verdict::done();
  });
  for (int i = 0; i < 5; ++i) {
    script->deliver(numbered("a", 1));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 5; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1"));
  EXPECT_TRUE(eventually([&] { return consumer->status().duplicates == 4; }));
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerTest, Rule10_AFailedHandlerLeavesNoDoneMark) {
  std::atomic<int> attempts{0};
  const auto consumer = run([&](const Message&, Context&) -> Verdict {
    if (++attempts < 3) throw std::runtime_error{"not yet"};
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return attempts == 1 && store.parked("shipping") == 1; }));
  clock.advance(1s);
  ASSERT_TRUE(eventually([&] { return attempts == 2; }));
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 1;
  }));
  EXPECT_EQ(attempts, 3);
  EXPECT_EQ(store.parked("shipping"), 0U);
  EXPECT_THAT(script->acked(), ElementsAre("a-1"));
}

TEST_F(ConsumerTest, Rule11_AnAckCoversExactlyWhatWasProcessed) {
  options.workers = {2, 2};
  Gate gate;
  const auto consumer = run([&](const Message& message, Context&) {
    if (message.key() == "slow") gate.pass();
    return Verdict::done();
  });
  script->deliver(numbered("slow", 1));
  script->deliver(numbered("quick", 1));
  script->deliver(numbered("quick", 2));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_THAT(script->acked(), ElementsAre("quick-1", "quick-2"));
  gate.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
}

TEST_F(ConsumerTest, Rule14_TheNextAttemptComesWhenItsTimeHasComeAndNotBefore) {
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  const auto consumer = run([&](const Message& message, Context& context) {
    seen.add(message.id() + "#" + std::to_string(context.attempt()));
    return message.key() == "a" && context.attempt() == 1 ? Verdict::retry("later") : Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 1; }));
  clock.advance(59min);
  script->deliver(numbered("other", 1));  // shows that the consumer has turned meanwhile
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "other-1#1"));
  clock.advance(1min);
  ASSERT_TRUE(eventually([&] { return consumer->status().done == 2; }));
  EXPECT_EQ(seen.all().back(), "a-1#2");
}

TEST_F(ConsumerTest, Rule14_RetryAfterIsALowerBound) {
  options.retry = RetryPolicy::fixed(1s).attempts(3);
  const auto consumer = run([&](const Message& message, Context& context) {
    seen.add(message.id() + "#" + std::to_string(context.attempt()));
    return message.key() == "a" && context.attempt() == 1 ? Verdict::retry_after(1h) : Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 1; }));
  clock.advance(30min);
  script->deliver(numbered("b", 1));
  ASSERT_TRUE(eventually([&] { return seen.size() == 2; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "b-1#1"));
  clock.advance(30min);
  ASSERT_TRUE(eventually([&] { return seen.size() == 3; }));
  EXPECT_EQ(seen.all().back(), "a-1#2");
}

TEST_F(ConsumerTest, Rule14_StopIsNeitherSuccessNorAFailedAttempt) {
  Gate started;
  {
    const auto consumer = run([&](const Message& message, Context& context) {
      seen.add(message.id() + "#" + std::to_string(context.attempt()));
      started.open();
      while (!context.stop_token().stop_requested()) std::this_thread::yield();
      if (message.key() == "throws") throw std::runtime_error{"interrupted"};
      return Verdict::retry("interrupted");
    });
    script->deliver(numbered("a", 1));
    started.pass();
    EXPECT_TRUE(consumer->stop());
    EXPECT_EQ(consumer->status().done, 0U);
    EXPECT_EQ(consumer->status().parked, 0U);
  }
  EXPECT_THAT(script->acked(), IsEmpty());
  EXPECT_EQ(store.parked("shipping"), 0U);
  EXPECT_TRUE(store.dead_letters().empty());

  // Delivered again, it is fresh, and this is the first attempt.
  script = std::make_shared<Script>();
  const auto consumer = run([&](const Message& message, Context& context) {
    seen.add(message.id() + "#" + std::to_string(context.attempt()));
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-1#1"));
}

TEST_F(ConsumerTest, Rule15_ParkedMessagesDoNotCountAgainstIntakeAndBlockNoOtherKey) {
  options.in_flight = 2;
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  options.systemic.rejected = 0;
  const auto consumer = run([&](const Message& message, Context&) {
    if (message.key().starts_with("bad")) return Verdict::retry("no");
    seen.add(message.id());
    return Verdict::done();
  });
  for (int i = 0; i < 50; ++i) script->deliver(numbered("bad" + std::to_string(i), 1));
  for (int i = 0; i < 50; ++i) script->deliver(numbered("bad0", 2 + i));
  for (int i = 0; i < 50; ++i) script->deliver(numbered("good" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 150; }));
  EXPECT_EQ(seen.size(), 50U);
  EXPECT_EQ(store.parked("shipping"), 100U);
  EXPECT_LE(script->most_unsettled(), 2U);
}

TEST_F(ConsumerTest, Rule15_TheSuccessorsOfAParkedMessageFollowItInTheirOrder) {
  options.workers = {4, 4};
  options.retry = RetryPolicy::fixed(1min).attempts(3);
  std::mutex mutex;
  std::map<std::string, Strings> order;
  const auto consumer = run([&](const Message& message, Context& context) {
    if (message.id().ends_with("-1") && context.attempt() < 3) return Verdict::retry("not yet");
    const std::lock_guard guard{mutex};
    order[message.key()].push_back(message.id());
    return Verdict::done();
  });
  for (int number = 1; number <= 20; ++number) {
    for (const char* key : {"a", "b", "c"}) script->deliver(numbered(key, number));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 60; }));
  EXPECT_EQ(store.parked("shipping"), 60U);
  ASSERT_TRUE(eventually([&] {
    clock.advance(1min);
    return consumer->status().done == 60;
  }));
  for (const auto& [key, ids] : order) {
    ASSERT_EQ(ids.size(), 20U);
    for (int number = 1; number <= 20; ++number) {
      EXPECT_EQ(ids[static_cast<std::size_t>(number - 1)], key + "-" + std::to_string(number));
    }
  }
}

TEST_F(ConsumerTest, Rule15_ParkedMessagesWithoutAKeyBlockNothing) {
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    return message.id() == "free-1" ? Verdict::retry("no") : Verdict::done();
  });
  for (int number = 1; number <= 5; ++number) script->deliver(numbered("", number));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 5; }));
  EXPECT_EQ(consumer->status().done, 4U);
  EXPECT_EQ(store.parked("shipping"), 1U);
}

TEST_F(ConsumerTest, Rule16_UsedUpAttemptsBecomeADeadLetterWithItsHistory) {
  const auto consumer = run([&](const Message&, Context& context) -> Verdict {
    throw std::runtime_error{"failure " + std::to_string(context.attempt())};
  });
  const Event event = numbered("a", 1);
  script->deliver(event);
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return store.dead_letters().size() == 1;
  }));
  const DeadLetter letter = store.dead_letters()[0];
  EXPECT_EQ(letter.group, "shipping");
  EXPECT_EQ(letter.message.wire, encode(event, Binding::kafka));
  EXPECT_EQ(letter.reason, "attempts exhausted: failure 3");
  ASSERT_EQ(letter.attempts.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(letter.attempts[i].number, static_cast<int>(i) + 1);
    EXPECT_EQ(letter.attempts[i].error, "failure " + std::to_string(i + 1));
    EXPECT_THAT(letter.attempts[i].at, HasSubstr("2026-01-01T"));
    EXPECT_FALSE(letter.attempts[i].host.empty());
  }
  // Counted right after the commit.
  EXPECT_TRUE(eventually([&] {
    const ConsumerStatus status = consumer->status();
    return status.dead == 1 && status.last_error == "attempts exhausted: failure 3";
  }));

  // Its message waits in the log, under the channel's route, and is no event of the handler's.
  EXPECT_TRUE(store.emitted().empty());
  const auto cursor = store.cursor("dead", {dead_letters_of("jobs")});
  ASSERT_TRUE(cursor->acquire());
  const auto entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].event.data, event.data);
}

TEST_F(ConsumerTest, Rule16_TheDeadLetterIsWrittenBeforeTheMessageIsAcknowledged) {
  store.set_away(false);
  options.retry = RetryPolicy::none();
  const auto consumer = run([&](const Message&, Context&) {
    store.set_away(true);  // between the handler and the dead letter
    return Verdict::reject("address unknown");
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().paused; }));
  EXPECT_THAT(script->acked(), IsEmpty());
  EXPECT_EQ(consumer->status().dead, 0U);
}

TEST_F(ConsumerTest, RejectionIsADeadLetterAtOnceAndItsKeyGoesOn) {
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    return message.id() == "a-1" ? Verdict::reject("address unknown") : Verdict::done();
  });
  script->deliver(numbered("a", 1));
  script->deliver(numbered("a", 2));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1", "a-2"));
  ASSERT_EQ(store.dead_letters().size(), 1U);
  EXPECT_EQ(store.dead_letters()[0].reason, "address unknown");
  EXPECT_EQ(store.dead_letters()[0].attempts.size(), 1U);
}

TEST_F(ConsumerTest, AMessageThatIsNoEventIsADeadLetterAndNeverHandled) {
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    return Verdict::done();
  });
  Message broken;
  broken.wire.payload = std::string{"\x00\xff what", 7};
  broken.defect = "no ce_id header";
  script->deliver(broken);
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1"));
  ASSERT_EQ(store.dead_letters().size(), 1U);
  EXPECT_EQ(store.dead_letters()[0].message.wire, broken.wire);
  EXPECT_EQ(store.dead_letters()[0].reason, "no ce_id header");
}

TEST_F(ConsumerTest, AnIdNoStoreCanHoldIsADeadLetterAndHoldsUpNothing) {
  const auto consumer = run([&](const Message&, Context&) { return Verdict::done(); });
  for (const std::string& id : {std::string{"bad\0id", 6}, std::string{"\xff\xfe"}, std::string(5'000, 'x')}) {
    Message message;
    message.event = numbered("a", 1);
    message.event.id = id;
    message.wire.payload = "{}";
    script->deliver(message);
  }
  script->deliver(numbered("a", 2));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 4; }));
  EXPECT_EQ(store.dead_letters().size(), 3U);
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerTest, Rule20_IdentityIsSourceAndIdNeverThePayload) {
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.event.source + " " + message.id());
    return Verdict::done();
  });
  Event first = numbered("a", 1);
  Event same_payload = first;
  same_payload.id = "a-2";
  Event other_source = first;
  other_source.source = "/elsewhere";
  Event other_payload = first;
  other_payload.data = "{}";
  for (const Event& event : {first, same_payload, other_source, other_payload}) script->deliver(event);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 4; }));
  EXPECT_THAT(seen.all(), ElementsAre("/test a-1", "/test a-2", "/elsewhere a-1"));
  EXPECT_TRUE(eventually([&] { return consumer->status().duplicates == 1; }));
}

TEST_F(ConsumerTest, KeepsTheOrderOfEveryKeyWithManyWorkers) {
  options.workers = {8, 8};
  std::mutex mutex;
  std::map<std::string, std::vector<int>> order;
  std::set<std::string> in_work;
  const auto consumer = run([&](const Message& message, Context&) {
    {
      const std::lock_guard guard{mutex};
      EXPECT_TRUE(in_work.insert(message.key()).second) << "two at once for one key";
    }
    std::this_thread::yield();
    const std::lock_guard guard{mutex};
    order[message.key()].push_back(std::stoi(message.id().substr(message.id().find('-') + 1)));
    in_work.erase(message.key());
    return Verdict::done();
  });
  for (int number = 0; number < 100; ++number) {
    for (int key = 0; key < 10; ++key) script->deliver(numbered("k" + std::to_string(key), number));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1'000; }));
  for (const auto& [key, numbers] : order) {
    EXPECT_EQ(numbers.size(), 100U);
    EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end())) << key;
  }
}

TEST_F(ConsumerTest, TakesNoMoreThanInFlightAndKeepsTheSourceAlive) {
  options.in_flight = 3;
  Gate gate;
  const auto consumer = run([&](const Message&, Context&) {
    gate.pass();
    return Verdict::done();
  });
  for (int number = 0; number < 20; ++number) script->deliver(numbered("", number));
  ASSERT_TRUE(eventually([&] { return script->paused(); }));
  EXPECT_EQ(script->unsettled(), 3U);
  const int polls = script->polls();
  ASSERT_TRUE(eventually([&] { return script->polls() > polls + 3; }));
  gate.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 20; }));
  EXPECT_EQ(script->most_unsettled(), 3U);
  EXPECT_FALSE(script->paused());
}

TEST_F(ConsumerTest, TouchesWhatIsInFlight) {
  Gate gate;
  const auto consumer = run([&](const Message&, Context&) {
    gate.pass();
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  script->deliver(numbered("a", 2));
  ASSERT_TRUE(eventually([&] { return consumer->status().in_flight == 2; }));
  EXPECT_THAT(script->touched(), IsEmpty());
  clock.advance(5s);
  ASSERT_TRUE(eventually([&] { return script->touched().size() == 2; }));
  EXPECT_THAT(script->touched(), ::testing::UnorderedElementsAre("a-1", "a-2"));
  gate.open();
}

TEST_F(ConsumerTest, GrowsWhileWorkWaitsAndShrinksWhenIdle) {
  options.workers = {1, 4};
  Gate gate;
  const auto consumer = run([&](const Message&, Context&) {
    gate.pass();
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return consumer->status().workers == 1; }));
  for (int number = 0; number < 10; ++number) script->deliver(numbered("", number));
  ASSERT_TRUE(eventually([&] { return consumer->status().workers == 4; }));
  gate.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 10; }));
  ASSERT_TRUE(eventually([&] {
    clock.advance(5s);
    return consumer->status().workers == 1;
  }));
  script->deliver(numbered("", 11));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 11; }));
}

TEST_F(ConsumerTest, DrainsLettingHandlersEndAndGivingBackWhatWaits) {
  Gate started;
  Gate gate;
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    started.open();
    gate.pass();
    return Verdict::done();
  });
  for (int number = 1; number <= 5; ++number) script->deliver(numbered("a", number));
  started.pass();
  ASSERT_TRUE(eventually([&] { return consumer->status().in_flight == 5; }));
  consumer->request_stop();
  gate.open();
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(seen.all(), ElementsAre("a-1"));
  EXPECT_THAT(script->acked(), ElementsAre("a-1"));
  EXPECT_TRUE(script->closed());
  EXPECT_EQ(consumer->status().workers, 0);
}

TEST_F(ConsumerTest, SaysWhenTheDrainTookTooLong) {
  options.drain_timeout = 10ms;
  Gate started;
  Gate gate;
  const auto consumer = run([&](const Message&, Context&) {
    started.open();
    gate.pass();
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  started.pass();
  consumer->request_stop();
  const int polls = script->polls();
  ASSERT_TRUE(eventually([&] { return script->polls() > polls + 2; }));
  gate.open();
  EXPECT_FALSE(consumer->stop());
  EXPECT_THAT(script->acked(), ElementsAre("a-1"));
}

TEST_F(ConsumerTest, AnythingThrownIsAFailedAttemptAndNeverEndsTheLoop) {
  options.retry = RetryPolicy::none();
  const auto consumer = run([&](const Message& message, Context&) -> Verdict {
    if (message.id() == "a-1") throw 42;
    if (message.id() == "a-2") throw std::logic_error{"a bug"};
    return Verdict::done();
  });
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_EQ(store.dead_letters().size(), 2U);
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerTest, TxIsRefusedWithoutSql) {
  options.retry = RetryPolicy::none();
  const auto consumer = run([&](const Message&, Context& context) {
    static_cast<void>(context.tx());
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(consumer->status().last_error, HasSubstr("no SQL transaction"));
}

TEST_F(ConsumerTest, RefusesMisuse) {
  const Handler handler = [](const Message&, Context&) { return Verdict::done(); };
  const auto refused = [&](const ConsumerOptions& bad) {
    try {
      Consumer{std::make_unique<ScriptedSource>(script), store, bad, handler};
    } catch (const std::invalid_argument& error) {
      return std::string{error.what()};
    }
    return std::string{};
  };
  ConsumerOptions bad = options;
  bad.group = "no spaces";
  EXPECT_THAT(refused(bad), HasSubstr("'no spaces'"));
  bad = options;
  bad.workers = {0, 1};
  EXPECT_THAT(refused(bad), HasSubstr("workers.min"));
  bad.workers = {3, 2};
  EXPECT_THAT(refused(bad), HasSubstr("workers.max"));
  bad = options;
  bad.in_flight = 0;
  EXPECT_THAT(refused(bad), HasSubstr("in_flight"));
  bad = options;
  bad.in_flight_bytes = 0;
  EXPECT_THAT(refused(bad), HasSubstr("in_flight_bytes"));
  bad = options;
  bad.batch = 1'000;
  EXPECT_THAT(refused(bad), HasSubstr("batch is 1000: at least 1 and at most in_flight, 256"));
  bad = options;
  bad.handler_timeout = -1s;
  EXPECT_THAT(refused(bad), HasSubstr("handler_timeout"));
  bad = options;
  bad.crashes = -1;
  EXPECT_THAT(refused(bad), HasSubstr("crashes"));
  bad = options;
  bad.source = "no uri";
  EXPECT_THAT(refused(bad), HasSubstr("no uri"));
  EXPECT_THROW(Consumer(nullptr, store, options, handler), std::invalid_argument);
  EXPECT_THROW(Consumer(std::make_unique<ScriptedSource>(script), store, options, Handler{}), std::invalid_argument);
  EXPECT_THROW(Consumer(std::make_unique<ScriptedSource>(script), store, options, BatchHandler{}), std::invalid_argument);
  EXPECT_THROW(Consumer(std::make_unique<ScriptedSource>(script), AtLeastOnce{}, options, handler), std::invalid_argument);

  Consumer once{std::make_unique<ScriptedSource>(script), store, options, handler};
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_TRUE(once.run(stopped.get_token()));
  EXPECT_THROW(once.run(stopped.get_token()), std::logic_error);
}

}  // namespace
}  // namespace penstock::test
