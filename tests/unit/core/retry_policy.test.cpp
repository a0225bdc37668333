// SPDX-License-Identifier: Apache-2.0
#include "penstock/retry_policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <exception>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error_class.hpp"
#include "penstock/random.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Delays = std::vector<std::optional<RetryPolicy::Duration>>;

class FixedRandom final : public Random {
 public:
  explicit FixedRandom(std::uint64_t bits) : bits_{bits} {}
  std::uint64_t next() override { return bits_; }

 private:
  std::uint64_t bits_;
};
constexpr std::uint64_t least = 0;
constexpr std::uint64_t middle = std::uint64_t{1} << 63U;
constexpr std::uint64_t most = ~std::uint64_t{0};

Delays delays(const RetryPolicy& policy, int up_to, std::uint64_t bits = most) {
  FixedRandom random{bits};
  Delays out;
  for (int attempt = 1; attempt <= up_to; ++attempt) out.push_back(policy.delay(attempt, ErrorClass::transient, random));
  return out;
}

TEST(RetryPolicy, Tables) {
  const std::optional<RetryPolicy::Duration> end;
  EXPECT_EQ(delays(RetryPolicy::none(), 2), (Delays{end, end}));
  EXPECT_EQ(delays(RetryPolicy::fixed(5s).attempts(3), 4), (Delays{5s, 5s, end, end}));
  EXPECT_EQ(delays(RetryPolicy::exponential(200ms).cap(1s).attempts(5), 6), (Delays{200ms, 400ms, 800ms, 1s, end, end}));
  EXPECT_EQ(delays(RetryPolicy::exponential(100ms, 1.5), 8), (Delays{100ms, 150ms, 225ms, 337ms, 506ms, 759ms, 1139ms, end}));
  EXPECT_EQ(delays(RetryPolicy::exponential(100ms, 1.0).attempts(3), 3), (Delays{100ms, 100ms, end}));
  EXPECT_EQ(delays(RetryPolicy::exponential(0ms).attempts(3), 3), (Delays{0ms, 0ms, end}));
  EXPECT_EQ(delays(RetryPolicy::immediate().attempts(3), 3), (Delays{0ms, 0ms, end}));
  EXPECT_EQ(delays(RetryPolicy::linear(100ms).attempts(4), 4), (Delays{100ms, 200ms, 300ms, end}));
  EXPECT_EQ(delays(RetryPolicy::linear(40min).attempts(4), 4), (Delays{40min, 1h, 1h, end}));
  EXPECT_EQ(delays(RetryPolicy::schedule({5s, 5min, 30min}), 4), (Delays{5s, 5min, 30min, end}));
  EXPECT_EQ(delays(RetryPolicy::schedule({5s, 9s}).attempts(5), 5), (Delays{5s, 9s, 9s, 9s, end}));
  EXPECT_EQ(delays(RetryPolicy::schedule({5s, 9s}).attempts(2), 2), (Delays{5s, end}));
  EXPECT_EQ(delays(RetryPolicy::schedule({}), 1), (Delays{end}));
  EXPECT_EQ(delays(RetryPolicy::schedule({}).attempts(2), 2), (Delays{0ms, end}));
}

TEST(RetryPolicy, DefaultsToEightAttemptsAndOneHour) {
  EXPECT_EQ(RetryPolicy::fixed(1s).max_attempts(), 8);
  EXPECT_EQ(RetryPolicy::exponential(1s).max_attempts(), 8);
  EXPECT_EQ(RetryPolicy::schedule({1s, 1s}).max_attempts(), 3);
  EXPECT_EQ(delays(RetryPolicy::exponential(1min, 100).attempts(9), 3), (Delays{1min, 1h, 1h}));
  // What was asked for in so many words is not cut short by a default.
  EXPECT_EQ(delays(RetryPolicy::schedule({5s, 10h, 24h}), 3), (Delays{5s, 10h, 24h}));
  EXPECT_EQ(delays(RetryPolicy::schedule({5s, 10h}).cap(2h), 2), (Delays{5s, 2h}));
}

TEST(RetryPolicy, DoesNotRetryPermanentErrors) {
  FixedRandom random{middle};
  EXPECT_EQ(RetryPolicy::fixed(1s).delay(1, ErrorClass::permanent, random), std::nullopt);
}

TEST(RetryPolicy, CountsFromOneAndTakesLessForOne) {
  EXPECT_EQ(RetryPolicy::exponential(1s).delay(0, ErrorClass::transient, Random::system()), 1s);
  EXPECT_EQ(RetryPolicy::exponential(1s).delay(-5, ErrorClass::transient, Random::system()), 1s);
}

