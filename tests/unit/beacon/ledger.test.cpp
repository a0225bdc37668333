// SPDX-License-Identifier: Apache-2.0
#include "beacon/ledger.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>

namespace penstock::beacon {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;

const auto yes = [] { return true; };

struct BeaconLedger : testing::Test {
  Ledger ledger;
  std::shared_ptr<Window> window = std::make_shared<Window>(Window{.subject = "s", .stream = "s", .limit = 2});
  Instant later = SteadyClock::now() + 1h;

  static bool ready(std::future<Outcomes>& future) { return future.wait_for(0s) == std::future_status::ready; }
};

TEST_F(BeaconLedger, EveryEventGetsItsOwnOutcomeInTheOrderGiven) {
  window->limit = 3;
  const auto batch = ledger.enter(3, window, later);
  auto future = batch->promise.get_future();
  for (std::size_t i = 0; i < 3; ++i) ASSERT_EQ(ledger.take_place(*batch, i, yes), Ledger::Place::taken);
  ledger.settle(batch->first + 2, {Status::rejected, "no"});
  ledger.settle(batch->first, {Status::confirmed, {}});
  EXPECT_FALSE(ready(future));
  ledger.settle(batch->first, {Status::unknown, "a second answer changes nothing"});
  ledger.settle(batch->first + 1, {Status::unknown, "?"});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::confirmed);
  EXPECT_EQ(outcomes[1].status, Status::unknown);
  EXPECT_EQ(outcomes[2].status, Status::rejected);
  EXPECT_TRUE(ledger.idle());
  EXPECT_EQ(window->in_flight, 0U);
}

TEST_F(BeaconLedger, NoEventsAreReadyAtOnce) {
  auto future = ledger.enter(0, window, later)->promise.get_future();
  EXPECT_TRUE(ready(future));
}

TEST_F(BeaconLedger, TokensFindTheirBatch) {
  const auto one = ledger.enter(1, window, later);
  const auto two = ledger.enter(1, window, later);
  auto first = one->promise.get_future();
  auto second = two->promise.get_future();
  ledger.settle(two->first, {Status::confirmed, {}});
  EXPECT_TRUE(ready(second));
  EXPECT_FALSE(ready(first));
  ledger.settle(0, {});
  ledger.settle(two->first + 5, {});
  EXPECT_FALSE(ready(first));
}

TEST_F(BeaconLedger, AFullWindowWaitsForAnAnswer) {
  const auto batch = ledger.enter(3, window, later);
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*batch, 1, yes), Ledger::Place::taken);
  std::thread answer{[&] { ledger.settle(batch->first, {Status::confirmed, {}}); }};
  EXPECT_EQ(ledger.take_place(*batch, 2, yes), Ledger::Place::taken);
  answer.join();
}

TEST_F(BeaconLedger, AFullWindowGivesUpAtTheDeadlineAndWhenTheConnectionEnds) {
  const auto batch = ledger.enter(4, window, SteadyClock::now() + 20ms);
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*batch, 1, yes), Ledger::Place::taken);
  EXPECT_EQ(ledger.take_place(*batch, 2, yes), Ledger::Place::late);
  EXPECT_EQ(ledger.take_place(*batch, 2, [] { return false; }), Ledger::Place::unusable);
}

TEST_F(BeaconLedger, DeadlinesTellSentFromNotSent) {
  const auto batch = ledger.enter(3, window, SteadyClock::now());
  auto future = batch->promise.get_future();
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*batch, 1, yes), Ledger::Place::taken);
  ledger.mark_unrouted(batch->first + 1);
  ASSERT_EQ(ledger.unrouted().size(), 1U);
  EXPECT_EQ(ledger.unrouted().front().first, batch->first + 1);
  ledger.sweep(SteadyClock::now());
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable) << "nobody took it";
  EXPECT_EQ(outcomes[2].status, Status::retryable);
  EXPECT_EQ(window->in_flight, 0U);
  EXPECT_TRUE(ledger.unrouted().empty());
}

TEST_F(BeaconLedger, WhatTheServerRefusedIsRejectedAtOnceWhenItCanBeNothingElse) {
  const auto batch = ledger.enter(2, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*batch, 1, yes), Ledger::Place::taken);
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  EXPECT_FALSE(ready(future)) << "one of two, and which is not said";
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  ASSERT_TRUE(ready(future));
  for (const auto& outcome : future.get()) EXPECT_EQ(outcome.status, Status::rejected);
}

TEST_F(BeaconLedger, ARefusalIsNotTakenForAnEventThatMayBeStored) {
  const auto first = ledger.enter(2, window, SteadyClock::now());
  auto expired = first->promise.get_future();
  ASSERT_EQ(ledger.take_place(*first, 0, yes), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*first, 1, yes), Ledger::Place::taken);
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  ledger.sweep(SteadyClock::now());
  ASSERT_TRUE(ready(expired));
  for (const auto& outcome : expired.get()) EXPECT_EQ(outcome.status, Status::unknown) << "one of them may be stored";

  const auto second = ledger.enter(1, window, SteadyClock::now() + std::chrono::milliseconds{10});
  auto held = second->promise.get_future();
  EXPECT_EQ(ledger.take_place(*second, 0, yes), Ledger::Place::late) << "nothing more is sent until the count comes out";
  ledger.settle(first->first, {Status::confirmed, {}});  // the one that was stored, answered late
  EXPECT_EQ(ledger.take_place(*ledger.enter(1, window, later), 0, yes), Ledger::Place::taken);
  ledger.settle_waiting(*second, 0, {Status::retryable, "late"});
}

TEST_F(BeaconLedger, ARefusalOfAnEarlierConnectionSaysNothingOfThisOne) {
  const auto before = ledger.connection();
  ledger.settle_sent({Status::unknown, "lost"});
  const auto batch = ledger.enter(1, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ledger.deny(before, "s", "Permissions Violation");
  EXPECT_FALSE(ready(future));
  ledger.settle_all(*window);
}

TEST_F(BeaconLedger, ALostConnectionLeavesWhatWasNotSent) {
  const auto batch = ledger.enter(2, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(ledger.take_place(*batch, 0, yes), Ledger::Place::taken);
  ledger.settle_sent({Status::unknown, "lost"});
  EXPECT_FALSE(ready(future));
  ledger.settle_waiting(*batch, 0, {Status::retryable, "not sent"});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable);
}

TEST_F(BeaconLedger, APublisherThatEndsSettlesItsOwn) {
  const auto other = std::make_shared<Window>(Window{.subject = "o", .stream = "o", .limit = 1});
  const auto mine = ledger.enter(2, window, later);
  const auto others = ledger.enter(1, other, later);
  auto future = mine->promise.get_future();
  auto left = others->promise.get_future();
  ASSERT_EQ(ledger.take_place(*mine, 0, yes), Ledger::Place::taken);
  ledger.settle_all(*window);
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable);
  EXPECT_FALSE(ready(left));
}

}  // namespace
}  // namespace penstock::beacon
