// SPDX-License-Identifier: Apache-2.0
#include "beacon/ledger.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace penstock::beacon {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;

const auto yes = [] { return true; };

struct BeaconLedger : testing::Test {
  Ledger ledger;
  std::shared_ptr<Window> window = std::make_shared<Window>(Window{.subjects = {"s"}, .stream = "s", .limit = 2});
  Instant later = SteadyClock::now() + 1h;

  /// Takes a place for an event, and sends it.
  Ledger::Place send(const std::shared_ptr<Ledger::Batch>& batch, std::size_t index) {
    const auto place = ledger.take_place(*batch, index, 0, yes);
    if (place == Ledger::Place::taken) {
      Ledger::Letter letter = letter_of(batch, index);
      EXPECT_EQ(ledger.depart({&letter, 1}), 1U);
    }
    return place;
  }
  static Ledger::Letter letter_of(const std::shared_ptr<Ledger::Batch>& batch, std::size_t index) {
    return {.batch = batch, .index = index, .bytes = 0, .message = {}, .connection = {}};
  }

  static bool ready(std::future<Outcomes>& future) { return future.wait_for(0s) == std::future_status::ready; }
};

TEST_F(BeaconLedger, EveryEventGetsItsOwnOutcomeInTheOrderGiven) {
  window->limit = 3;
  const auto batch = ledger.enter(3, window, later);
  auto future = batch->promise.get_future();
  for (std::size_t i = 0; i < 3; ++i) ASSERT_EQ(send(batch, i), Ledger::Place::taken);
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
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ASSERT_EQ(send(batch, 1), Ledger::Place::taken);
  std::thread answer{[&] { ledger.settle(batch->first, {Status::confirmed, {}}); }};
  EXPECT_EQ(send(batch, 2), Ledger::Place::taken);
  answer.join();
}

TEST_F(BeaconLedger, AFullWindowGivesUpAtTheDeadlineAndWhenTheConnectionEnds) {
  const auto batch = ledger.enter(4, window, SteadyClock::now() + 20ms);
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ASSERT_EQ(send(batch, 1), Ledger::Place::taken);
  EXPECT_EQ(send(batch, 2), Ledger::Place::late);
  EXPECT_EQ(ledger.take_place(*batch, 2, 0, [] { return false; }), Ledger::Place::unusable);
}

TEST_F(BeaconLedger, BytesThatWaitToBeSentAreBounded) {
  constexpr std::size_t large = std::size_t{9} << 20U;
  window->limit = 3;
  const auto batch = ledger.enter(3, window, SteadyClock::now() + 20ms);
  ASSERT_EQ(ledger.take_place(*batch, 0, 100 * large, yes), Ledger::Place::taken) << "one alone always has room";
  Ledger::Letter letter = letter_of(batch, 0);
  letter.bytes = 100 * large;
  ASSERT_EQ(ledger.depart({&letter, 1}), 1U);
  ASSERT_EQ(ledger.take_place(*batch, 1, large, yes), Ledger::Place::taken);
  EXPECT_EQ(ledger.take_place(*batch, 2, large, yes), Ledger::Place::late);

  const auto next = ledger.enter(1, window, later);
  std::thread sender{[&] {
    Ledger::Letter second = letter_of(batch, 1);
    second.bytes = large;
    EXPECT_EQ(ledger.depart({&second, 1}), 1U);
  }};
  EXPECT_EQ(ledger.take_place(*next, 0, large, yes), Ledger::Place::taken);
  sender.join();
}

TEST_F(BeaconLedger, DeadlinesTellSentFromNotSent) {
  const auto batch = ledger.enter(3, window, SteadyClock::now());
  auto future = batch->promise.get_future();
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ASSERT_EQ(send(batch, 1), Ledger::Place::taken);
  ledger.mark_unrouted(batch->first + 1);
  ASSERT_EQ(ledger.unrouted().size(), 1U);
  EXPECT_EQ(ledger.unrouted().front().token, batch->first + 1);
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
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ASSERT_EQ(send(batch, 1), Ledger::Place::taken);
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  EXPECT_FALSE(ready(future)) << "one of two, and which is not said";
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  ASSERT_TRUE(ready(future));
  for (const auto& outcome : future.get()) EXPECT_EQ(outcome.status, Status::rejected);
}

TEST_F(BeaconLedger, ARefusalIsNotTakenForAnEventThatMayBeStored) {
  const auto first = ledger.enter(2, window, SteadyClock::now());
  auto expired = first->promise.get_future();
  ASSERT_EQ(send(first, 0), Ledger::Place::taken);
  ASSERT_EQ(send(first, 1), Ledger::Place::taken);
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  ledger.sweep(SteadyClock::now());
  ASSERT_TRUE(ready(expired));
  for (const auto& outcome : expired.get()) EXPECT_EQ(outcome.status, Status::unknown) << "one of them may be stored";

  const auto second = ledger.enter(1, window, later);
  auto held = second->promise.get_future();
  ASSERT_EQ(ledger.take_place(*second, 0, 0, yes), Ledger::Place::taken);
  std::atomic<bool> gone = false;
  std::thread sender{[&] {
    Ledger::Letter letter = letter_of(second, 0);
    EXPECT_EQ(ledger.depart({&letter, 1}), 1U);
    EXPECT_NE(letter.batch, nullptr);
    gone = true;
  }};
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(gone) << "nothing more is sent until the count comes out";
  ledger.settle(first->first, {Status::confirmed, {}});  // the one that was stored, answered late
  sender.join();
  EXPECT_FALSE(ready(held));
  ledger.settle(second->first, {Status::confirmed, {}});
  EXPECT_TRUE(ready(held));
}

