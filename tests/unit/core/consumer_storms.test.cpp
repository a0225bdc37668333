// SPDX-License-Identifier: Apache-2.0
// What keeps retries from becoming a storm, and failures of the system from being taken for those of messages.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <stdexcept>
#include <vector>

#include "consumer_support.hpp"
#include "core/budget_meter.hpp"
#include "penstock/bulkhead.hpp"
#include "penstock/call_refused.hpp"
#include "penstock/circuit_breaker.hpp"
#include "penstock/rate_limit.hpp"
#include "support/recording_logger.hpp"

namespace penstock::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using State = CircuitBreaker::State;

/// Half of every random choice.
class Middle final : public Random {
 public:
  std::uint64_t next() override { return std::uint64_t{1} << 63U; }
};

std::chrono::milliseconds refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const CallRefused& error) {
    return error.retry_in();
  }
  return -1ms;
}

template <class Options>
std::string refusal(const Options& options, const std::function<void(const Options&)>& make) {
  try {
    make(options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "taken";
}

// --- the circuit breaker of a provider --------------------------------------------------------------------------------------

class CircuitBreakerTest : public ::testing::Test {
 protected:
  CircuitBreaker make(std::size_t probes = 1) {
    return CircuitBreaker{{.name = "payments",
                           .failures = 3,
                           .of = 6,
                           .pause = RetryPolicy::exponential(10s).cap(1min),
                           .probes = probes,
                           .clock = &clock,
                           .logger = logger}};
  }
  static void succeed(CircuitBreaker& breaker, int times = 1) {
    for (int i = 0; i < times; ++i) breaker.call().succeeded();
  }
  static void fail(CircuitBreaker& breaker, int times = 1) {
    for (int i = 0; i < times; ++i) breaker.call().failed();
  }

  testing::ManualClock clock;
  std::shared_ptr<RecordingLogger> logger = std::make_shared<RecordingLogger>();
};

TEST_F(CircuitBreakerTest, OpensWhenSoManyOfTheLastCallsFailed) {
  auto breaker = make();
  fail(breaker, 2);
  succeed(breaker, 4);
  fail(breaker, 2);  // the first two are out of the window by now
  EXPECT_EQ(breaker.state(), State::closed);
  fail(breaker);
  EXPECT_EQ(breaker.state(), State::open);
  EXPECT_EQ(breaker.retry_in(), 10s);
  EXPECT_EQ(refused([&] { static_cast<void>(breaker.call()); }), 10s);
  EXPECT_THAT(logger->errors(), ElementsAre("circuit breaker payments: too many calls failed, it is open for 10000 ms"));
}

TEST_F(CircuitBreakerTest, ASuccessOnTrialClosesItAndAFailureOpensItForLonger) {
  auto breaker = make();
  fail(breaker, 3);
  clock.advance(9'999ms);
  EXPECT_EQ(refused([&] { static_cast<void>(breaker.call()); }), 1ms);
  clock.advance(1ms);
  EXPECT_EQ(breaker.state(), State::half_open);
  fail(breaker);
  EXPECT_EQ(breaker.retry_in(), 20s);
  clock.advance(20s);
  fail(breaker);
  EXPECT_EQ(breaker.retry_in(), 40s);
  clock.advance(40s);
  succeed(breaker);
  EXPECT_EQ(breaker.state(), State::closed);
  fail(breaker, 2);  // with nothing held against it
  EXPECT_EQ(breaker.state(), State::closed);
  fail(breaker);
  EXPECT_EQ(breaker.retry_in(), 10s);
}

TEST_F(CircuitBreakerTest, OnTrialLetsOnlySoManyCallsThroughAtOnce) {
  auto breaker = make(2);
  fail(breaker, 3);
  clock.advance(10s);
  auto first = breaker.call();
  {
    auto second = breaker.call();
    EXPECT_GT(refused([&] { static_cast<void>(breaker.call()); }), 0ms);
    second.forget();
  }
  auto third = breaker.call();
  first.succeeded();
  EXPECT_EQ(breaker.state(), State::closed);
  third.forget();
}

TEST_F(CircuitBreakerTest, WhatIsNotSaidToHaveSucceededHasFailed) {
  auto breaker = make();
  for (int i = 0; i < 3; ++i) {
    try {
      const auto call = breaker.call();
      throw std::runtime_error{"connection refused"};
    } catch (const std::runtime_error&) {
    }
  }
  EXPECT_EQ(breaker.state(), State::open);
}

TEST_F(CircuitBreakerTest, CallsThatBeganBeforeItOpenedSayNothingOfHowItIsNow) {
  auto breaker = make();
  auto slow = breaker.call();
  auto slower = breaker.call();
  fail(breaker, 3);
  slow.succeeded();
  EXPECT_EQ(breaker.state(), State::open);
  clock.advance(10s);
  slower.failed();
  EXPECT_EQ(breaker.state(), State::half_open);
}

TEST(Resilience, OptionsThatCannotWorkAreRefusedByName) {
  const std::function<void(const CircuitBreakerOptions&)> breaker = [](const auto& o) { CircuitBreaker{o}; };
  EXPECT_THAT(refusal<CircuitBreakerOptions>({}, breaker), HasSubstr("CircuitBreakerOptions::name is ''"));
  EXPECT_THAT(refusal<CircuitBreakerOptions>({.name = "a", .failures = 11}, breaker), HasSubstr("failures is 11: give 1 to"));
  EXPECT_THAT(refusal<CircuitBreakerOptions>({.name = "a", .probes = 0}, breaker), HasSubstr("probes is 0"));
  const std::function<void(const RateLimitOptions&)> limit = [](const auto& o) { RateLimit{o}; };
  EXPECT_THAT(refusal<RateLimitOptions>({.name = "a"}, limit), HasSubstr("per_second is 0.0"));
  EXPECT_THAT(refusal<RateLimitOptions>({.name = "a", .per_second = 1, .burst = 0.5}, limit), HasSubstr("burst is 0.5"));
  EXPECT_THAT(refusal<RateLimitOptions>({.name = "a", .per_second = 1, .patience = -1ms}, limit),
              HasSubstr("patience is -1 ms"));
  const std::function<void(const BulkheadOptions&)> bulkhead = [](const auto& o) { Bulkhead{o}; };
  EXPECT_THAT(refusal<BulkheadOptions>({.name = "a"}, bulkhead), HasSubstr("calls is 0"));
}

// --- rate limit and bulkhead ------------------------------------------------------------------------------------------------

TEST(RateLimitTest, GivesTokensAtItsRateAndSavesUpABurst) {
  testing::ManualClock clock;
  RateLimit limit{{.name = "geocoding", .per_second = 10, .burst = 3, .patience = 0ms, .clock = &clock}};
  for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(limit.take());
  EXPECT_EQ(refused([&] { limit.take(); }), 100ms);
  clock.advance(99ms);
  EXPECT_GT(refused([&] { limit.take(); }), 0ms);
  clock.advance(1ms);
  EXPECT_NO_THROW(limit.take());
  clock.advance(1h);
  for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(limit.take());
  EXPECT_EQ(refused([&] { limit.take(); }), 100ms);
}

TEST(RateLimitTest, WhoIsRefusedIsToldATimeOfItsOwn) {
  testing::ManualClock clock;
  RateLimit limit{{.name = "geocoding", .per_second = 10, .patience = 0ms, .clock = &clock}};
  limit.take();
  for (const auto expected : {100ms, 200ms, 300ms}) {
    EXPECT_EQ(refused([&] { limit.take(); }), expected);
  }
  for (int i = 0; i < 3; ++i) {
    clock.advance(100ms);
    EXPECT_NO_THROW(limit.take());
  }
}

TEST(RateLimitTest, WaitsForItsTurnAndStopsWhenToldTo) {
  testing::ManualClock clock;
  RateLimit limit{{.name = "geocoding", .per_second = 1, .patience = 5s, .clock = &clock}};
  limit.take();
  std::atomic<bool> had{false};
  std::jthread waiting{[&] {
    limit.take();
    had = true;
  }};
  EXPECT_FALSE(had);
  ASSERT_TRUE(eventually([&] {
    clock.advance(100ms);
    return had.load();
  }));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(refused([&] { limit.take(stop.get_token()); }), 0ms);
}

TEST(BulkheadTest, BoundsTheCallsAtOnce) {
  testing::ManualClock clock;
  Bulkhead bulkhead{{.name = "printing", .calls = 2, .patience = 0ms, .clock = &clock}};
  auto first = std::make_unique<Bulkhead::Place>(bulkhead.enter());
  const auto second = bulkhead.enter();
  EXPECT_EQ(refused([&] { static_cast<void>(bulkhead.enter()); }), 0ms);
  first.reset();
  EXPECT_NO_THROW(static_cast<void>(bulkhead.enter()));
}

TEST(BulkheadTest, WaitsForAPlace) {
  testing::ManualClock clock;
  Bulkhead bulkhead{{.name = "printing", .calls = 1, .patience = 1h, .clock = &clock}};
  auto place = std::make_unique<Bulkhead::Place>(bulkhead.enter());
  std::atomic<bool> in{false};
  std::jthread waiting{[&] {
    const auto own = bulkhead.enter();
    in = true;
  }};
  EXPECT_FALSE(in);
  place.reset();
  ASSERT_TRUE(eventually([&] { return in.load(); }));
}

// --- the budget of retries --------------------------------------------------------------------------------------------------

TEST(BudgetMeterTest, RetriesAreAtMostTheirShareAndTheirRate) {
  testing::ManualClock clock;
  const RetryBudget budget{.share = 0.2, .per_second = 1, .burst = 5};
  BudgetMeter meter{budget, clock};
  std::vector<double> due;                    // in seconds
  for (int ms = 0; ms < 100'000; ms += 10) {  // 100 messages a second, of which every second one fails
    meter.first_attempt();
    if (ms % 20 == 0) {
      due.push_back(ms / 1'000.0 + std::chrono::duration<double>(meter.charge()).count());
    }
    clock.advance(10ms);
  }
  std::sort(due.begin(), due.end());
  for (double from = 20; from < 100; from += 10) {
    const auto in = std::count_if(due.begin(), due.end(), [&](double t) { return t >= from && t < from + 10; });
    EXPECT_LE(in, 10 * (0.2 * 100 + 1) * 1.1) << "from second " << from;
    EXPECT_GE(in, 10 * (0.2 * 100 + 1) * 0.8) << "from second " << from;
  }
}

TEST(BudgetMeterTest, AQuietConsumerHasARateAndABurst) {
  testing::ManualClock clock;
  BudgetMeter meter{{.share = 0.2, .per_second = 2, .burst = 3}, clock};
  for (int i = 0; i < 3; ++i) EXPECT_EQ(meter.charge(), 0ms);
  EXPECT_EQ(meter.charge(), 500ms);
  EXPECT_EQ(meter.charge(), 1s);
  clock.advance(1h);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(meter.charge(), 0ms);
  EXPECT_EQ(meter.charge(), 500ms);
}

/// Counts what it is given.
struct Kept final : Publisher {
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds /*timeout*/) override {
    count += events.size();
    std::promise<Outcomes> promise;
    promise.set_value(Outcomes(events.size(), Outcome{Outcome::Status::confirmed, {}}));
    return promise.get_future();
  }
  std::atomic<std::size_t> count{0};
};

class ConsumerStorms : public ConsumerTest {
 protected:
  ConsumerStorms() {
    options.logger = logger;
    options.random = &random;
  }
  bool passes(std::chrono::milliseconds step, const std::function<bool()>& condition) {
    return eventually([&] {
      clock.advance(step);
      return condition();
    });
  }

  Middle random;
  std::shared_ptr<RecordingLogger> logger = std::make_shared<RecordingLogger>();
};

TEST_F(ConsumerStorms, RetriesOverTheBudgetWaitForTheirTurn) {
  options.retry = RetryPolicy::immediate().attempts(2);
  options.budget = RetryBudget{.share = 0, .per_second = 1, .burst = 1};
  const auto consumer =
      run([](const Message&, Context& context) { return context.attempt() == 1 ? Verdict::retry("once") : Verdict::done(); });
  for (int i = 0; i < 4; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 4; }));
  ASSERT_TRUE(passes(1ms, [&] { return consumer->status().done == 1; }));
  EXPECT_EQ(store.parked("shipping"), 3U);  // the next is due in a second
  ASSERT_TRUE(passes(10ms, [&] { return consumer->status().done == 2; }));
  EXPECT_EQ(store.parked("shipping"), 2U);
  ASSERT_TRUE(passes(500ms, [&] { return consumer->status().done == 4; }));
}

// --- systemic failure -------------------------------------------------------------------------------------------------------

TEST_F(ConsumerStorms, Rule17_AHandlerThatFailsAtEverythingDeadLettersNothingMoreAndResumesByItself) {
  options.workers = {4, 4};
  std::atomic<bool> broken{true};
  std::atomic<int> later{0};
  const auto consumer = run([&](const Message&, Context& context) {
    later += context.attempt() > 1 ? 1 : 0;
    return broken ? Verdict::reject("schema lost") : Verdict::done();
  });
  for (int i = 0; i < 100; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().systemic && script->paused(); }));
  EXPECT_TRUE(consumer->status().paused);
  EXPECT_THAT(consumer->status().pause_reason, HasSubstr("the handler fails"));
  ASSERT_TRUE(eventually([&] { return logger->errors().size() == 1; }));
  EXPECT_THAT(logger->errors().front(), HasSubstr("nothing is dead-lettered any more"));
  EXPECT_THAT(logger->errors().front(), HasSubstr("schema lost"));

  // What the other workers had in hand is through by the first trial.
  std::uint64_t parked = consumer->status().parked;
  ASSERT_TRUE(passes(5s, [&] { return consumer->status().parked >= parked + 5; })) << "one at a time is tried";
  const std::size_t dead = store.dead_letters().size();
  EXPECT_LT(dead, 20U);
  parked = consumer->status().parked;
  ASSERT_TRUE(passes(5s, [&] { return consumer->status().parked >= parked + 5; }));
  EXPECT_EQ(store.dead_letters().size(), dead);
  EXPECT_TRUE(consumer->status().systemic);

  broken = false;
  ASSERT_TRUE(passes(5s, [&] { return consumer->status().done == 100 - dead; }));
  EXPECT_FALSE(consumer->status().systemic);
  EXPECT_FALSE(consumer->status().paused);
  EXPECT_EQ(store.dead_letters().size(), dead);
  EXPECT_EQ(later, 0) << "no attempt was counted";
  EXPECT_EQ(logger->errors().size(), 1U);
  EXPECT_TRUE(eventually([&] { return !script->paused(); }));
}

