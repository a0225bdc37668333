// SPDX-License-Identifier: Apache-2.0
// What is the memory broker's own, beyond the contract it shares with every backend: virtual time, faults, rebalance, seeds.
#include "penstock/testing/memory_broker.hpp"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "penstock/testing/manual_clock.hpp"

namespace penstock::testing {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kPatience = 30s;

Event event(const std::string& key, int number) {
  return {.type = "penstock.memory.tested.v1", .key = key, .data = std::to_string(number)};
}

void publish(MemoryBroker& broker, const std::string& channel, const std::string& key, int count) {
  for (int i = 0; i < count; ++i) ASSERT_TRUE(broker.publish(channel, event(key, i)).confirmed());
}

std::unique_ptr<Source> join(MemoryBroker& broker, const std::string& channel, std::size_t prefetch = 256) {
  auto source = broker.source(channel, {.prefetch = prefetch});
  source->open("group", nullptr);
  return source;
}

std::vector<std::string> payloads(const std::vector<Message>& messages) {
  std::vector<std::string> all;
  for (const Message& message : messages) all.emplace_back(message.data());
  return all;
}

TEST(MemoryBroker, PublishFillsInWhatIsNotSetAndLeavesTheRest) {
  ManualClock clock;
  MemoryBroker broker{{.clock = &clock}};
  broker.declare("orders");
  ASSERT_TRUE(broker.publish("orders", {.type = "a.v1", .data = "{}"}).confirmed());
  ASSERT_TRUE(
      broker.publish("orders", {.id = "7", .source = "/mine", .type = "a.v1", .time = "2026-02-03T04:05:06Z"}).confirmed());
  const auto events = broker.published("orders");
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].id.size(), 36U);
  EXPECT_EQ(events[0].source, "/penstock/testing");
  EXPECT_EQ(events[0].time, format_time(clock.now()));
  EXPECT_EQ(events[0].content_type, "application/json");
  EXPECT_EQ(events[1].id, "7");
  EXPECT_EQ(events[1].source, "/mine");
  EXPECT_EQ(events[1].time, "2026-02-03T04:05:06Z");
  EXPECT_EQ(events[1].content_type, "") << "no payload, no media type";
}

TEST(MemoryBroker, MisuseThrowsAndNamesWhatIsWrong) {
  MemoryBroker broker;
  EXPECT_THROW(MemoryBroker({.clock = nullptr}), std::invalid_argument);
  EXPECT_THROW(broker.declare("orders", 0), std::invalid_argument);
  broker.declare("orders", 2);
  broker.declare("orders", 2);
  try {
    broker.declare("orders", 3);
    FAIL() << "declared with another number of partitions";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), ::testing::AllOf(HasSubstr("orders"), HasSubstr("2"), HasSubstr("3")));
  }
  EXPECT_THROW(broker.put("nowhere", {}), std::logic_error);
  EXPECT_THROW(static_cast<void>(broker.source("orders", {.prefetch = 0})), std::invalid_argument);
  const auto source = broker.source("orders");
  EXPECT_THROW(source->poll(1, 0ms), std::logic_error);
  source->open("group", nullptr);
  EXPECT_THROW(source->open("group", nullptr), std::logic_error);
  source->close(1s);
  EXPECT_THROW(source->poll(1, 0ms), std::logic_error);
}

TEST(MemoryBroker, SourceOfAChannelDeclaredLaterGetsItsMessages) {
  MemoryBroker broker;
  const auto source = join(broker, "orders");
  EXPECT_THAT(source->poll(10, 0ms), IsEmpty());
  EXPECT_EQ(broker.publish("orders", event("a", 1)).status, Status::rejected);
  broker.declare("orders", 3);
  publish(broker, "orders", "a", 2);
  EXPECT_THAT(payloads(source->poll(10, 0ms)), ElementsAre("0", "1"));
}

TEST(MemoryBroker, ChannelsAndSourcesOutliveTheBroker) {
  Channel channel;
  std::unique_ptr<Source> source;
  {
    MemoryBroker broker;
    broker.declare("orders");
    channel = broker.channel("orders");
    source = join(broker, "orders");
  }
  Event sent = event("a", 1);
  sent.id = "1";
  sent.source = "/test";
  EXPECT_TRUE(channel.publisher->publish(sent, 1s).confirmed());
  EXPECT_THAT(payloads(source->poll(10, 0ms)), ElementsAre("1"));
}

