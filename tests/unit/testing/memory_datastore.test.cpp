// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/memory_datastore.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "penstock/testing/manual_clock.hpp"
#include "support/scripted_source.hpp"

namespace penstock::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using Admission = Datastore::Admission;

Message message(const std::string& key, int number) {
  Message result;
  result.event = test::numbered(key, number);
  result.wire = encode(result.event, Binding::kafka);
  result.origin = {.backend = "memory", .channel = "jobs", .partition = 0, .position = number};
  return result;
}

Attempt failed(int number, const std::string& error) {
  Attempt attempt;
  attempt.number = number;
  attempt.error = error;
  return attempt;
}

class MemoryDatastoreTest : public ::testing::Test {
 protected:
  ManualClock clock;
  MemoryDatastore store{clock};
  std::unique_ptr<Datastore::Session> session = store.session("g");
  std::unique_ptr<Datastore::Session> other = store.session("g");
};

TEST_F(MemoryDatastoreTest, MarksOnlyWhatIsCompleted) {
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
  EXPECT_FALSE(other->settled(message("a", 1)));
  session->abandon();
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
  const Event event = test::numbered("x", 9);
  session->complete({&event, 1}, {});
  EXPECT_TRUE(other->settled(message("a", 1)));
  EXPECT_EQ(session->begin(message("a", 1)), Admission::duplicate);
  EXPECT_THAT(store.emitted(), ElementsAre(event));
}

TEST_F(MemoryDatastoreTest, GroupsAreApart) {
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->complete({}, {});
  EXPECT_EQ(store.session("h")->begin(message("a", 1)), Admission::fresh);
}

TEST_F(MemoryDatastoreTest, AMessageInWorkElsewhereIsAConflict) {
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
  EXPECT_THROW(other->begin(message("a", 1)), TransactionConflict);
  session.reset();  // a worker that dies
  EXPECT_EQ(other->begin(message("a", 1)), Admission::fresh);
}

TEST_F(MemoryDatastoreTest, ParksUntilItsTimeAndTheKeyBehindIt) {
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->park(failed(1, "one"), 1min);
  EXPECT_EQ(session->begin(message("a", 2)), Admission::behind);
  EXPECT_EQ(session->begin(message("b", 1)), Admission::fresh);
  session->complete({}, {});
  EXPECT_EQ(session->begin(message("a", 1)), Admission::duplicate);
  EXPECT_EQ(store.parked("g"), 2U);
  EXPECT_EQ(session->due(10), 0U);
  EXPECT_FALSE(session->begin_due());

  clock.advance(1min);
  EXPECT_EQ(session->due(10), 1U);
  auto due = session->begin_due();
  ASSERT_TRUE(due);
  EXPECT_EQ(due->message.id(), "a-1");
  EXPECT_EQ(due->attempt, 2);
  EXPECT_FALSE(other->begin_due()) << "another worker's is skipped, its successor waits";
  session->park(failed(2, "two"), 1min);
  EXPECT_FALSE(session->begin_due());

  clock.advance(1min);
  ASSERT_TRUE(session->begin_due());
  session->complete({}, {});
  due = session->begin_due();
  ASSERT_TRUE(due);
  EXPECT_EQ(due->message.id(), "a-2");
  EXPECT_EQ(due->attempt, 1);
  session->complete({}, {});
  EXPECT_EQ(store.parked("g"), 0U);
  EXPECT_EQ(session->begin(message("a", 3)), Admission::fresh);
}

TEST_F(MemoryDatastoreTest, AnAbandonedDueMessageIsStillDue) {
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->park(failed(1, "one"), 0ms);
  ASSERT_TRUE(session->begin_due());
  session->abandon();
  const auto due = other->begin_due();
  ASSERT_TRUE(due);
  EXPECT_EQ(due->attempt, 2);
}

TEST_F(MemoryDatastoreTest, BuriesWithTheHistoryAndReleasesTheSuccessor) {
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->park(failed(1, "one"), 0ms);
  ASSERT_EQ(session->begin(message("a", 2)), Admission::behind);
  ASSERT_TRUE(session->begin_due());
  session->bury(failed(2, "two"), "given up");
  ASSERT_EQ(store.dead_letters().size(), 1U);
  const DeadLetter letter = store.dead_letters()[0];
  EXPECT_EQ(letter.reason, "given up");
  ASSERT_EQ(letter.attempts.size(), 2U);
  EXPECT_EQ(letter.attempts[0].error, "one");
  EXPECT_EQ(letter.attempts[1].error, "two");
  EXPECT_EQ(letter.attempts[1].at, format_time(clock.now()));
  EXPECT_EQ(session->begin(message("a", 1)), Admission::duplicate);
  const auto due = session->begin_due();
  ASSERT_TRUE(due);
  EXPECT_EQ(due->message.id(), "a-2");
}

TEST_F(MemoryDatastoreTest, AMalformedMessageIsBuriedOnce) {
  Message broken = message("a", 1);
  broken.defect = "no id";
  session->bury_malformed(broken);
  session->bury_malformed(broken);
  EXPECT_EQ(store.dead_letters().size(), 1U);
}

