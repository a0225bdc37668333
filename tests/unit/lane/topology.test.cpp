// SPDX-License-Identifier: Apache-2.0
#include "lane/topology.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
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
using ::testing::HasSubstr;

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
  EXPECT_THROW(check_queue_name("a\nb"), std::invalid_argument);
}

TEST(Topology, ExchangeNamesAreCheckedByTheSameRules) {
  EXPECT_NO_THROW(check_exchange_name("shop.events"));
  for (const std::string& wrong :
       {std::string{}, std::string(256, 'e'), std::string{"amq.topic"}, std::string{"bad\xff"}, std::string{"a\rb"}}) {
    EXPECT_THROW(check_exchange_name(wrong), std::invalid_argument) << wrong;
  }
}

std::string refused(const QueueSpec& queue) {
  try {
    check_queue(resolved(queue, "staging."));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

TEST(Topology, BindingsAndDeadLettersAreCheckedAndSayWhichFieldIsWrong) {
  EXPECT_EQ(refused({.name = "q", .bindings = {{.exchange = "e"}}, .dead_letters = QueueDeadLetters{}}), "");
  EXPECT_THAT(refused({.name = ""}), HasSubstr("empty"));
  EXPECT_THAT(refused({.name = "q", .bindings = {{}}}), HasSubstr("exchange name ''"));
  EXPECT_THAT(refused({.name = "q", .bindings = {{.exchange = std::string(250, 'e')}}}), HasSubstr("255"));
  EXPECT_THAT(refused({.name = "q", .bindings = {{.exchange = "e", .routing_key = std::string(256, 'k')}}}), HasSubstr("255"));
  EXPECT_THAT(refused({.name = "q", .bindings = {{.exchange = "e", .kind = QueueBinding::Kind::fanout, .routing_key = "k"}}}),
              HasSubstr("QueueBinding::routing_key"));
  const auto dead = [](const QueueDeadLetters& letters) { return refused({.name = "q", .dead_letters = letters}); };
  EXPECT_THAT(dead({.older_than = -1ms}), HasSubstr("older_than"));
  EXPECT_EQ(dead({.older_than = 4'294'967'295ms}), "");
  EXPECT_THAT(dead({.older_than = 4'294'967'296ms}), HasSubstr("older_than"));
  EXPECT_THAT(dead({.more_than = SIZE_MAX}), HasSubstr("more_than"));
  EXPECT_THAT(dead({.routing_key = "q"}), HasSubstr("go round"));
  EXPECT_EQ(dead({.exchange = "e", .routing_key = "q"}), "");
  EXPECT_THAT(dead({.exchange = "e\n"}), HasSubstr("line break"));
  EXPECT_THAT(dead({.exchange = "e", .routing_key = std::string(256, 'k')}), HasSubstr("255"));
}

// The prefix is before names, not before the keys by which an exchange routes.
TEST(Topology, APrefixIsBeforeNamesOnly) {
  const QueueSpec queue = resolved({.name = "q",
                                    .bindings = {{.exchange = "e"}, {.exchange = "f", .routing_key = "a.#"}},
                                    .dead_letters = QueueDeadLetters{}},
                                   "staging.");
  EXPECT_EQ(queue.name, "staging.q");
  EXPECT_EQ(queue.bindings[0].exchange, "staging.e");
  EXPECT_EQ(queue.bindings[0].routing_key, "q");
  EXPECT_EQ(queue.bindings[1].exchange, "staging.f");
  EXPECT_EQ(queue.bindings[1].routing_key, "a.#");
  EXPECT_EQ(queue.dead_letters->exchange, "");
  EXPECT_EQ(queue.dead_letters->routing_key, "staging.q.dead") << "which is a queue";
  const QueueSpec through = resolved({.name = "q", .dead_letters = QueueDeadLetters{.exchange = "e"}}, "staging.");
  EXPECT_EQ(through.dead_letters->exchange, "staging.e");
  EXPECT_EQ(through.dead_letters->routing_key, "q.dead");
}

// A copy that goes to several queues counts when all of them would keep it.
TEST(Topology, AQueueThatIsMadeIsNewToItsExchangesToo) {
  Topology topology;
  topology.remember({.name = "a", .bindings = {{.exchange = "e"}, {.exchange = "e", .routing_key = "k"}}});
  topology.remember({.name = "b"});
  ASSERT_EQ(topology.bound_to("e").size(), 1U);
  EXPECT_EQ(topology.bound_to("e").front().name, "a");
  EXPECT_TRUE(topology.bound_to("f").empty());
  const auto now = std::chrono::steady_clock::now();
  EXPECT_LT(topology.exchange_trusted("e"), now);
  topology.making(topology.bound_to("e").front());
  EXPECT_GE(topology.exchange_trusted("e"), now + settling);
  EXPECT_GE(topology.trusted("a"), now + settling);
  EXPECT_LT(topology.trusted("b"), now);
  EXPECT_LT(topology.exchange_trusted("f"), now);
}

TEST(Topology, KnowsTheQueuesOfDeadLetters) {
  Topology topology;
  topology.remember(resolved({.name = "a", .kind = QueueSpec::Kind::classic, .dead_letters = QueueDeadLetters{}}, "live."));
  topology.remember(resolved({.name = "b", .dead_letters = QueueDeadLetters{.exchange = "e"}}, "live."));
  topology.remember({.name = "c"});
  ASSERT_TRUE(topology.dead_letter_queue("live.a.dead"));
  EXPECT_EQ(topology.dead_letter_queue("live.a.dead")->name, "live.a.dead");
  EXPECT_EQ(topology.dead_letter_queue("live.a.dead")->kind, QueueSpec::Kind::classic);
  EXPECT_FALSE(topology.dead_letter_queue("b.dead")) << "a key, not a queue";
  EXPECT_FALSE(topology.dead_letter_queue("c.dead"));
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
  EXPECT_THROW(static_cast<void>(lane.channel("", {.exchange = "e"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.channel("jobs", {.routing_key = "{type}"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.channel("jobs", {.exchange = "amq.topic"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.channel("jobs", {.exchange = "e", .routing_key = "{tpye}"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.channel(std::string(256, 'c'), {.exchange = "e"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(lane.source("jobs", {.prefetch = 0})), std::invalid_argument);
  const auto source = lane.source("jobs");
  EXPECT_THROW(source->poll(1, 1ms), std::logic_error);
  EXPECT_EQ(source->channel(), "jobs");
  EXPECT_TRUE(source->traits().delays);
}

}  // namespace
}  // namespace penstock::lane