TEST_F(BeaconLedger, WhatGoesTogetherIsNotHeldUpByItsOwnCount) {
  const auto batch = ledger.enter(2, window, later);
  auto future = batch->promise.get_future();
  std::vector<Ledger::Letter> letters;
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(ledger.take_place(*batch, i, 0, yes), Ledger::Place::taken);
    letters.push_back(letter_of(batch, i));
  }
  ASSERT_EQ(ledger.depart({letters.data(), 1}), 1U);
  const auto other = ledger.enter(1, std::make_shared<Window>(Window{.subjects = {"o"}, .stream = "o", .limit = 1}), later);
  auto others = other->promise.get_future();
  ASSERT_EQ(ledger.take_place(*other, 0, 0, yes), Ledger::Place::taken);
  std::vector<Ledger::Letter> more;
  more.push_back(letter_of(other, 0));
  more.push_back(letter_of(batch, 1));
  // One of two to the subject is refused: which, is not known before the other has gone.
  const auto third = ledger.enter(1, window, later);
  window->limit = 3;
  ASSERT_EQ(send(third, 0), Ledger::Place::taken);
  auto last = third->promise.get_future();
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  EXPECT_EQ(ledger.depart(more), 1U) << "the other subject's goes, and this one's waits for its turn";
  ledger.deny(ledger.connection(), "s", "Permissions Violation");
  EXPECT_TRUE(ready(last)) << "the count came out";
  EXPECT_EQ(ledger.depart({&more[1], 1}), 1U);
  ledger.settle(batch->first + 1, {Status::confirmed, {}});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::rejected);
  EXPECT_EQ(outcomes[1].status, Status::confirmed);
  ledger.settle_sent({Status::unknown, "end"});
}

TEST_F(BeaconLedger, WhatHasItsOutcomeIsNotSentAnyMore) {
  const auto batch = ledger.enter(2, window, SteadyClock::now());
  auto future = batch->promise.get_future();
  std::vector<Ledger::Letter> letters;
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(ledger.take_place(*batch, i, 0, yes), Ledger::Place::taken);
    letters.push_back(letter_of(batch, i));
  }
  ledger.sweep(SteadyClock::now());
  ASSERT_TRUE(ready(future));
  for (const auto& outcome : future.get()) EXPECT_EQ(outcome.status, Status::retryable);
  EXPECT_EQ(ledger.depart(letters), 2U);
  for (const auto& letter : letters) EXPECT_EQ(letter.batch, nullptr);
}

TEST_F(BeaconLedger, ALostConnectionTellsWhatHadNotGoneYet) {
  const auto batch = ledger.enter(2, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ASSERT_EQ(ledger.take_place(*batch, 1, 0, yes), Ledger::Place::taken);
  ledger.settle_sent({Status::unknown, "the connection was lost"});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable);
  EXPECT_EQ(window->in_flight, 0U);
}

TEST_F(BeaconLedger, ARefusalOfAnEarlierConnectionSaysNothingOfThisOne) {
  const auto before = ledger.connection();
  ledger.settle_sent({Status::unknown, "lost"});
  const auto batch = ledger.enter(1, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ledger.deny(before, "s", "Permissions Violation");
  EXPECT_FALSE(ready(future));
  ledger.settle_all(*window);
}

TEST_F(BeaconLedger, ALostConnectionLeavesWhatWasNotSent) {
  const auto batch = ledger.enter(2, window, later);
  auto future = batch->promise.get_future();
  ASSERT_EQ(send(batch, 0), Ledger::Place::taken);
  ledger.settle_sent({Status::unknown, "lost"});
  EXPECT_FALSE(ready(future));
  ledger.settle_waiting(*batch, 0, {Status::retryable, "not sent"});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable);
}

TEST_F(BeaconLedger, ARefusedPartitionIsNoOthers) {
  const auto orders = std::make_shared<Window>(Window{.subjects = {"o.0", "o.1"}, .stream = "o", .limit = 3});
  const auto batch = ledger.enter(3, orders, later, {1, 0, 1});
  auto future = batch->promise.get_future();
  EXPECT_EQ(batch->subject(0), "o.1");
  EXPECT_EQ(batch->subject(1), "o.0");
  for (std::size_t i = 0; i < 3; ++i) ASSERT_EQ(send(batch, i), Ledger::Place::taken);
  ledger.deny(ledger.connection(), "o.1", "Permissions Violation");
  ledger.deny(ledger.connection(), "o.1", "Permissions Violation");
  EXPECT_FALSE(ready(future));
  ledger.settle(batch->first + 1, {Status::confirmed, {}});
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::rejected);
  EXPECT_EQ(outcomes[1].status, Status::confirmed);
  EXPECT_EQ(outcomes[2].status, Status::rejected);
}

TEST_F(BeaconLedger, APublisherThatEndsSettlesItsOwn) {
  const auto other = std::make_shared<Window>(Window{.subjects = {"o"}, .stream = "o", .limit = 1});
  const auto mine = ledger.enter(2, window, later);
  const auto others = ledger.enter(1, other, later);
  auto future = mine->promise.get_future();
  auto left = others->promise.get_future();
  ASSERT_EQ(send(mine, 0), Ledger::Place::taken);
  ledger.settle_all(*window);
  ASSERT_TRUE(ready(future));
  const auto outcomes = future.get();
  EXPECT_EQ(outcomes[0].status, Status::unknown);
  EXPECT_EQ(outcomes[1].status, Status::retryable);
  EXPECT_FALSE(ready(left));
}

}  // namespace
}  // namespace penstock::beacon