TEST(RetryPolicy, JitterHasItsBounds) {
  auto policy = RetryPolicy::fixed(1001ms);
  policy.jitter(Jitter::full);
  EXPECT_EQ(delays(policy, 1, least).front(), 0ms);
  EXPECT_EQ(delays(policy, 1, middle).front(), 501ms);
  EXPECT_EQ(delays(policy, 1, most).front(), 1001ms);
  policy.jitter(Jitter::equal);
  EXPECT_EQ(delays(policy, 1, least).front(), 500ms);
  EXPECT_EQ(delays(policy, 1, most).front(), 1001ms);
  policy.jitter(Jitter::none);
  EXPECT_EQ(delays(policy, 1, least).front(), 1001ms);
}

TEST(RetryPolicy, JitterSpreadsEvenly) {
  auto policy = RetryPolicy::fixed(9ms);
  policy.jitter(Jitter::full);
  const auto random = Random::seeded(3);
  std::vector<int> seen(10);
  for (int i = 0; i < 10'000; ++i) {
    ++seen.at(static_cast<std::size_t>(policy.delay(1, ErrorClass::transient, *random)->count()));
  }
  for (const int count : seen) EXPECT_NEAR(count, 1000, 150);
}

TEST(RetryPolicy, NeverOverflows) {
  constexpr auto longest = RetryPolicy::Duration::max();
  for (const Jitter jitter : {Jitter::none, Jitter::full, Jitter::equal, Jitter::decorrelated}) {
    for (const double factor : {1.0, 2.0, 1e300}) {
      for (const auto base : {0ms, 1ms, RetryPolicy::Duration{1h}, longest}) {
        for (const auto cap : {RetryPolicy::Duration{30s}, longest}) {
          auto policy =
              RetryPolicy::exponential(base, factor).cap(cap).attempts(std::numeric_limits<int>::max()).jitter(jitter);
          for (const int attempt : {1, 2, 63, 64, 65, 1100, 1'000'000, std::numeric_limits<int>::max() - 1}) {
            for (const std::uint64_t bits : {least, middle, most}) {
              FixedRandom random{bits};
              const auto delay = policy.delay(attempt, ErrorClass::transient, random);
              ASSERT_TRUE(delay);
              EXPECT_GE(*delay, 0ms);
              EXPECT_LE(*delay, cap);
            }
          }
        }
      }
    }
  }
}

TEST(RetryPolicy, RefusesNonsense) {
  EXPECT_THROW(RetryPolicy::fixed(-1ms), std::invalid_argument);
  EXPECT_THROW(RetryPolicy::exponential(-1ms), std::invalid_argument);
  EXPECT_THROW(RetryPolicy::exponential(1s, 0.5), std::invalid_argument);
  EXPECT_THROW(RetryPolicy::exponential(1s, std::numeric_limits<double>::quiet_NaN()), std::invalid_argument);
  EXPECT_THROW(RetryPolicy::schedule({1s, -1ms}), std::invalid_argument);
  EXPECT_THROW(RetryPolicy::none().cap(-1ms), std::invalid_argument);
  try {
    RetryPolicy::none().attempts(0);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("0 attempts"));
  }
}

TEST(RetryPolicy, DecorrelatedJitterGrowsFromTheDelayBefore) {
  const auto policy = RetryPolicy::fixed(100ms).cap(1s).jitter(Jitter::decorrelated);
  const auto delay = [&](std::uint64_t bits, int attempt, std::optional<std::chrono::milliseconds> previous) {
    FixedRandom random{bits};
    return policy.after({.attempt = attempt, .previous = previous}, random).delay;
  };
  EXPECT_EQ(delay(least, 1, {}), 100ms);
  EXPECT_EQ(delay(most, 1, {}), 300ms);
  EXPECT_EQ(delay(least, 2, 250ms), 100ms);
  EXPECT_EQ(delay(most, 2, 250ms), 750ms);
  EXPECT_EQ(delay(most, 3, 750ms), 1s);
  EXPECT_EQ(delay(most, 3, RetryPolicy::Duration::max()), 1s);
  EXPECT_EQ(delay(most, 2, 0ms), 300ms);  // one that came back at once
}

TEST(RetryPolicy, TotalTimeEndsIt) {
  const auto policy = RetryPolicy::fixed(10s).attempts(100).within(1min);
  const auto after = [&](std::chrono::milliseconds elapsed, std::chrono::milliseconds not_before = 0ms) {
    return policy.after({.attempt = 2, .elapsed = elapsed, .not_before = not_before}, Random::system());
  };
  EXPECT_EQ(after(50s).delay, 10s);
  EXPECT_EQ(after(50s + 1ms).delay, std::nullopt);
  EXPECT_EQ(after(50s + 1ms).ended, "out of time");
  EXPECT_EQ(after(1h).ended, "out of time");
  EXPECT_EQ(after(RetryPolicy::Duration::max()).ended, "out of time");
  EXPECT_EQ(after(0s, 2min).ended, "out of time");  // a Retry-After that comes too late
}