TEST_F(ConsumerStorms, Rule17_OneKeyThatAlwaysFailsIsNoSystem) {
  options.retry = RetryPolicy::none();
  const auto consumer =
      run([](const Message& message, Context&) { return message.key() == "bad" ? Verdict::retry("bad") : Verdict::done(); });
  for (int i = 0; i < 40; ++i) script->deliver(numbered("bad", i));
  script->deliver(numbered("good", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 41; }));
  EXPECT_EQ(store.dead_letters().size(), 40U);
  EXPECT_FALSE(consumer->status().systemic);
}

TEST_F(ConsumerStorms, Rule17_FewerThanTheLimitAreTheMessages) {
  options.retry = RetryPolicy::none();
  const auto consumer = run([](const Message& message, Context&) {
    return message.event.key.ends_with("0") || message.event.key.ends_with("5") ? Verdict::retry("bad") : Verdict::done();
  });
  for (int i = 0; i < 300; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 300; }));
  EXPECT_EQ(store.dead_letters().size(), 60U);
  EXPECT_FALSE(consumer->status().systemic);
}

TEST_F(ConsumerStorms, Rule17_WithoutADatastoreToo) {
  const auto dead = std::make_shared<Kept>();
  std::atomic<bool> broken{true};
  const auto consumer = run_without_store({.dead_letters = {"memory", "jobs.dead", dead}}, [&](const Message&, Context&) {
    return broken ? Verdict::reject("schema lost") : Verdict::done();
  });
  for (int i = 0; i < 60; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().systemic && script->paused(); }));
  EXPECT_EQ(dead->count, 19U);
  broken = false;
  ASSERT_TRUE(passes(5s, [&] { return consumer->status().done == 41; }));
  EXPECT_EQ(dead->count, 19U);
}

