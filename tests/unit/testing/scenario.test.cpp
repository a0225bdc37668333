// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/scenario.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "penstock/testing/check_idempotent.hpp"
#include "penstock/testing/scripted_provider.hpp"

namespace penstock::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Event requested(const std::string& key, const std::string& id = {}) {
  return {.id = id, .type = "shop.shipment.requested.v1", .key = key};
}

std::string unexpected(const std::function<void()>& work) {
  try {
    work();
  } catch (const Unexpected& error) {
    return error.what();
  }
  return "as expected";
}

/// Charges and says that it shipped.
Handler fulfil(ScriptedProvider payments, bool with_key = true) {
  return [payments = std::move(payments), with_key](const Message& job, Context& ctx) mutable {
    payments.call(with_key ? ctx.idempotency_key() : "", "charge " + job.key());
    ctx.emit({.type = "shop.order.shipped.v1", .key = job.key()});
    return Verdict::done();
  };
}

TEST(ScenarioTest, GivenWhenRunExpect) {
  ScriptedProvider payments{"payments"};
  payments.fail(1).lose_answers(1);
  Scenario scenario{fulfil(payments), {.consumer = {.retry = RetryPolicy::fixed(30s).attempts(3)}}};
  scenario.given(requested("A-1")).when_run().expect_parked(1).expect_nothing_emitted();
  scenario.advance(29s).expect_calls(1);
  scenario.advance(1s).expect_calls(2).expect_parked(1);
  scenario.advance(30s)
      .expect_calls(3)
      .expect_emitted("shop.order.shipped.v1", "A-1")
      .expect_no_dead_letter()
      .expect_effect("it was charged once", [&] { return payments.effects() == std::vector<std::string>{"charge A-1"}; });
  EXPECT_THAT(scenario.story(),
              HasSubstr("2026-01-01T00:00:00.000000Z  shop.shipment.requested.v1 given-1 of A-1, attempt 1: threw "
                        "payments: unavailable\n"));
  EXPECT_EQ(payments.calls(), 3U);
}

TEST(ScenarioTest, AnExpectationThatIsNotMetTellsTheStoryAndTheSeed) {
  Scenario scenario{[](const Message&, Context&) { return Verdict::reject("address unknown"); }, {.seed = 7}};
  scenario.given(requested("A-1")).when_run();
  const std::string message = unexpected([&] { scenario.expect_emitted("shop.order.shipped.v1"); });
  EXPECT_THAT(message, HasSubstr("no event shop.order.shipped.v1 was emitted"));
  EXPECT_THAT(message, HasSubstr("(seed 7)"));
  EXPECT_THAT(message, HasSubstr("attempt 1: reject, address unknown"));
  EXPECT_THAT(message, HasSubstr("dead letter given-1: address unknown"));
  EXPECT_THAT(unexpected([&] { scenario.expect_calls(2); }), HasSubstr("called 2 times, and was 1"));
  EXPECT_THAT(unexpected([&] { scenario.expect_parked(1); }), HasSubstr("1 messages should be parked, and 0 are"));
  EXPECT_THAT(unexpected([&] { scenario.expect_no_dead_letter(); }), HasSubstr("a message was dead-lettered"));
  EXPECT_THAT(unexpected([&] { scenario.expect_effect("it shipped", [] { return false; }); }),
              HasSubstr("it does not hold that it shipped"));
  EXPECT_EQ(unexpected([&] { scenario.expect_dead_letter("address").expect_nothing_emitted(); }), "as expected");
}

TEST(ScenarioTest, AnEventEmittedWithADelayComesAtItsTimeAndHoldsUpNoKey) {
  Scenario scenario{[](const Message& order, Context& ctx) {
                      ctx.emit({.type = "shop.order.accepted.v1", .key = order.key()});
                      ctx.emit({.type = "shop.order.expired.v1", .key = order.key(), .data = "{}"}, 1h);
                      return Verdict::done();
                    },
                    {}};
  scenario.given(requested("A-1")).when_run().expect_parked(1);
  EXPECT_EQ(scenario.emitted().size(), 1U);
  scenario.given(requested("A-1")).when_run().expect_calls(2).expect_parked(2);  // the key is free
  scenario.advance(59min);
  EXPECT_EQ(scenario.emitted().size(), 2U);
  scenario.advance(1min).expect_parked(0).expect_calls(2).expect_emitted("shop.order.expired.v1", "A-1");
  const auto events = scenario.emitted();
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[2].data, "{}");
  EXPECT_EQ(events[2].causation_id, "given-1");
  EXPECT_NE(events[2].id, events[0].id);
  EXPECT_GE(events[2].time, "2026-01-01T01:00:00");
}