TEST(RetryPolicy, RetryAfterIsALowerBoundWhateverTheCap) {
  const auto policy = RetryPolicy::fixed(10s).cap(20s);
  EXPECT_EQ(policy.after({.not_before = 1h}, Random::system()).delay, 1h);
  EXPECT_EQ(policy.after({.not_before = 1s}, Random::system()).delay, 10s);
}

struct CardDeclined : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Expired final : CardDeclined, std::logic_error {
  Expired() : CardDeclined{"expired"}, std::logic_error{"expired"} {}
};

Failure thrown(const std::function<void()>& work) {
  Failure failure;
  try {
    work();
  } catch (...) {
    failure.classes = error_class::of_current_exception();
    failure.thrown = std::current_exception();
  }
  return failure;
}

TEST(RetryPolicy, RulesGoByTypeNameAndFunction) {
  const auto policy = RetryPolicy::fixed(1s)
                          .on<CardDeclined>(RetryPolicy::none())
                          .on("rate_limited", RetryPolicy::fixed(1min).attempts(50))
                          .when(
                              "long", [](const Failure& f) { return f.error.size() > 5; }, RetryPolicy::immediate())
                          .when(
                              "throws", [](const Failure&) -> bool { throw 1; }, RetryPolicy::none());
  const auto after = [&](const Failure& failure) { return policy.after(failure, Random::system()); };
  EXPECT_EQ(after(thrown([] { throw CardDeclined{"no"}; })).ended, "permanent");
  EXPECT_EQ(after(thrown([] { throw Expired{}; })).ended, "permanent");
  EXPECT_EQ(after(thrown([] { throw std::runtime_error{"no"}; })).delay, 1s);
  EXPECT_EQ(after(thrown([] { throw 17; })).delay, 1s);
  EXPECT_EQ(after({.attempt = 20, .classes = {"rate_limited"}}).delay, 1min);
  EXPECT_EQ(after({.attempt = 50, .classes = {"rate_limited"}}).ended, "attempts exhausted");
  EXPECT_EQ(after({.attempt = 8}).ended, "attempts exhausted");
  EXPECT_EQ(after({.error = "too long"}).delay, 0ms);
  EXPECT_EQ(RetryPolicy::none().after({}, Random::system()).ended, "attempts exhausted");
}

TEST(RetryPolicy, ARuleSharesTheOuterTotalTimeUnlessItHasItsOwn) {
  const auto policy =
      RetryPolicy::fixed(1s).within(1min).on("a", RetryPolicy::fixed(1s)).on("b", RetryPolicy::fixed(1s).within(1h));
  EXPECT_EQ(policy.after({.classes = {"a"}, .elapsed = 2min}, Random::system()).ended, "out of time");
  EXPECT_EQ(policy.after({.classes = {"b"}, .elapsed = 2min}, Random::system()).delay, 1s);
}

TEST(RetryPolicy, NamesTypesAndTheirBases) {
  EXPECT_EQ(error_class::lineage(typeid(int)), (std::vector<std::string>{"int"}));
  EXPECT_EQ(error_class::lineage(typeid(std::runtime_error)),
            (std::vector<std::string>{"std::runtime_error", "std::exception"}));
  const auto lineage = error_class::lineage(typeid(Expired));
  EXPECT_THAT(lineage, ::testing::IsSupersetOf({"std::runtime_error", "std::logic_error", "std::exception"}));
  EXPECT_THAT(lineage, ::testing::Contains(RetryPolicy::type_name(typeid(CardDeclined))));
}

