// SPDX-License-Identifier: Apache-2.0
#include "conduit/ledger.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace penstock::conduit {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;
using Status = Outcome::Status;

const Outcome kConfirmed{Status::confirmed, {}};

void fulfil(Ledger& ledger) {
  for (auto& batch : ledger.take_completed()) batch.promise.set_value(std::move(batch.outcomes));
}
bool ready(const std::future<Outcomes>& future) { return future.wait_for(0s) == std::future_status::ready; }

TEST(Ledger, ABatchIsCompleteWhenEveryEventHasItsOutcome) {
  Ledger ledger;
  auto& batch = ledger.open(3, SteadyClock::now() + 1h);
  auto future = batch.promise.get_future();
  auto& first = ledger.place(batch, 0, "a");
  ledger.settle(batch, 1, {Status::rejected, "bad"});
  auto& third = ledger.place(batch, 2, "c");
  ledger.seal(batch);
  ledger.report(third, kConfirmed);
  fulfil(ledger);
  EXPECT_FALSE(ready(future));
  ledger.report(first, {Status::retryable, "no"});
  fulfil(ledger);
  ASSERT_TRUE(ready(future));
  const Outcomes outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::retryable);
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_EQ(outcomes[2].status, Status::confirmed);
  EXPECT_EQ(ledger.batches(), 0U);
}

TEST(Ledger, AnEmptyBatchIsCompleteAtOnce) {
  Ledger ledger;
  auto& batch = ledger.open(0, SteadyClock::now());
  auto future = batch.promise.get_future();
  ledger.seal(batch);
  fulfil(ledger);
  EXPECT_TRUE(future.get().empty());
}

TEST(Ledger, ReportsBeforeTheBatchIsSealedCompleteItOnlyThen) {
  Ledger ledger;
  auto& batch = ledger.open(1, SteadyClock::now());
  auto future = batch.promise.get_future();
  ledger.report(ledger.place(batch, 0, "a"), kConfirmed);
  ledger.sweep(SteadyClock::now() + 1h);
  fulfil(ledger);
  EXPECT_FALSE(ready(future));
  ledger.seal(batch);
  fulfil(ledger);
  EXPECT_TRUE(future.get().front().confirmed());
}

TEST(Ledger, TimeRunsOutIntoUnknownAndTheLateReportIsIgnored) {
  Ledger ledger;
  const auto deadline = SteadyClock::now();
  auto& batch = ledger.open(2, deadline);
  auto future = batch.promise.get_future();
  auto& first = ledger.place(batch, 0, "a");
  auto& second = ledger.place(batch, 1, "b");
  ledger.seal(batch);
  ledger.report(second, kConfirmed);
  ledger.sweep(deadline - 1ms);
  fulfil(ledger);
  ASSERT_FALSE(ready(future));
  ledger.sweep(deadline);
  fulfil(ledger);
  const Outcomes outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::confirmed);
  EXPECT_EQ(ledger.unreported(), 1U);
  ledger.report(first, kConfirmed);
  EXPECT_EQ(ledger.batches(), 0U);
  EXPECT_TRUE(ledger.take_completed().empty());
}

TEST(Ledger, AnEventThatComesAgainWaitsForTheMessageThatIsStillThere) {
  Ledger ledger;
  const auto deadline = SteadyClock::now();
  auto& batch = ledger.open(1, deadline);
  auto& slot = ledger.place(batch, 0, "a");
  ledger.seal(batch);
  EXPECT_FALSE(ledger.adopt(batch, 0, "a")) << "its batch still waits for it";
  ledger.sweep(deadline);
  fulfil(ledger);

  auto& again = ledger.open(2, deadline + 1h);
  auto future = again.promise.get_future();
  EXPECT_FALSE(ledger.adopt(again, 0, "b"));
  ledger.settle(again, 0, {Status::rejected, "bad"});
  EXPECT_TRUE(ledger.adopt(again, 1, "a"));
  ledger.seal(again);
  ledger.report(slot, kConfirmed);
  fulfil(ledger);
  EXPECT_EQ(future.get()[1].status, Status::confirmed);
  EXPECT_EQ(ledger.batches(), 0U);
}