TEST_F(ConsumerStorms, Rule17_InBatchesToo) {
  options.batch = 16;
  std::atomic<bool> broken{true};
  const auto consumer = run([&](const Message& message, Context& context) {
    if (broken) return Verdict::reject("schema lost");
    context.emit({.type = "test.later.v1", .key = message.key()}, 1h);
    return Verdict::done();
  });
  for (int i = 0; i < 100; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().systemic && script->paused(); }));
  const std::size_t dead = store.dead_letters().size();
  EXPECT_LT(dead, 20U);
  broken = false;
  ASSERT_TRUE(passes(5s, [&] { return consumer->status().done == 100 - dead; }));
  EXPECT_EQ(store.dead_letters().size(), dead);
  EXPECT_EQ(store.parked("shipping"), 100 - dead) << "what was scheduled in batches is kept";
  ASSERT_TRUE(passes(1min, [&] { return store.emitted().size() == 100 - dead; }));
}

// --- messages that come too early -------------------------------------------------------------------------------------------

TEST_F(ConsumerStorms, Rule21_AnUnknownVersionIsParkedAndBurnsNoAttempt) {
  options.retry = RetryPolicy::none();
  std::atomic<bool> deployed{false};
  std::atomic<int> refusals{0};
  const auto consumer = run([&](const Message& message, Context& context) {
    if (message.key() == "new" && !deployed) {
      ++refusals;
      return Verdict::unknown_version("shop.order.placed.v3");
    }
    seen.add(message.id() + "#" + std::to_string(context.attempt()));
    return Verdict::done();
  });
  script->deliver(numbered("new", 1));
  script->deliver(numbered("new", 2));
  script->deliver(numbered("old", 1));
  ASSERT_TRUE(passes(10s, [&] { return refusals >= 5; }));
  EXPECT_THAT(seen.all(), ElementsAre("old-1#1"));
  EXPECT_TRUE(store.dead_letters().empty());
  deployed = true;
  ASSERT_TRUE(passes(10s, [&] { return consumer->status().done == 3; }));
  EXPECT_THAT(seen.all(), ElementsAre("old-1#1", "new-1#1", "new-2#1"));
  EXPECT_FALSE(consumer->status().systemic);
}

