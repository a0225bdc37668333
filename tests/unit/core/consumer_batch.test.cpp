// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include "consumer_support.hpp"
#include "core/consumer_queue.hpp"
#include "core/consumer_scaling.hpp"

namespace penstock::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class ConsumerBatch : public ConsumerTest {
 protected:
  ConsumerBatch() {
    options.batch = 50;
    // All is there before the first look, so that it comes in one batch.
    script->traits.ordered = true;
  }
  std::unique_ptr<Running> run_batches(BatchHandler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), store, options, std::move(handler)));
  }
  Strings emitted() const {
    Strings causes;
    for (const Event& event : store.emitted()) causes.push_back(event.causation_id);
    return causes;
  }
};

TEST_F(ConsumerBatch, Rule11_ABatchIsAcknowledgedWhenItIsCommitted) {
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  const auto consumer = run([&](const Message&, Context& context) {
    EXPECT_THAT(script->acked(), IsEmpty());
    EXPECT_THAT(store.emitted(), IsEmpty());
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_THAT(script->acked(), ElementsAre("a-1", "a-2", "a-3"));
  EXPECT_THAT(emitted(), ElementsAre("a-1", "a-2", "a-3"));
  EXPECT_EQ(consumer->status().done, 3U);
}

TEST_F(ConsumerBatch, Rule7_AFailureCostsItsOwnMessageAndHoldsItsKeyAlone) {
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"a", "b"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run([&](const Message& message, Context& context) {
    seen.add(message.id() + "#" + std::to_string(context.attempt()));
    if (message.id() == "a-2" && context.attempt() == 1) throw std::runtime_error{"not yet"};
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 6; }));
  EXPECT_EQ(store.parked("shipping"), 2U) << "a-2, and a-3 behind it";
  EXPECT_THAT(emitted(), UnorderedElementsAre("a-1", "b-1", "b-2", "b-3"));
  EXPECT_EQ(seen.size(), 5U) << "nothing was run twice, and a-3 not at all";
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 6;
  }));
  const Strings all = seen.all();
  EXPECT_THAT(Strings(all.end() - 2, all.end()), ElementsAre("a-2#2", "a-3#1"));
}

TEST_F(ConsumerBatch, ARejectedMessageIsADeadLetterAndItsKeyGoesOn) {
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  const auto consumer =
      run([](const Message& message, Context&) { return message.id() == "a-1" ? Verdict::reject("never") : Verdict::done(); });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_EQ(consumer->status().done, 2U);
  ASSERT_EQ(store.dead_letters().size(), 1U);
  EXPECT_EQ(store.dead_letters()[0].reason, "never");
}

TEST_F(ConsumerBatch, Rule10_DuplicatesInABatchAreHandledOnce) {
  for (const int number : {1, 2, 1, 2}) script->deliver(numbered("a", number));
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 4; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1", "a-2"));
  script->deliver(numbered("a", 2));
  script->deliver(numbered("a", 3));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 6; }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1", "a-2", "a-3"));
  EXPECT_EQ(consumer->status().duplicates, 3U);
}

TEST_F(ConsumerBatch, AStoreThatIsAwayAtTheEndOfABatchBurnsNothing) {
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    if (seen.size() == 3) store.set_away(true);
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return consumer->status().paused; }));
  EXPECT_THAT(script->acked(), IsEmpty());
  store.set_away(false);
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 3;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1", "a-2", "a-3", "a-1", "a-2", "a-3"));
  EXPECT_EQ(consumer->status().parked, 0U);
}

TEST_F(ConsumerBatch, ABatchHandlerGetsWhatWaitsInOrderAndMayFailSomeOfIt) {
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"a", "b"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run_batches([&](Batch& batch) -> Verdicts {
    std::vector<Verdict> verdicts;
    bool waits = false;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Message& message = *batch.messages()[i];
      seen.add(std::to_string(batch.size()) + ":" + message.id());
      waits = message.key() == "a" && (waits || message.id() == "a-2") && batch.size() > 1;
      if (!waits) batch.context(i).emit({.type = "test.followed.v1"});
      verdicts.push_back(waits ? Verdict::retry("not yet") : Verdict::done());
    }
    return verdicts;
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 6; }));
  EXPECT_THAT(seen.all(), ElementsAre("6:a-1", "6:a-2", "6:a-3", "6:b-1", "6:b-2", "6:b-3"));
  EXPECT_EQ(store.parked("shipping"), 2U);
  EXPECT_THAT(emitted(), ElementsAre("a-1", "b-1", "b-2", "b-3"));
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 6;
  }));
  EXPECT_EQ(emitted().size(), 6U);
}