TEST(ScenarioTest, WhatAFailedHandlerScheduledIsUndone) {
  Scenario scenario{[](const Message& order, Context& ctx) {
                      ctx.emit({.type = "shop.order.expired.v1", .key = order.key()}, 1h);
                      return Verdict::reject("no");
                    },
                    {}};
  scenario.given(requested("A-1")).when_run().expect_dead_letter("no").expect_parked(0);
}

/// The keys in the order in which their events were handled.
std::vector<std::string> order_with(std::uint64_t seed) {
  std::mutex mutex;
  std::vector<std::string> order;
  Scenario scenario{[&](const Message& message, Context&) {
                      const std::lock_guard guard{mutex};
                      order.push_back(message.key());
                      return Verdict::done();
                    },
                    {.seed = seed}};
  for (int i = 0; i < 12; ++i) scenario.given(requested("k" + std::to_string(i)));
  scenario.when_run();
  return order;
}

TEST(ScenarioTest, TheSeedDecidesTheOrderAmongKeys) {
  EXPECT_EQ(order_with(1), order_with(1));
  std::set<std::vector<std::string>> orders;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) orders.insert(order_with(seed));
  EXPECT_GT(orders.size(), 1U);
}

TEST(SeedsTest, AFailureNamesItsSeedAndTheSeedCanBeGiven) {
  std::set<std::uint64_t> seeds;
  with_seeds(5, [&](std::uint64_t seed) { seeds.insert(seed); });
  EXPECT_EQ(seeds.size(), 5U);
  ::setenv("PENSTOCK_SEED", "17", 1);
  seeds.clear();
  const std::string message = unexpected([&] {
    with_seeds(5, [&](std::uint64_t seed) {
      seeds.insert(seed);
      throw std::runtime_error{"wrong"};
    });
  });
  EXPECT_EQ(message, "with PENSTOCK_SEED=17: wrong");
  EXPECT_THAT(seeds, ElementsAre(17U));
  ::setenv("PENSTOCK_SEED", "x", 1);
  EXPECT_THROW(with_seeds(1, [](std::uint64_t) {}), std::invalid_argument);
  ::unsetenv("PENSTOCK_SEED");
}

std::vector<Event> orders() { return {requested("A-1"), requested("A-2"), requested("A-1"), requested("A-3")}; }

TEST(CheckIdempotent, AHandlerThatIsPassesEveryRun) {
  std::unique_ptr<ScriptedProvider> payments;
  std::atomic<int> runs{0};
  const IdempotenceCheck check{.given = orders(),
                               .fresh = [&]() -> std::unique_ptr<Datastore> {
                                 ++runs;
                                 payments = std::make_unique<ScriptedProvider>("payments");
                                 return nullptr;
                               },
                               .tables =
                                   [&] {
                                     return Tables{{"charges", payments->effects()}};
                                   }};
  const auto handler = [&](const Message& message, Context& context) { return fulfil(*payments)(message, context); };
  EXPECT_EQ(check_idempotent(handler, check), "");
  EXPECT_EQ(runs, 3 + 2 * 4);
}

TEST(CheckIdempotent, ShowsTheDifferenceThatACallWithoutAKeyMakes) {
  std::unique_ptr<ScriptedProvider> payments;
  const IdempotenceCheck check{.given = orders(),
                               .fresh = [&]() -> std::unique_ptr<Datastore> {
                                 payments = std::make_unique<ScriptedProvider>("payments");
                                 return nullptr;
                               },
                               .tables =
                                   [&] {
                                     return Tables{{"charges", payments->effects()}};
                                   }};
  const auto handler = [&](const Message& message, Context& context) { return fulfil(*payments, false)(message, context); };
  EXPECT_EQ(check_idempotent(handler, check), "when the process died before commit 1 of 4 (seed 42):\n+ charges: charge A-1\n");
}

TEST(CheckIdempotent, ShowsWhatDependsOnTheOrderAmongKeys) {
  std::atomic<int> next{0};
  const IdempotenceCheck check{.given = orders(), .fresh = [&]() -> std::unique_ptr<Datastore> {
                                 next = 0;
                                 return nullptr;
                               }};
  const auto handler = [&](const Message& message, Context& context) {
    context.emit({.type = "shop.order.numbered.v1", .key = message.key(), .data = std::to_string(++next)});
    return Verdict::done();
  };
  EXPECT_THAT(check_idempotent(handler, check), HasSubstr("when the keys came in another order (seed 42):\n- emitted: shop"));
}

TEST(CheckIdempotent, WantsEvents) {
  EXPECT_THROW(static_cast<void>(check_idempotent(fulfil(ScriptedProvider{"p"}), {})), std::invalid_argument);
}

}  // namespace
}  // namespace penstock::testing