TEST_F(ConsumerStorms, Rule21_AnUnknownVersionIsADeadLetterWhenItsTimeIsOver) {
  options.postpone_limit = 1h;
  const auto start = clock.now();
  const auto consumer = run([](const Message&, Context&) { return Verdict::unknown_version("shop.order.placed.v3", 5min); });
  script->deliver(numbered("new", 1));
  ASSERT_TRUE(passes(1min, [&] { return !store.dead_letters().empty(); }));
  EXPECT_GT(clock.now() - start, 1h);
  const DeadLetter letter = store.dead_letters().front();
  EXPECT_EQ(letter.reason, "postponed too long: unknown version: shop.order.placed.v3");
  EXPECT_GT(letter.attempts.size(), 5U) << "each is kept";
  EXPECT_EQ(letter.attempts.back().number, 0) << "none counts";
}

TEST_F(ConsumerStorms, Rule21_WithoutADatastoreToo) {
  options.retry = RetryPolicy::none();
  script->traits = {.ordered = false, .replayable = false, .delays = true};
  const auto dead = std::make_shared<Kept>();
  const auto consumer =
      run_without_store({.dead_letters = {"memory", "jobs.dead", dead}}, [&](const Message&, Context& context) {
        seen.add("#" + std::to_string(context.attempt()));
        return seen.size() < 4 ? Verdict::unknown_version("v3") : Verdict::done();
      });
  for (std::uint32_t delivery = 1; delivery <= 4; ++delivery) {
    script->deliver(numbered("", 1), delivery);  // the broker counts each
    ASSERT_TRUE(eventually([&] { return script->retried().size() + script->acked().size() == delivery; }));
  }
  EXPECT_THAT(seen.all(), ElementsAre("#1", "#1", "#1", "#1"));
  EXPECT_GE(script->retried().front().second, 30s);
  EXPECT_EQ(dead->count, 0U);
  EXPECT_EQ(consumer->status().done, 1U);
}