TEST(RetryPolicy, DescribesTheActualDelays) {
  EXPECT_EQ(RetryPolicy::none().describe(), "immediate, 1 attempt");
  EXPECT_EQ(RetryPolicy::fixed(5s).attempts(3).describe(), "fixed 5s, 3 attempts: 5s, 5s");
  EXPECT_EQ(RetryPolicy::linear(90s).attempts(4).describe(), "linear 90s, 4 attempts: 90s, 3min, 270s");
  EXPECT_EQ(RetryPolicy::exponential(200ms).cap(1s).attempts(8).within(1h).describe(),
            "exponential 200ms ×2, cap 1s, within 1h, 8 attempts: 200ms, 400ms, 800ms, 1s each");
  EXPECT_EQ(RetryPolicy::exponential(200ms, 1.5).attempts(3).jitter(Jitter::equal).describe(),
            "exponential 200ms ×1.5, jitter equal, 3 attempts: 100ms..200ms, 150ms..300ms");
  EXPECT_EQ(RetryPolicy::fixed(1s).cap(10s).attempts(4).jitter(Jitter::decorrelated).describe(),
            "fixed 1s, cap 10s, jitter decorrelated, 4 attempts: 1s..3s, 1s..9s, 1s..10s");
  EXPECT_EQ(RetryPolicy::schedule({5s, 5min, 2h}).describe(), "schedule, 4 attempts: 5s, 5min, 2h");
  EXPECT_EQ(RetryPolicy::linear(1ms).attempts(1'000).describe().substr(0, 42), "linear 1ms, 1000 attempts: 1ms, 2ms, 3ms, ");
  EXPECT_THAT(RetryPolicy::linear(1ms).attempts(1'000).describe(), ::testing::EndsWith("20ms, … 999ms"));
  EXPECT_EQ(RetryPolicy::fixed(1s)
                .attempts(2)
                .on<CardDeclined>(RetryPolicy::none())
                .on("b", RetryPolicy::fixed(2s).attempts(2))
                .describe(),
            "fixed 1s, 2 attempts: 1s\n  on " + RetryPolicy::type_name(typeid(CardDeclined)) +
                ": never\n  on b: fixed 2s, 2 attempts: 2s");
}

TEST(RetryPolicy, IsWrittenAndReadAsJson) {
  const auto policy =
      RetryPolicy::exponential(200ms).cap(30s).attempts(8).within(1h).jitter(Jitter::full).on("declined", RetryPolicy::none());
  const std::string json =
      R"({"kind":"exponential","delay":"200ms","factor":2.0,"cap":"30s","attempts":8,"within":"1h","jitter":"full",)"
      R"("on":[{"error":"declined","retry":{"kind":"immediate","attempts":1,"jitter":"none"}}]})";
  EXPECT_EQ(policy.to_json(), json);
  EXPECT_EQ(RetryPolicy::from_json(json).describe(), policy.describe());
  EXPECT_EQ(RetryPolicy::from_json(R"({"kind": "none"})").max_attempts(), 1);
  EXPECT_EQ(RetryPolicy::from_json(R"({"kind": "schedule", "delays": ["5s", "1d"]})").describe(),
            "schedule, 3 attempts: 5s, 1d");
  const auto by_code = RetryPolicy::fixed(1s).when(
      "mine", [](const Failure&) { return true; }, RetryPolicy::none());
  EXPECT_THROW(static_cast<void>(by_code.to_json()), std::logic_error);
}

TEST(RetryPolicy, ErrorsInJsonNameTheFieldTheValueAndTheRemedy) {
  const auto error = [](const std::string& json) -> std::string {
    try {
      return "taken: " + RetryPolicy::from_json(json).describe();
    } catch (const std::invalid_argument& refused) {
      return refused.what();
    }
  };
  const std::string time = ": give a whole number with one of the units ms, s, min, h and d, as \"30s\"";
  EXPECT_EQ(error(R"({"kind": "fixed", "delay": "3 parsecs"})"), "RetryPolicy: delay is \"3 parsecs\"" + time);
  EXPECT_EQ(error(R"({"kind": "fixed", "delay": "-3s"})"), "RetryPolicy: delay is \"-3s\"" + time);
  EXPECT_EQ(error(R"({"kind": "fixed", "delay": "9223372036854775807s"})"),
            "RetryPolicy: delay is \"9223372036854775807s\"" + time);
  EXPECT_EQ(error(R"({"kind": "fixed", "delay": 5})"), "RetryPolicy: delay is 5" + time);
  EXPECT_EQ(error(R"({"kind": "fixed"})"), "RetryPolicy: delay is missing" + time);
  EXPECT_EQ(error(R"({"kind": "schedule", "delays": ["1s", ""]})"), "RetryPolicy: delays[1] is \"\"" + time);
  EXPECT_EQ(error(R"({"kind": "fixed", "delay": "1s", "on": [{"error": "a", "retry": {"kind": "fixed", "delay": "x"}}]})"),
            "RetryPolicy: on[0].retry.delay is \"x\"" + time);
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "on": [{"error": "a", "retry": {"kind": "none", "on": []}}]})"),
              HasSubstr("on[0].retry.on is []: there is no such field; known here: kind"));
  EXPECT_THAT(error(R"({"kind": "random"})"), HasSubstr("kind is \"random\": give none, immediate, fixed"));
  EXPECT_THAT(error(R"({"delay": "1s"})"), HasSubstr("kind is missing: give none"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "attemps": 3})"), HasSubstr("attemps is 3: there is no such field"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "delay": "2s"})"), HasSubstr("\"delay\" is given twice"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "attempts": 0})"), HasSubstr("attempts is 0: give a whole number"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "attempts": 2.5})"), HasSubstr("attempts is 2.5: give"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "attempts": 99999999999})"), HasSubstr("attempts is 99999999999"));
  EXPECT_THAT(error(R"({"kind": "exponential", "delay": "1s", "factor": 0.5})"), HasSubstr("factor is 0.5: give a number"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "jitter": "some"})"), HasSubstr("jitter is \"some\": give none, full"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "on": {}})"), HasSubstr("on is {}: give a list"));
  EXPECT_THAT(error(R"({"kind": "fixed", "delay": "1s", "on": [{"error": "", "retry": {"kind": "none"}}]})"),
              HasSubstr("on[0].error is \"\""));
  EXPECT_THAT(error("[]"), HasSubstr("the policy is []: give an object"));
  EXPECT_THAT(error("{"), HasSubstr("is no JSON"));
}