// --- virtual time -----------------------------------------------------------------------------------------------------------

TEST(MemoryBroker, RetryWaitsByTheInjectedClock) {
  ManualClock clock;
  MemoryBroker broker{{.clock = &clock}};
  broker.declare("orders");
  publish(broker, "orders", "a", 3);
  const auto source = join(broker, "orders");
  source->retry(source->poll(1, 0ms).at(0), 1h);
  EXPECT_THAT(payloads(source->poll(10, 0ms)), ElementsAre("1", "2")) << "others pass";
  clock.advance(59min);
  EXPECT_THAT(source->poll(10, 0ms), IsEmpty());
  clock.advance(1min);
  const auto again = source->poll(10, 0ms);
  ASSERT_THAT(payloads(again), ElementsAre("0"));
  EXPECT_EQ(again[0].origin.deliveries, 2U);
  EXPECT_TRUE(again[0].origin.redelivered);
}

TEST(MemoryBroker, PollWakesUpForADelayThatEndsAndForAMessageThatArrives) {
  ManualClock clock;
  MemoryBroker broker{{.clock = &clock}};
  broker.declare("orders");
  publish(broker, "orders", "a", 1);
  const auto source = join(broker, "orders");
  source->retry(source->poll(1, 0ms).at(0), 10s);
  std::vector<Message> delayed;
  std::vector<Message> arrived;
  std::atomic<int> stage{0};
  std::thread poller{[&] {
    delayed = source->poll(1, 24h);
    stage = 1;
    arrived = source->poll(1, 24h);
    stage = 2;
  }};
  clock.advance(10s);
  while (stage < 1) std::this_thread::yield();
  publish(broker, "orders", "b", 1);
  while (stage < 2) std::this_thread::yield();
  poller.join();
  EXPECT_EQ(delayed.at(0).key(), "a");
  EXPECT_EQ(arrived.at(0).key(), "b");
}

TEST(MemoryBroker, PollWakesUpWhenAnAckMakesRoomUnderPrefetch) {
  MemoryBroker broker;
  broker.declare("orders");
  publish(broker, "orders", "a", 2);
  const auto source = join(broker, "orders", 1);
  const auto first = source->poll(10, 0ms);
  ASSERT_THAT(payloads(first), ElementsAre("0"));
  EXPECT_THAT(source->poll(10, 0ms), IsEmpty());
  std::vector<Message> second;
  std::thread poller{[&] { second = source->poll(10, kPatience); }};
  source->ack(first[0]);
  poller.join();
  EXPECT_THAT(payloads(second), ElementsAre("1"));
}

TEST(MemoryBroker, WaitsWithoutEndDoNotOverflow) {
  MemoryBroker broker;
  broker.declare("orders");
  publish(broker, "orders", "a", 1);
  const auto source = join(broker, "orders");
  const auto messages = source->poll(1, std::chrono::milliseconds::max());
  ASSERT_EQ(messages.size(), 1U);
  source->retry(messages[0], std::chrono::milliseconds::max());
  EXPECT_THAT(source->poll(1, 0ms), IsEmpty());
}

// --- faults -----------------------------------------------------------------------------------------------------------------

TEST(MemoryBroker, FailNextIsAScriptOfOutcomes) {
  MemoryBroker broker;
  broker.declare("orders");
  broker.fail_next("orders", 1, Status::confirmed);
  broker.fail_next("orders", 1, Status::retryable);
  broker.fail_next("orders", 3, Status::unknown);
  broker.fail_next("orders", 1, Status::rejected);
  std::vector<Status> statuses;
  for (int i = 0; i < 7; ++i) statuses.push_back(broker.publish("orders", event("a", i)).status);
  EXPECT_THAT(statuses, ElementsAre(Status::confirmed, Status::retryable, Status::unknown, Status::unknown, Status::unknown,
                                    Status::rejected, Status::confirmed));
  std::vector<std::string> stored;
  for (const Event& event : broker.published("orders")) stored.push_back(event.data.value_or(""));
  EXPECT_THAT(stored, ElementsAre("0", "2", "4", "6")) << "of three unknown ones the first and third";
}