// --- providers --------------------------------------------------------------------------------------------------------------

TEST_F(ConsumerStorms, ACallThatIsRefusedBurnsNoAttempt) {
  options.retry = RetryPolicy::fixed(1s).attempts(2);
  CircuitBreaker payments{
      {.name = "payments", .failures = 1, .of = 1, .pause = RetryPolicy::fixed(1min).attempts(1'000), .clock = &clock}};
  payments.call().failed();
  std::atomic<int> highest{0};
  const auto consumer = run([&](const Message&, Context& context) {
    highest = std::max(highest.load(), context.attempt());
    auto call = payments.call();
    call.succeeded();
    return Verdict::done();
  });
  for (int i = 0; i < 10; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 10; }));
  EXPECT_FALSE(script->paused());
  EXPECT_THAT(consumer->status().last_error, HasSubstr("the circuit breaker of payments is open"));
  ASSERT_TRUE(passes(10s, [&] { return consumer->status().done == 10; }));
  EXPECT_EQ(highest, 1);
}

TEST_F(ConsumerStorms, AProviderThatTheHandlerDependsOnPausesTheSource) {
  CircuitBreaker payments{
      {.name = "payments", .failures = 2, .of = 4, .pause = RetryPolicy::fixed(1min).attempts(1'000), .clock = &clock}};
  options.depends_on = {payments};
  options.retry = RetryPolicy::fixed(1s).attempts(3);
  std::atomic<bool> away{true};
  std::atomic<int> calls{0};
  const auto consumer = run([&](const Message&, Context&) {
    auto call = payments.call();
    ++calls;
    if (away) throw std::runtime_error{"connection refused"};
    call.succeeded();
    return Verdict::done();
  });
  for (int i = 0; i < 10; ++i) script->deliver(numbered("k" + std::to_string(i), 1));
  ASSERT_TRUE(eventually([&] { return script->paused(); }));
  EXPECT_EQ(consumer->status().pause_reason, "the circuit breaker of payments is open");
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 2; }));
  EXPECT_EQ(calls, 2);
  for (int i = 0; i < 50; ++i) clock.advance(1s);
  EXPECT_EQ(calls, 2) << "nobody comes before it is worth it";
  EXPECT_EQ(consumer->status().parked, 2U) << "and what waits is not handled in order to be refused";
  ASSERT_TRUE(passes(1s, [&] { return calls == 3; })) << "one is tried";
  away = false;
  ASSERT_TRUE(passes(1s, [&] { return consumer->status().done == 10; }));
  EXPECT_TRUE(store.dead_letters().empty());
  EXPECT_TRUE(eventually([&] { return !script->paused(); }));
}

TEST_F(ConsumerStorms, ErrorsOfAClassHaveTheirOwnPolicy) {
  struct CardDeclined : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  options.retry = RetryPolicy::fixed(1s).attempts(2).on<CardDeclined>(RetryPolicy::none()).on("busy", RetryPolicy::fixed(1h));
  const auto consumer = run([](const Message& message, Context&) -> Verdict {
    if (message.key() == "declined") throw CardDeclined{"no funds"};
    return message.key() == "busy" ? Verdict::retry("busy").as("busy") : Verdict::retry("other");
  });
  for (const char* key : {"declined", "busy", "other"}) script->deliver(numbered(key, 1));
  ASSERT_TRUE(eventually([&] { return store.dead_letters().size() == 1; }));
  EXPECT_EQ(store.dead_letters()[0].reason, "permanent: no funds");
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 2; }));
  ASSERT_TRUE(passes(100ms, [&] { return store.dead_letters().size() == 2; }));
  EXPECT_EQ(store.dead_letters()[1].reason, "attempts exhausted: other");
  clock.advance(50min);
  EXPECT_EQ(consumer->status().parked, 2U);
  ASSERT_TRUE(passes(1min, [&] { return consumer->status().parked == 3; }));
}

TEST_F(ConsumerStorms, TheTotalTimeOfAPolicyIsThatOfTheMessage) {
  options.retry = RetryPolicy::fixed(10min).attempts(1'000).within(1h);
  const auto start = clock.now();
  const auto consumer = run([](const Message&, Context&) { return Verdict::retry("away"); });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(passes(1min, [&] { return !store.dead_letters().empty(); }));
  EXPECT_GT(clock.now() - start, 50min);
  EXPECT_EQ(store.dead_letters().front().reason, "out of time: away");
  EXPECT_THAT(store.dead_letters().front().attempts.size(), ::testing::AllOf(::testing::Ge(2U), ::testing::Le(7U)));
}

}  // namespace
}  // namespace penstock::test
