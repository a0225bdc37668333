// SPDX-License-Identifier: Apache-2.0
#include "conduit/source.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "penstock/conduit.hpp"
#include "penstock/uuid.hpp"
#include "support/kafka.hpp"

namespace penstock::conduit {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Numbers in Kafka's protocol.
constexpr std::int16_t kOffsetCommit = 8;
constexpr std::int16_t kHeartbeat = 12;

/// A member cannot know of a rebalance before it polls, so one poll may both bring messages and meet a rebalance. Nobody can
/// settle those messages while they are still inside of poll: to wait for them there would end with the time for it.
TEST(Source, ARebalanceDoesNotWaitForMessagesThatPollHasNotHandedOutYet) {
  constexpr std::size_t kBacklog = 10'000;  // takes poll far longer than a heartbeat, so that the rebalance comes within
  support::MockCluster cluster;
  cluster.create("backlog", 1);
  Conduit conduit{{.bootstrap_servers = cluster.servers()}};
  const auto publisher = conduit.channel("backlog").publisher;
  std::vector<Event> events;
  for (std::size_t i = 0; i < kBacklog; ++i) {
    events.push_back({.id = uuid7(), .source = "/test", .type = "test.v1", .key = "key", .data = "x"});
  }
  for (const Outcome& outcome : publisher->publish(events, 60s)) ASSERT_TRUE(outcome.confirmed()) << outcome.error;

  const auto source = make_source(
      {.bootstrap_servers = cluster.servers(), .properties = {{"session.timeout.ms", "6000"}, {"heartbeat.interval.ms", "20"}}},
      "backlog", {.revoke_timeout = 100s});
  source->open("group", nullptr);
  std::set<std::string> ids;
  SteadyClock::duration longest{0};
  std::size_t handed_out = 0;
  bool rebalanced = false;
  const auto deadline = SteadyClock::now() + 90s;
  while (ids.size() < kBacklog && SteadyClock::now() < deadline) {
    const auto start = SteadyClock::now();
    const auto messages = source->poll(ids.empty() ? 1 : kBacklog, 100ms);
    longest = std::max(longest, SteadyClock::now() - start);
    handed_out += messages.size();
    for (const Message& message : messages) {
      ids.emplace(message.id());
      source->ack(message);
    }
    if (!ids.empty() && !rebalanced) {
      cluster.fail(kHeartbeat, {RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS});
      rebalanced = true;
    }
  }
  EXPECT_EQ(ids.size(), kBacklog);
  EXPECT_EQ(handed_out, kBacklog) << "what was acknowledged is committed before the partitions are given up";
  EXPECT_LT(longest, 50s) << "the rebalance waited for what nobody had";
}

/// Keeps the lines that tell where librdkafka starts a partition. Any thread.
class StartsLogger final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    static_cast<void>(level);
    const std::lock_guard lock{mutex_};
    if (message.find("Starting pending assigned partition") != std::string::npos) starts_.push_back(message);
  }
  std::vector<std::string> starts() {
    const std::lock_guard lock{mutex_};
    return starts_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> starts_;
};

/// librdkafka goes on to look up the start of a partition that is no longer its own, and to fetch it: see find_start.
TEST(Source, NeverLeavesItToLibrdkafkaToFindTheStartOfAPartition) {
  support::MockCluster cluster;
  cluster.create("fresh", 3);
  support::put(cluster.servers(), "fresh", {.payload = "x"}, 1);
  const auto logger = std::make_shared<StartsLogger>();
  const auto source = make_source({.bootstrap_servers = cluster.servers(), .properties = {{"debug", "cgrp"}}}, "fresh", {});
  source->open("group", logger);
  std::size_t handed_out = 0;
  const auto deadline = SteadyClock::now() + 60s;
  while (handed_out == 0 && SteadyClock::now() < deadline) handed_out += source->poll(10, 100ms).size();
  EXPECT_EQ(handed_out, 1U);
  static_cast<void>(source->poll(10, 100ms));  // brings the rest of the log
  EXPECT_THAT(logger->starts(), AllOf(SizeIs(3), Each(HasSubstr("at offset 0"))));
}

TEST(Source, CloseRepeatsACommitThatARebalanceHeldUp) {
  support::MockCluster cluster;
  cluster.create("held", 1);
  for (int i = 0; i < 2; ++i) support::put(cluster.servers(), "held", {.payload = "x"}, 0);
  const ConduitOptions options{.bootstrap_servers = cluster.servers(), .properties = {{"session.timeout.ms", "6000"}}};
  const auto take_one = [&] {
    const auto source = make_source(options, "held", {});
    source->open("group", nullptr);
    std::vector<Message> messages;
    const auto deadline = SteadyClock::now() + 60s;
    while (messages.empty() && SteadyClock::now() < deadline) messages = source->poll(1, 100ms);
    for (const Message& message : messages) source->ack(message);
    cluster.fail(kOffsetCommit, std::vector(3, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS));
    source->close(10s);
    return messages.empty() ? -1 : messages[0].origin.position;
  };
  EXPECT_EQ(take_one(), 0);
  EXPECT_EQ(take_one(), 1);
}

}  // namespace
}  // namespace penstock::conduit