TEST_F(MemoryDatastoreTest, WhileAwayNothingWorksAndNothingIsLost) {
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  store.set_away(true);
  EXPECT_THROW(session->complete({}, {}), DatastoreUnavailable);
  EXPECT_THROW(session->begin(message("a", 1)), DatastoreUnavailable);
  EXPECT_THROW(session->due(1), DatastoreUnavailable);
  EXPECT_THROW(store.cursor("c", {"*"})->acquire(), LogUnavailable);
  store.set_away(false);
  EXPECT_EQ(session->begin(message("a", 1)), Admission::fresh);
}

TEST_F(MemoryDatastoreTest, ACursorReadsItsRoutesOnceAndGoesOnAfterItsCheckpoint) {
  for (int number = 1; number <= 3; ++number) store.append(test::numbered("a", number));
  Event foreign = test::numbered("a", 4);
  foreign.type = "other.thing.v1";
  store.append(foreign);
  auto cursor = store.cursor("c", {"test.*"});
  ASSERT_TRUE(cursor->acquire());
  auto entries = cursor->read(2);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].sequence, 1U);
  EXPECT_EQ(entries[1].event.id, "a-2");
  cursor->checkpoint(1);
  entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].sequence, 3U);
  cursor->release();

  cursor = store.cursor("c", {"test.*"});
  ASSERT_TRUE(cursor->acquire());
  entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].event.id, "a-2");
  EXPECT_EQ(entries[0].sequence, 1U);
}

TEST_F(MemoryDatastoreTest, Rule4_ALeaseThatWasTakenOverIsLost) {
  store.append(test::numbered("a", 1));
  const auto first = store.cursor("c", {"*"});
  const auto second = store.cursor("c", {"*"});
  ASSERT_TRUE(first->acquire());
  EXPECT_FALSE(second->acquire());
  clock.advance(6s);
  ASSERT_TRUE(second->acquire());
  EXPECT_THROW(first->read(1), LeaseLost);
  EXPECT_THROW(first->checkpoint(1), LeaseLost);
  EXPECT_EQ(second->read(1).size(), 1U);
}

TEST_F(MemoryDatastoreTest, TheBacklogOfACursorIsWhatItHasNotSettled) {
  const auto cursor = store.cursor("c", {"test.*"});
  EXPECT_EQ(cursor->backlog().events, 0U);
  store.append(test::numbered("a", 1));
  clock.advance(3s);
  store.append(test::numbered("a", 2));
  Event foreign = test::numbered("a", 3);
  foreign.type = "other.thing.v1";
  store.append(foreign);
  ASSERT_TRUE(cursor->acquire());
  EXPECT_EQ(cursor->read(10).size(), 2U);
  EXPECT_EQ(cursor->backlog().events, 2U);
  EXPECT_EQ(cursor->backlog().age, 3s);
  EXPECT_TRUE(cursor->backlog().exact);
  cursor->checkpoint(1);
  EXPECT_EQ(cursor->backlog().events, 1U);
  EXPECT_EQ(cursor->backlog().age, 0s);
  for (int number = 4; number < 2000; ++number) store.append(test::numbered("a", number));
  EXPECT_FALSE(cursor->backlog().exact);
  EXPECT_GE(cursor->backlog().events, 1996U);
}

TEST_F(MemoryDatastoreTest, ACursorBuriesOnTheLogsSide) {
  store.append(test::numbered("a", 1));
  const auto cursor = store.cursor("c", {"*"});
  ASSERT_TRUE(cursor->acquire());
  cursor->bury(cursor->read(1).at(0), "jobs", "too large", 3, false);
  ASSERT_EQ(store.dead_letters().size(), 1U);
  EXPECT_EQ(store.dead_letters()[0].message.id(), "a-1");
  EXPECT_EQ(store.dead_letters()[0].reason, "too large");
}

TEST_F(MemoryDatastoreTest, AWaitEndsWhenSomethingIsAppended) {
  const auto cursor = store.cursor("c", {"*"});
  ASSERT_TRUE(cursor->acquire());
  std::jthread appends{[this] { store.append(test::numbered("a", 1)); }};
  std::vector<EventLog::Entry> entries;
  while (entries.empty()) {
    cursor->wait(1h, {});  // an hour of a clock that does not move
    entries = cursor->read(1);
  }
  EXPECT_EQ(entries[0].event.id, "a-1");
}

TEST_F(MemoryDatastoreTest, FillsInWhatAnAppendedEventLacks) {
  store.append({.type = "test.happened.v1", .data = "{}"});
  const Event event = store.emitted().at(0);
  EXPECT_FALSE(event.id.empty());
  EXPECT_EQ(event.content_type, "application/json");
  EXPECT_EQ(event.time, format_time(clock.now()));
  EXPECT_NO_THROW(validate(event));
  EXPECT_THROW(store.append({}), InvalidEvent);
}

}  // namespace
}  // namespace penstock::testing
