// SPDX-License-Identifier: Apache-2.0
#include "penstock/retry_policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/random.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
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
  for (const Jitter jitter : {Jitter::none, Jitter::full, Jitter::equal}) {
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

}  // namespace
}  // namespace penstock