TEST(MemoryBroker, LostAckCutsTheMemberAndRedelivers) {
  MemoryBroker broker;
  broker.declare("orders");
  publish(broker, "orders", "a", 3);
  const auto source = join(broker, "orders");
  broker.lose_acks("orders", 1);
  const auto first = source->poll(10, 0ms);
  ASSERT_EQ(first.size(), 3U);
  source->ack(first[1]);                       // lost, and the connection with it
  for (const auto& m : first) source->ack(m);  // receipts of the lost connection
  EXPECT_EQ(broker.pending("orders", "group"), 3U);
  const auto again = source->poll(10, 0ms);
  ASSERT_THAT(payloads(again), ElementsAre("0", "1", "2"));
  for (const auto& message : again) {
    EXPECT_EQ(message.origin.deliveries, 2U);
    EXPECT_TRUE(message.origin.redelivered);
    source->ack(message);
  }
  EXPECT_EQ(broker.pending("orders", "group"), 0U);
}

TEST(MemoryBroker, DownMeansRetryableSilentAndRedelivered) {
  MemoryBroker broker;
  broker.declare("orders");
  publish(broker, "orders", "a", 2);
  const auto source = join(broker, "orders");
  const auto before = source->poll(10, 0ms);
  broker.set_down(true);
  EXPECT_EQ(broker.publish("orders", event("a", 9)).status, Status::retryable);
  EXPECT_EQ(broker.publish("made-while-down", event("a", 9)).status, Status::retryable);
  EXPECT_THAT(source->poll(10, 0ms), IsEmpty());
  source->ack(before[0]);
  broker.set_down(false);
  source->ack(before[0]);
  EXPECT_THAT(payloads(source->poll(10, 0ms)), ElementsAre("0", "1")) << "settlements were lost with the connection";
}

TEST(MemoryBroker, FaultsByChanceLoseNothingAndRepeatWithTheSeed) {
  const auto run = [](std::uint64_t seed) {
    MemoryBroker broker{{.seed = seed}};
    broker.declare("orders", 3);
    broker.set_faults("orders", {.retryable = 0.2, .unknown = 0.2, .lost_ack = 0.1, .cut = 0.1});
    std::string story;
    std::set<std::string> confirmed;
    for (int i = 0; i < 200; ++i) {
      Event sent = event("key-" + std::to_string(i % 7), i);
      sent.id = std::to_string(i);
      while (!broker.publish("orders", sent).confirmed()) story += '!';
      confirmed.insert(sent.id);
    }
    const auto source = join(broker, "orders", 16);
    std::set<std::string> seen;
    while (broker.pending("orders", "group") > 0) {
      for (const Message& message : source->poll(5, 0ms)) {
        story += message.id() + ' ';
        seen.insert(message.id());
        source->ack(message);
      }
    }
    EXPECT_EQ(seen, confirmed);
    return story;
  };
  EXPECT_EQ(run(7), run(7));
  EXPECT_NE(run(7), run(8));
}

// --- groups -----------------------------------------------------------------------------------------------------------------

TEST(MemoryBroker, RebalanceRedeliversInOrderAndKillsOldReceipts) {
  MemoryBroker broker;
  broker.declare("orders", 4);
  for (int i = 0; i < 4; ++i) publish(broker, "orders", "key-" + std::to_string(i), 5);
  const auto first = join(broker, "orders");
  const auto before = first->poll(100, 0ms);
  ASSERT_EQ(before.size(), 20U);
  const auto second = join(broker, "orders");
  for (const Message& message : before) first->ack(message);
  EXPECT_EQ(broker.pending("orders", "group"), 20U) << "receipts from before the rebalance";

  std::map<std::string, std::vector<std::string>> seen;
  for (Source* member : {first.get(), second.get()}) {
    for (const Message& message : member->poll(100, 0ms)) {
      seen[message.key()].emplace_back(message.data());
      EXPECT_EQ(message.origin.deliveries, 2U);
    }
  }
  ASSERT_EQ(seen.size(), 4U);
  for (const auto& [key, numbers] : seen) EXPECT_THAT(numbers, ElementsAre("0", "1", "2", "3", "4")) << key;

  broker.rebalance("orders", "group");
  EXPECT_EQ(first->poll(100, 0ms).size() + second->poll(100, 0ms).size(), 20U);
  EXPECT_THAT(broker.describe("orders"), HasSubstr("group group: 20 pending, 2 members"));
}