TEST(Ledger, AnAdoptedMessageMayBeLateAgainAndBeAdoptedAgain) {
  Ledger ledger;
  const auto start = SteadyClock::now();
  auto* batch = &ledger.open(1, start);
  auto& slot = ledger.place(*batch, 0, "a");
  ledger.seal(*batch);
  for (int round = 1; round < 4; ++round) {
    ledger.sweep(start + std::chrono::seconds{round});
    fulfil(ledger);
    batch = &ledger.open(1, start + std::chrono::seconds{round});
    ASSERT_TRUE(ledger.adopt(*batch, 0, "a"));
    ledger.seal(*batch);
  }
  auto future = batch->promise.get_future();
  ledger.report(slot, kConfirmed);
  fulfil(ledger);
  EXPECT_TRUE(future.get().front().confirmed());
  EXPECT_EQ(ledger.batches(), 0U);
}

TEST(Ledger, OnlyAMessageWithoutCompanyIsAlone) {
  Ledger ledger;
  auto& batch = ledger.open(3, SteadyClock::now() + 1h);
  auto& first = ledger.place(batch, 0, "a");
  EXPECT_TRUE(first.alone);
  auto& second = ledger.place(batch, 1, "b");
  EXPECT_FALSE(first.alone);
  EXPECT_FALSE(second.alone);
  ledger.report(first, kConfirmed);
  ledger.report(second, kConfirmed);
  EXPECT_TRUE(ledger.place(batch, 2, "c").alone);
  ledger.report_all(kConfirmed);
}

TEST(Ledger, ReportAllLeavesNothingWaiting) {
  Ledger ledger;
  const auto start = SteadyClock::now();
  auto& late = ledger.open(1, start);
  ledger.place(late, 0, "late");
  ledger.seal(late);
  ledger.sweep(start);
  auto& open = ledger.open(2, start + 1h);
  auto open_future = open.promise.get_future();
  ledger.place(open, 0, "a");
  auto& sealed = ledger.open(1, start + 1h);
  auto sealed_future = sealed.promise.get_future();
  ledger.place(sealed, 0, "b");
  ledger.seal(sealed);
  ledger.report_all({Status::unknown, "gone"});
  fulfil(ledger);
  EXPECT_EQ(sealed_future.get().front().status, Status::unknown);
  EXPECT_EQ(ledger.unreported(), 0U);
  EXPECT_FALSE(ready(open_future)) << "more may be placed in it";
  ledger.report(ledger.place(open, 1, "c"), kConfirmed);
  ledger.seal(open);
  fulfil(ledger);
  const Outcomes outcomes = open_future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::confirmed);
  EXPECT_EQ(ledger.batches(), 0U);
}

/// Whatever happens in whatever order: every event of every batch gets exactly one outcome, and nothing is left over.
TEST(Ledger, EveryEventGetsItsOutcomeWhateverHappens) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    std::mt19937 random{seed};
    const auto draw = [&](std::size_t below) { return static_cast<std::size_t>(random()) % below; };
    Ledger ledger;
    auto now = SteadyClock::now();
    std::vector<Ledger::Slot*> inside;
    std::vector<std::pair<std::size_t, std::future<Outcomes>>> futures;
    for (int step = 0; step < 300; ++step) {
      now += std::chrono::milliseconds{draw(20)};
      if (const auto what = draw(10); what < 4) {
        const std::size_t events = draw(5);
        auto& batch = ledger.open(events, now + std::chrono::milliseconds{draw(100)});
        futures.emplace_back(events, batch.promise.get_future());
        for (std::size_t i = 0; i < events; ++i) {
          const std::string identity = std::to_string(draw(30));
          if (draw(8) == 0) {
            ledger.settle(batch, i, {Status::rejected, "bad"});
          } else if (!ledger.adopt(batch, i, identity)) {
            inside.push_back(&ledger.place(batch, i, identity));
          }
        }
        ledger.seal(batch);
      } else if (what < 8) {
        for (std::size_t count = draw(6); count > 0 && !inside.empty(); --count) {
          const std::size_t chosen = draw(inside.size());
          ledger.report(*inside[chosen], kConfirmed);
          inside.erase(inside.begin() + static_cast<std::ptrdiff_t>(chosen));
        }
      } else if (what < 9) {
        ledger.sweep(now);
      } else if (draw(10) == 0) {
        ledger.report_all({Status::unknown, "gone"});
        inside.clear();
      }
      ASSERT_EQ(ledger.unreported(), inside.size());
      fulfil(ledger);
    }
    ledger.sweep(now + 1h);
    fulfil(ledger);
    for (auto& [events, future] : futures) {
      ASSERT_TRUE(ready(future));
      EXPECT_EQ(future.get().size(), events);
    }
    for (Ledger::Slot* slot : inside) ledger.report(*slot, kConfirmed);
    EXPECT_EQ(ledger.batches(), 0U);
  }
}

}  // namespace
}  // namespace penstock::conduit
