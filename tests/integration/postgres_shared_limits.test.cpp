// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "penstock/call_refused.hpp"
#include "penstock/shared_limits.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::postgres_url;
using ::testing::HasSubstr;

/// Two processes' limits; each has connections of its own.
class SharedLimitsTest : public ::testing::Test {
 protected:
  test::Schema schema_{"penstock_limits"};
  SharedLimits here_{postgres_url(), {.schema = schema_.name()}};
  SharedLimits there_{postgres_url(), {.schema = schema_.name()}};

  /// Ends the sessions that hold places, as the death of their process does.
  void end_sessions_with_places() {
    schema_.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND "
        "(classid::bigint << 32) + objid::bigint = ANY (SELECT hashtextextended('" +
        schema_.name() + ".bulkhead.printing', n) FROM generate_series(1, 4) n)");
  }
};

std::chrono::milliseconds refused_for(RateLimit& limit) {
  try {
    limit.take();
  } catch (const CallRefused& refused) {
    return refused.retry_in();
  }
  return {};
}

TEST_F(SharedLimitsTest, TwoProcessesTakeTheirTurnsFromOneBucket) {
  constexpr int calls = 15;
  const auto begun = std::chrono::steady_clock::now();
  std::vector<std::jthread> processes;
  for (SharedLimits* process : {&here_, &there_}) {
    processes.emplace_back([process] {
      RateLimit limit = process->rate_limit({.name = "geocoding", .per_second = 50, .burst = 10, .patience = 30s});
      for (int i = 0; i < calls; ++i) limit.take();
    });
  }
  processes.clear();
  // 30 calls, of which 10 were saved up.
  EXPECT_GE(std::chrono::steady_clock::now() - begun, 20 * 20ms - 1ms);
}

TEST_F(SharedLimitsTest, WhoIsRefusedIsToldATimeOfItsOwn) {
  const RateLimitOptions slow{.name = "slow", .per_second = 0.1, .patience = 0ms};
  RateLimit first = here_.rate_limit(slow);
  RateLimit second = there_.rate_limit(slow);
  first.take();
  const auto one = refused_for(second);
  const auto other = refused_for(first);
  EXPECT_GT(one, 0ms);
  EXPECT_LE(one, 10s);
  EXPECT_GT(other, one + 5s) << "ten seconds later, less what the calls took";
}

TEST_F(SharedLimitsTest, NamesDoNotMeet) {
  const RateLimitOptions slow{.name = "one", .per_second = 0.01, .patience = 0ms};
  here_.rate_limit(slow).take();
  there_.rate_limit({.name = "another", .per_second = 0.01, .patience = 0ms}).take();
  RateLimit again = there_.rate_limit(slow);
  EXPECT_GT(refused_for(again), 0ms);
}

TEST_F(SharedLimitsTest, TwoProcessesShareThePlaces) {
  Bulkhead here = here_.bulkhead({.name = "printing", .calls = 2, .patience = 50ms});
  Bulkhead there = there_.bulkhead({.name = "printing", .calls = 2, .patience = 50ms});
  std::optional<Bulkhead::Place> first{here.enter()};
  const auto second = there.enter();
  try {
    const auto third = there.enter();
    FAIL() << "a third of two places";
  } catch (const CallRefused& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("printing has 2 calls at once"));
    EXPECT_EQ(refused.retry_in(), 50ms);
  }
  EXPECT_THROW(static_cast<void>(here.enter()), CallRefused) << "a session could take its own lock again";
  first.reset();
  const auto third = there.enter();
  EXPECT_THROW(static_cast<void>(here.enter()), CallRefused);
}

TEST_F(SharedLimitsTest, NeverMoreThanThePlacesAtOnce) {
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::vector<std::jthread> threads;
  for (SharedLimits* process : {&here_, &there_}) {
    Bulkhead shared = process->bulkhead({.name = "printing", .calls = 3, .patience = 60s});
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([shared, &running, &most]() mutable {
        for (int call = 0; call < 10; ++call) {
          const auto place = shared.enter();
          const int now = ++running;
          for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
          }
          std::this_thread::sleep_for(1ms);
          --running;
        }
      });
    }
  }
  threads.clear();
  EXPECT_LE(most, 3);
  EXPECT_GE(most, 1);
}

TEST_F(SharedLimitsTest, ThePlacesOfAProcessThatDiedAreFree) {
  Bulkhead here = here_.bulkhead({.name = "printing", .calls = 1, .patience = 0ms});
  Bulkhead there = there_.bulkhead({.name = "printing", .calls = 1, .patience = 10s});
  auto lost = std::make_optional(here.enter());
  end_sessions_with_places();
  auto place = std::make_optional(there.enter());
  lost.reset();  // gives back nothing that is another's
  EXPECT_THROW(static_cast<void>(here.enter()), CallRefused) << "its connection is broken";
  EXPECT_THROW(static_cast<void>(here.enter()), CallRefused) << "and the new one finds the place taken";
  place.reset();
  EXPECT_NO_THROW(static_cast<void>(here.enter()));
}

TEST_F(SharedLimitsTest, WithoutPostgresACallIsRefusedAndShowsNoPassword) {
  SharedLimits away{"postgresql://me:hidden-word@127.0.0.1:1/none", {.schema = schema_.name()}};
  RateLimit limit = away.rate_limit({.name = "geocoding", .per_second = 1});
  try {
    limit.take();
    FAIL() << "a turn from nowhere";
  } catch (const CallRefused& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("the rate limit of geocoding is shared, and Postgres does not answer"));
    EXPECT_THAT(refused.what(), ::testing::Not(HasSubstr("hidden-word")));
    EXPECT_EQ(refused.retry_in(), 1s);
  }
}

TEST_F(SharedLimitsTest, ASchemaWithoutThemIsNoRefusal) {
  SharedLimits nowhere{postgres_url(), {.schema = "penstock_of_nobody"}};
  RateLimit limit = nowhere.rate_limit({.name = "geocoding", .per_second = 1});
  try {
    limit.take();
    FAIL() << "a turn from nowhere";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(dynamic_cast<const CallRefused*>(&error), nullptr) << "waiting does not help";
    EXPECT_THAT(error.what(), HasSubstr("run penstock::migrate"));
  }
}

TEST_F(SharedLimitsTest, OptionsAreCheckedBeforeAnythingIsAsked) {
  SharedLimits away{"postgresql://127.0.0.1:1/none"};
  EXPECT_THROW(static_cast<void>(away.rate_limit({.name = "x", .per_second = 0})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(away.bulkhead({.name = "x", .calls = 0})), std::invalid_argument);
  EXPECT_THROW((SharedLimits{"postgresql:///", {.schema = "no schema!"}}), std::invalid_argument);
}

TEST_F(SharedLimitsTest, AStopEndsTheWait) {
  Bulkhead here = here_.bulkhead({.name = "printing", .calls = 1, .patience = 1h});
  const auto place = here.enter();
  std::stop_source stop;
  std::jthread later{[&] {
    std::this_thread::sleep_for(50ms);
    stop.request_stop();
  }};
  EXPECT_THROW(static_cast<void>(here.enter(stop.get_token())), CallRefused);
}

}  // namespace
}  // namespace penstock