TEST(MemoryBroker, MoreMembersThanPartitionsLeavesTheRestIdle) {
  MemoryBroker broker;
  broker.declare("orders", 1);
  publish(broker, "orders", "a", 3);
  auto first = join(broker, "orders");
  const auto second = join(broker, "orders");
  EXPECT_EQ(first->poll(10, 0ms).size(), 3U);
  EXPECT_THAT(second->poll(10, 0ms), IsEmpty());
  first.reset();
  EXPECT_EQ(second->poll(10, 0ms).size(), 3U) << "the idle one takes over";
}

TEST(MemoryBroker, PendingCountsWhatAGroupHasNotSettled) {
  MemoryBroker broker;
  broker.declare("orders", 2);
  publish(broker, "orders", "a", 3);
  EXPECT_EQ(broker.pending("orders", "group"), 3U) << "a group that never was has everything before it";
  const auto source = join(broker, "orders");
  const auto messages = source->poll(10, 0ms);
  source->ack(messages.at(2));
  EXPECT_EQ(broker.pending("orders", "group"), 2U);
  source->retry(messages.at(0), 1h);
  source->ack(messages.at(1));
  EXPECT_EQ(broker.pending("orders", "group"), 1U);
  EXPECT_FALSE(broker.wait_settled("orders", "group", 1ms));
}

TEST(MemoryBroker, KeyDecidesThePartitionAndPartitionsInterleaveByTheSeed) {
  const auto run = [](std::uint64_t seed) {
    MemoryBroker broker{{.seed = seed}};
    broker.declare("orders", 8);
    for (int i = 0; i < 10; ++i) {
      for (const char* key : {"a", "b", "c", "d"}) EXPECT_TRUE(broker.publish("orders", event(key, i)).confirmed());
    }
    const auto source = join(broker, "orders");
    std::map<std::string, std::int32_t> partitions;
    std::string order;
    for (const Message& message : source->poll(100, 0ms)) {
      order += message.key();
      const auto [at, inserted] = partitions.emplace(message.key(), message.origin.partition);
      EXPECT_EQ(at->second, message.origin.partition);
    }
    EXPECT_EQ(order.size(), 40U);
    return order;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(MemoryBroker, DeadLettersAreWhatIsOnChannelsNamedSo) {
  MemoryBroker broker;
  broker.declare("orders");
  broker.declare("orders.dead");
  broker.declare("jobs.dead");
  publish(broker, "orders", "a", 1);
  publish(broker, "orders.dead", "b", 1);
  publish(broker, "jobs.dead", "c", 1);
  std::vector<std::string> keys;
  for (const Event& event : broker.dead_letters()) keys.push_back(event.key);
  EXPECT_THAT(keys, ::testing::UnorderedElementsAre("b", "c"));
}

TEST(MemoryBroker, ThreadsPublishReceiveSettleAndRebalanceAtOnce) {
  MemoryBroker broker;
  broker.declare("orders", 4);
  constexpr int kPublishers = 2;
  constexpr int kEach = 1'000;
  std::mutex mutex;
  std::set<std::string> seen;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int p = 0; p < kPublishers; ++p) {
    threads.emplace_back([&broker, p] { publish(broker, "orders", "publisher-" + std::to_string(p), kEach); });
  }
  for (int m = 0; m < 3; ++m) {
    threads.emplace_back([&] {
      const auto source = join(broker, "orders", 32);
      while (!stop) {
        const auto messages = source->poll(10, 5ms);
        std::thread settler{[&] {
          for (const Message& message : messages) source->ack(message);
        }};
        for (const Message& message : messages) {
          const std::lock_guard lock{mutex};
          seen.insert(message.key() + '/' + std::string{message.data()});
        }
        settler.join();
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    broker.rebalance("orders", "group");
    std::this_thread::yield();
  }
  for (int p = 0; p < kPublishers; ++p) threads[static_cast<std::size_t>(p)].join();
  EXPECT_TRUE(broker.wait_settled("orders", "group", kPatience)) << broker.describe("orders");
  stop = true;
  for (std::size_t t = kPublishers; t < threads.size(); ++t) threads[t].join();
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kPublishers) * kEach);
}

}  // namespace
}  // namespace penstock::testing
