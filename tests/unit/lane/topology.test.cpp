// SPDX-License-Identifier: Apache-2.0
#include "lane/topology.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

#include "lane/backoff.hpp"
#include "penstock/lane.hpp"
#include "penstock/random.hpp"

namespace penstock::lane {
namespace {

using namespace std::chrono_literals;

TEST(Topology, QueueNamesAreChecked) {
  EXPECT_NO_THROW(check_queue_name("orders.dead"));
  EXPECT_NO_THROW(check_queue_name("größe"));
  EXPECT_NO_THROW(check_queue_name(std::string(255, 'q')));
  EXPECT_THROW(check_queue_name(""), std::invalid_argument);
  EXPECT_THROW(check_queue_name(std::string(256, 'q')), std::invalid_argument);
  EXPECT_THROW(check_queue_name("amq.gen-1"), std::invalid_argument);
  EXPECT_THROW(check_queue_name("bad\xff"), std::invalid_argument);
  EXPECT_THROW(check_queue_name("bad\xc3"), std::invalid_argument);
  EXPECT_THROW(check_queue_name(std::string{"a\0b", 3}), std::invalid_argument);
}

// Never sooner than asked, at most two and a half times (above 50 ms), and few queues.
TEST(Topology, DelaysAreRoundedUpToFewSteps) {
  EXPECT_EQ(delay_step(0ms), 0ms);
  EXPECT_EQ(delay_step(-5ms), 0ms);
  EXPECT_EQ(delay_step(1ms), 50ms);
  EXPECT_EQ(delay_step(200ms), 200ms);
  EXPECT_EQ(delay_step(201ms), 500ms);
  std::set<std::chrono::milliseconds> used;
  for (auto delay = 1ms; delay <= 30s; delay += 1ms) {
    const auto step = delay_step(delay);
    EXPECT_GE(step, delay);
    if (delay > 50ms && delay <= 10s) {
      EXPECT_LE(step.count() * 2, delay.count() * 5);
    }
    used.insert(step);
  }
  EXPECT_EQ(used.size(), 9U);
}

TEST(Topology, DelayQueuesAreNamedAfterQueueAndDelay) { EXPECT_EQ((DelayQueue{"jobs", 500ms}.name()), "jobs.retry.500"); }

TEST(Topology, RemembersTheLastDeclaration) {
  Topology topology;
  EXPECT_FALSE(topology.find("a"));
  topology.remember({.name = "a", .kind = QueueSpec::Kind::classic});
  ASSERT_TRUE(topology.find("a"));
  EXPECT_EQ(topology.find("a")->kind, QueueSpec::Kind::classic);
}

TEST(Backoff, DoublesUpToItsCapAndIsSpread) {
  const auto random = Random::seeded(7);
  Backoff backoff;
  auto whole = Backoff::shortest;
  for (int i = 0; i < 40; ++i) {
    const auto pause = backoff.next(*random);
    EXPECT_GE(pause, whole / 2);
    EXPECT_LE(pause, whole);
    whole = std::min(whole * 2, Backoff::longest);
  }
  backoff.reset();
  EXPECT_LE(backoff.next(*random), Backoff::shortest);
}

TEST(LaneOptions, AreCheckedBeforeAnythingIsOpened) {
  EXPECT_THROW(Lane{{.url = "nonsense"}}, std::invalid_argument);
  EXPECT_THROW((Lane{{.url = "amqp://localhost", .heartbeat = -1s}}), std::invalid_argument);
  EXPECT_THROW((Lane{{.url = "amqp://localhost", .window = 0}}), std::invalid_argument);
  Lane lane{{.url = "amqp://localhost"}};
  EXPECT_THROW(static_cast<void>(lane.channel("")), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.source("jobs", {.prefetch = 0})), std::invalid_argument);
  const auto source = lane.source("jobs");
  EXPECT_THROW(source->poll(1, 1ms), std::logic_error);
  EXPECT_EQ(source->channel(), "jobs");
  EXPECT_TRUE(source->traits().delays);
}

}  // namespace
}  // namespace penstock::lane