namespace any {

rc::Gen<RetryPolicy::Duration> duration() {
  return rc::gen::map(rc::gen::oneOf(rc::gen::inRange<std::int64_t>(0, 100'000'000), rc::gen::positive<std::int64_t>()),
                      [](std::int64_t count) { return RetryPolicy::Duration{count}; });
}

RetryPolicy plain_policy() {
  RetryPolicy policy = RetryPolicy::none();
  switch (*rc::gen::inRange(0, 6)) {
    case 0: break;
    case 1: policy = RetryPolicy::immediate(); break;
    case 2: policy = RetryPolicy::fixed(*duration()); break;
    case 3: policy = RetryPolicy::linear(*duration()); break;
    case 4: policy = RetryPolicy::exponential(*duration(), 1.0 + *rc::gen::inRange(0, 1000) / 7.0); break;
    default: policy = RetryPolicy::schedule(*rc::gen::container<std::vector<RetryPolicy::Duration>>(duration())); break;
  }
  if (*rc::gen::arbitrary<bool>()) policy.cap(*duration());
  if (*rc::gen::arbitrary<bool>()) policy.within(*duration());
  if (*rc::gen::arbitrary<bool>()) policy.attempts(*rc::gen::inRange(1, std::numeric_limits<int>::max()));
  return policy.jitter(*rc::gen::element(Jitter::none, Jitter::full, Jitter::equal, Jitter::decorrelated));
}

RetryPolicy policy() {
  RetryPolicy policy = plain_policy();
  for (int rules = *rc::gen::inRange(0, 3); rules > 0; --rules) {
    policy.on(*rc::gen::nonEmpty(rc::gen::string<std::string>()), plain_policy());
  }
  return policy;
}

}  // namespace any

RC_GTEST_PROP(RetryPolicyProperties, JsonBringsBackThePolicy, ()) {
  const RetryPolicy policy = any::policy();
  const RetryPolicy again = RetryPolicy::from_json(policy.to_json());
  RC_ASSERT(again.to_json() == policy.to_json());
  const Failure failure{.attempt = *rc::gen::inRange(1, 12), .elapsed = *any::duration(), .not_before = *any::duration()};
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const auto delay = policy.after(failure, *Random::seeded(seed));
  RC_ASSERT(again.after(failure, *Random::seeded(seed)).delay == delay.delay);
  RC_ASSERT(delay.delay.has_value() == delay.ended.empty());
  RC_ASSERT(!policy.describe().empty());
}

RC_GTEST_PROP(RetryPolicyProperties, GarbageIsRefusedWithAReason, ()) {
  // Whole policies with some bytes changed come further than mere noise does.
  std::string json = *rc::gen::arbitrary<bool>() ? any::policy().to_json() : *rc::gen::string<std::string>();
  for (int changes = *rc::gen::inRange(0, 4); changes > 0 && !json.empty(); --changes) {
    const auto at = *rc::gen::inRange<std::size_t>(0, json.size());
    json.replace(at, *rc::gen::inRange<std::size_t>(0, 4),
                 *rc::gen::element<std::string>("", "{", "\"", "-1", "null", "\xff", ","));
  }
  try {
    RC_ASSERT(!RetryPolicy::from_json(json).describe().empty());
  } catch (const std::invalid_argument& error) {
    RC_ASSERT(std::string{error.what()}.rfind("RetryPolicy: ", 0) == 0);
  }
}

}  // namespace
}  // namespace penstock