TEST_F(ConsumerBatch, Rule10_WhatABatchHandlerDidBehindAFailedMessageOfItsKeyIsUndone) {
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"a", "b"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run_batches([&](Batch& batch) -> Verdicts {
    std::vector<Verdict> verdicts;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Message& message = *batch.messages()[i];
      seen.add(std::to_string(batch.size()) + ":" + message.id());
      const bool failed = message.id() == "a-2" && batch.context(i).attempt() == 1;
      if (!failed) batch.context(i).emit({.type = "test.followed.v1"});
      verdicts.push_back(failed ? Verdict::retry("not yet") : Verdict::done());
    }
    return verdicts;
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 6; }));
  EXPECT_THAT(seen.all(),
              ElementsAre("6:a-1", "6:a-2", "6:a-3", "6:b-1", "6:b-2", "6:b-3", "1:a-1", "1:a-2", "1:b-1", "1:b-2", "1:b-3"));
  EXPECT_EQ(store.parked("shipping"), 2U);
  EXPECT_THAT(emitted(), ElementsAre("a-1", "b-1", "b-2", "b-3"));
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 6;
  }));
  EXPECT_EQ(emitted().size(), 6U);
}

TEST_F(ConsumerBatch, ABatchHandlerThatFailsIsRunMessageByMessageAndOnlyTheBadOneIsParked) {
  for (const char* key : {"a", "b", "c"}) script->deliver(numbered(key, 1));
  const auto consumer = run_batches([&](Batch& batch) -> Verdicts {
    for (const Message* message : batch.messages()) {
      seen.add(std::to_string(batch.size()) + ":" + message->id());
      if (message->id() == "b-1") throw std::runtime_error{"bad"};
    }
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_THAT(seen.all(), ElementsAre("3:a-1", "3:b-1", "1:a-1", "1:b-1", "1:c-1"));
  EXPECT_EQ(consumer->status().done, 2U);
  EXPECT_EQ(store.parked("shipping"), 1U);
}

TEST_F(ConsumerBatch, Rule14_StopInABatchKeepsWhatIsDoneAndBeginsNoMore) {
  Gate started;
  Gate gate;
  for (int number = 1; number <= 5; ++number) script->deliver(numbered("a", number));
  const auto consumer = run([&](const Message& message, Context&) {
    seen.add(message.id());
    if (message.id() == "a-2") {
      started.open();
      gate.pass();
    }
    return Verdict::done();
  });
  started.pass();
  consumer->request_stop();
  gate.open();
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(seen.all(), ElementsAre("a-1", "a-2"));
  EXPECT_THAT(script->acked(), ElementsAre("a-1", "a-2"));
}

// --- intake, deadlines, workers ---------------------------------------------------------------------------------------------

TEST_F(ConsumerTest, IntakeIsBoundedInBytesToo) {
  options.in_flight_bytes = std::size_t{1} << 20U;
  Gate gate;
  const auto consumer = run([&](const Message&, Context&) {
    gate.pass();
    return Verdict::done();
  });
  for (int number = 0; number < 40; ++number) {
    Event event = numbered("", number);
    event.data = std::string(100'000, 'x');
    script->deliver(event);
  }
  ASSERT_TRUE(eventually([&] { return consumer->status().in_flight_bytes >= options.in_flight_bytes; }));
  const int polls = script->polls();
  ASSERT_TRUE(eventually([&] { return script->polls() > polls + 3 || script->paused(); }));
  EXPECT_LT(script->most_unsettled(), 20U) << "about five fit, and the first poll takes sixteen";
  gate.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 40; }));
}

TEST_F(ConsumerTest, ADeadlineTriggersTheStopTokenAndCountsAsAFailure) {
  options.handler_timeout = 30s;
  Gate started;
  const auto consumer = run([&](const Message&, Context& context) {
    EXPECT_EQ(context.deadline(), clock.now() + 30s);
    if (context.attempt() > 1) return Verdict::done();
    Gate stopped;
    const std::stop_callback call{context.stop_token(), [&] { stopped.open(); }};
    started.open();
    stopped.pass();
    return Verdict::retry("gave up");
  });
  script->deliver(numbered("a", 1));
  started.pass();
  EXPECT_EQ(consumer->status().parked, 0U);
  clock.advance(31s);
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 1; }));
  EXPECT_EQ(consumer->status().last_error, "after its deadline of 30000 ms: gave up");
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 1;
  }));
}

TEST_F(ConsumerTest, Rule15_ASlowHandlerHoldsUpNothingThatItsWorkerTookBesideIt) {
  options.clock = &Clock::system();
  options.workers = {2, 2};
  Gate gate;
  const auto consumer = run([&](const Message& message, Context&) {
    if (message.key() == "slow") gate.pass();
    return Verdict::done();
  });
  for (int number = 0; number < 500; ++number) script->deliver(numbered("k" + std::to_string(number % 40), number));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 500; }));
  // By now the handler is known to be quick, and many are handed over at once.
  for (int number = 500; number < 700; ++number) {
    script->deliver(numbered(number == 505 || number == 506 ? "slow" : "k" + std::to_string(number % 40), number));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 698; }));
  gate.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 700; }));
}

consumer::EntryPtr entry_of(const Event& event) {
  auto entry = std::make_shared<consumer::Entry>();
  entry->message.event = event;
  consumer::WorkQueue::prepare(*entry);
  return entry;
}

TEST(WorkQueue, KeysThatComeAndGoKeepTheirOrder) {
  constexpr int keys = 6'000;  // more than are remembered, and one too long to be
  consumer::WorkQueue queue;
  for (int round = 0; round < 3; ++round) {
    for (int number = 0; number < 2 * keys; ++number) {
      const int key = number % keys;
      queue.push(entry_of(numbered(key == 7 ? std::string(1'000, 'k') : "k" + std::to_string(key), number)));
    }
    EXPECT_EQ(queue.ready(), std::size_t{keys}) << "the first of each key";
    std::map<std::string, std::uint64_t> last;
    std::vector<consumer::EntryPtr> hand;
    for (queue.take(100, hand); !hand.empty(); queue.take(100, hand)) {
      for (const auto& entry : std::exchange(hand, {})) {
        EXPECT_GT(entry->number, std::exchange(last[entry->message.key()], entry->number));
        queue.finish(entry);
      }
    }
    EXPECT_EQ(last.size(), std::size_t{keys});
    EXPECT_EQ(queue.size(), 0U);
    EXPECT_EQ(queue.bytes(), 0U);
  }
}

TEST(WorkQueue, WhatIsPutBackStandsWhereItStood) {
  consumer::WorkQueue queue;
  const auto push = [&](const std::string& key, int number) { queue.push(entry_of(numbered(key, number))); };
  for (int number = 1; number <= 4; ++number) push("a", number);
  push("b", 1);
  const auto ids = [](const std::vector<consumer::EntryPtr>& entries) {
    Strings all;
    for (const auto& entry : entries) all.push_back(entry->message.id());
    return all;
  };
  std::vector<consumer::EntryPtr> hand;
  queue.take(3, hand);
  EXPECT_THAT(ids(hand), ElementsAre("a-1", "a-2", "a-3"));
  EXPECT_EQ(queue.waiting(), 2U);
  queue.put_back(hand[2]);
  queue.put_back(hand[1]);
  std::vector<consumer::EntryPtr> other;
  queue.take(9, other);
  EXPECT_THAT(ids(other), ElementsAre("b-1")) << "a is held by its first";
  queue.finish(hand[0]);
  other.clear();
  queue.take(9, other);
  EXPECT_THAT(ids(other), ElementsAre("a-2", "a-3", "a-4"));
  queue.delay(other[0], consumer::WorkQueue::TimePoint{} + 5s);
  queue.put_back(other[2]);
  queue.put_back(other[1]);
  EXPECT_EQ(queue.ready(), 0U);
  queue.ripen(consumer::WorkQueue::TimePoint{} + 5s);
  other.clear();
  queue.take(9, other);
  EXPECT_THAT(ids(other), ElementsAre("a-2", "a-3", "a-4"));
  for (const auto& entry : other) queue.finish(entry);
  EXPECT_EQ(queue.size(), 1U);
}

TEST(Scaling, GrowsByWhatWaitsShrinksByWhatWasUsedAndRestsInBetween) {
  consumer::Scaling scaling{{.min = 1, .max = 8}};
  consumer::Scaling::Load load{.now = consumer::Scaling::TimePoint{} + 1h};
  EXPECT_EQ(scaling.wanted(load), 1);
  load.workers = load.busy = 1;
  load.waiting = 3;
  EXPECT_EQ(scaling.wanted(load), 4) << "nothing is known of the handler yet";
  EXPECT_EQ(scaling.reason(), "3 wait, and no handler has ended yet");

  load.workers = load.busy = 1;
  load.handler_time = 1ms;
  load.waiting = 15;
  load.now += 1s;
  EXPECT_EQ(scaling.wanted(load), 1) << "15 ms of work";
  load.waiting = 30;
  EXPECT_EQ(scaling.wanted(load), 2);
  EXPECT_EQ(scaling.reason(), "30 wait, 1.00 ms each");
  load.workers = load.busy = 2;
  load.waiting = 400;
  EXPECT_EQ(scaling.wanted(load), 2) << "the last step is not felt yet";
  load.now += 50ms;
  EXPECT_EQ(scaling.wanted(load), 4);
  load.workers = load.busy = 4;
  load.now += 50ms;
  load.waiting = 20;
  load.full = true;
  EXPECT_EQ(scaling.wanted(load), 8) << "more may wait at the broker";
  EXPECT_THAT(scaling.reason(), HasSubstr("the intake is full"));

  load.workers = 8;
  load.busy = 2;
  load.waiting = 0;
  load.full = false;
  load.now += 4s;
  load.worked += 9s;
  EXPECT_EQ(scaling.wanted(load), 8) << "not for five seconds yet";
  load.now += 1s;
  load.worked += 1s;
  EXPECT_EQ(scaling.wanted(load), 3) << "two were in use";
  EXPECT_EQ(scaling.reason(), "2.0 of 8 were in use for 5 s");
  load.workers = 3;
  load.now += 4s;
  EXPECT_EQ(scaling.wanted(load), 3);
}

}  // namespace
}  // namespace penstock::test
