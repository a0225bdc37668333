// SPDX-License-Identifier: Apache-2.0
// The ring of segments: what is truncated, what never is, and that nobody waits for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "postgres/cursor.hpp"
#include "postgres/segments.hpp"
#include "support/postgres.hpp"
#include "support/recording_logger.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using postgres::SegmentPolicy;
using postgres::Segments;
using test::eventually;
using test::postgres_url;
using test::RecordingLogger;
using test::Schema;
using Ids = std::vector<std::string>;

class SegmentsTest : public testing::Test {
 protected:
  Schema schema_{"segments"};
  Outbox outbox_{postgres_url(), {.schema = schema_.name(), .source = "/shop", .lease = 60s}};
  std::shared_ptr<RecordingLogger> logger_ = std::make_shared<RecordingLogger>();
  pqxx::connection connection_{postgres_url()};
  pqxx::connection keeping_{postgres_url()};
  // A segment is full with its first row.
  Segments segments_{schema_.name(), {.segment_bytes = 1, .grace = 0ms}, logger_};
  int appended_ = 0;

  std::unique_ptr<EventLog::Cursor> acquired(const std::string& name = "memory:orders") {
    auto cursor = outbox_.cursor(name, {"*"});
    EXPECT_TRUE(cursor->acquire());
    return cursor;
  }
  void append(pqxx::transaction_base& tx) { outbox_.append(tx, {.id = std::to_string(++appended_), .type = "t", .key = "k"}); }
  void append() {
    pqxx::work tx{connection_};
    append(tx);
    tx.commit();
  }
  static Ids read(EventLog::Cursor& cursor) {
    Ids ids;
    for (;;) {
      const auto entries = cursor.read(100);
      if (entries.empty()) {
        return ids;
      }
      for (const auto& entry : entries) {
        ids.push_back(entry.event.id);
      }
    }
  }
  /// Settles everything that was read, and stores that.
  static void settle(std::unique_ptr<EventLog::Cursor>& cursor, std::uint64_t sequence) {
    cursor->checkpoint(sequence);
    cursor->release();
    EXPECT_TRUE(cursor->acquire());
    EXPECT_TRUE(read(*cursor).empty());
    cursor->release();
    EXPECT_TRUE(cursor->acquire());
  }
  void keep() { segments_.look(keeping_); }
  long long active() { return schema_.value("SELECT last_value FROM " + schema_.table("outbox_segment")); }
  /// Whether the file of a segment has anything in it.
  bool empty(int segment) {
    return schema_.value("SELECT pg_relation_size('" + schema_.table("outbox_" + std::to_string(segment)) + "')") == 0;
  }
  void use_segment(int segment) {
    schema_.exec("SELECT setval('" + schema_.table("outbox_segment") + "', " + std::to_string(segment) + ")");
  }
};

TEST_F(SegmentsTest, ASegmentIsClosedWhenItIsFullAndTruncatedWhenEveryCursorIsPast) {
  auto orders = acquired("memory:orders");
  auto jobs = acquired("memory:jobs");
  append();
  EXPECT_EQ(active(), 0);
  keep();
  EXPECT_EQ(active(), 1);
  append();
  EXPECT_EQ(read(*orders), (Ids{"1", "2"}));
  settle(orders, 2);
  keep();
  EXPECT_FALSE(empty(0)) << "the other has not read it";
  EXPECT_EQ(read(*jobs), (Ids{"1", "2"}));
  keep();
  EXPECT_FALSE(empty(0)) << "the other has not settled it";
  settle(jobs, 2);
  keep();
  EXPECT_TRUE(empty(0));
  EXPECT_EQ(active(), 2);
  append();
  EXPECT_EQ(read(*orders), (Ids{"3"}));
  EXPECT_EQ(read(*jobs), (Ids{"3"}));
}

TEST_F(SegmentsTest, TheRingTurnsForEverAndTheLogStaysSmall) {
  auto cursor = acquired();
  for (int i = 1; i <= 30; ++i) {
    append();
    ASSERT_EQ(read(*cursor), Ids{std::to_string(i)});
    settle(cursor, 1);
    keep();
  }
  EXPECT_LE(schema_.value("SELECT count(*) FROM " + schema_.table("outbox")), 3);
}

TEST_F(SegmentsTest, ASegmentThatIsNotFullIsNotClosedBeforeItsAge) {
  auto cursor = acquired();
  Segments large{schema_.name(), {}, logger_};
  append();
  large.look(keeping_);
  EXPECT_EQ(active(), 0);
  Segments hasty{schema_.name(), {.segment_age = 0s}, logger_};
  hasty.look(keeping_);
  EXPECT_EQ(active(), 1);
  hasty.look(keeping_);
  EXPECT_EQ(active(), 1) << "it is empty";
}

TEST_F(SegmentsTest, ASegmentThatWasClosedAMomentAgoIsLeftAlone) {
  auto cursor = acquired();
  Segments patient{schema_.name(), {.segment_bytes = 1, .grace = 1h}, logger_};
  append();
  patient.look(keeping_);
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  patient.look(keeping_);
  patient.look(keeping_);
  EXPECT_FALSE(empty(0)) << "who chose it a moment ago would wait for the truncation";
  keep();
  EXPECT_TRUE(empty(0));
}

TEST_F(SegmentsTest, WithoutACursorNothingIsTruncated) {
  append();
  keep();
  EXPECT_EQ(active(), 1);
  keep();
  EXPECT_FALSE(empty(0));
  EXPECT_EQ(read(*acquired()), (Ids{"1"}));
}

TEST_F(SegmentsTest, WhatIsToBeRetainedStaysUntilItIsTooMuch) {
  auto cursor = acquired();
  append();
  keep();
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  Segments retaining{schema_.name(), {.segment_bytes = 1, .retention = 1h, .grace = 0ms}, logger_};
  retaining.look(keeping_);
  EXPECT_FALSE(empty(0));
  schema_.exec("UPDATE " + schema_.table("outbox") + " SET appended_at = now() - interval '2 hours'");
  settle(cursor, 0);  // the update is a transaction of its own; what matters here is the time
  retaining.look(keeping_);
  EXPECT_TRUE(empty(0));

  append();
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  Segments bounded{schema_.name(), {.segment_bytes = 1, .retention = 1h, .retention_bytes = 1, .grace = 0ms}, logger_};
  bounded.look(keeping_);  // closes it
  EXPECT_FALSE(empty(1));
  bounded.look(keeping_);
  EXPECT_TRUE(empty(1)) << "an hour of it is more than one byte";
}

TEST_F(SegmentsTest, AnOpenTransactionElsewhereDoesNotKeepTheLog) {
  auto cursor = acquired();
  pqxx::connection elsewhere{postgres_url()};
  pqxx::work open{elsewhere};
  open.exec("SELECT pg_current_xact_id()");
  append();
  keep();
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  keep();
  EXPECT_TRUE(empty(0)) << "its number is below, but it has nothing in the segment";
}

TEST_F(SegmentsTest, ATransactionThatStillWritesInASegmentKeepsIt) {
  auto cursor = acquired();
  pqxx::connection slow{postgres_url()};
  pqxx::work open{slow};
  append(open);  // "1", in segment 0
  append();      // "2"
  keep();
  EXPECT_EQ(read(*cursor), (Ids{"2"}));
  settle(cursor, 1);
  keep();
  EXPECT_FALSE(empty(0));
  open.commit();
  keep();
  EXPECT_FALSE(empty(0)) << "committed, but not settled";
  EXPECT_EQ(read(*cursor), (Ids{"1"}));
  settle(cursor, 1);
  keep();
  EXPECT_TRUE(empty(0));
}

TEST_F(SegmentsTest, APreparedTransactionKeepsItsSegment) {
  if (schema_.value("SELECT setting::int FROM pg_settings WHERE name = 'max_prepared_transactions'") == 0) {
    // The lock that it would hold is that of any open transaction; a server without prepared transactions has none to lose.
    EXPECT_THROW(schema_.exec("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'x'"), pqxx::sql_error);
    return;
  }
  auto cursor = acquired();
  const auto name = schema_.name();
  schema_.exec("BEGIN; INSERT INTO " + schema_.table("outbox") +
               "(route, event_id, source, type) VALUES ('t', 'prepared', '/s', 't'); PREPARE TRANSACTION '" + name + "'");
  append();
  keep();
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  keep();
  EXPECT_FALSE(empty(0));
  schema_.exec("COMMIT PREPARED '" + name + "'");
  EXPECT_EQ(read(*cursor), (Ids{"prepared"}));
  settle(cursor, 1);
  keep();
  EXPECT_TRUE(empty(0));
}

// Who has asked which segment is active, and is slow to insert: the column's default has been evaluated, no lock is held yet.
TEST_F(SegmentsTest, WhoChoseASegmentBeforeItWasTruncatedInsertsIntoTheEmptiedOne) {
  auto cursor = acquired();
  append();
  pqxx::connection slow{postgres_url()};
  pqxx::work open{slow};
  const auto chosen = open.exec("SELECT last_value FROM " + schema_.table("outbox_segment"))[0][0].as<int>();
  ASSERT_EQ(chosen, 0);
  keep();
  EXPECT_EQ(read(*cursor), (Ids{"1"}));
  settle(cursor, 1);
  keep();
  ASSERT_TRUE(empty(0));
  append();
  EXPECT_EQ(read(*cursor), (Ids{"2"}));
  open.exec("INSERT INTO " + schema_.table("outbox") +
            "(segment, route, event_id, source, type) VALUES (0, 't', 'late', '/s', 't')");
  open.commit();
  EXPECT_EQ(read(*cursor), (Ids{"late"}));
  keep();
  EXPECT_FALSE(empty(0)) << "not settled";
  settle(cursor, 2);
  keep();
  EXPECT_TRUE(empty(0));
}

// The same, with the insert waiting for the lock that the truncation holds.
TEST_F(SegmentsTest, WhoWaitsForTheTruncationInsertsAfterIt) {
  auto cursor = acquired();
  append();
  keep();
  EXPECT_EQ(read(*cursor), (Ids{"1"}));
  settle(cursor, 1);
  pqxx::connection truncating{postgres_url()};
  pqxx::work truncation{truncating};
  truncation.exec("LOCK TABLE " + schema_.table("outbox_0") + " IN ACCESS EXCLUSIVE MODE NOWAIT");
  auto late = std::async(std::launch::async, [&] {
    schema_.exec("INSERT INTO " + schema_.table("outbox") +
                 "(segment, route, event_id, source, type) VALUES (0, 't', 'late', '/s', 't')");
  });
  ASSERT_TRUE(eventually([&] {
    return schema_.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '" + schema_.table("outbox_0") +
                         "'::regclass") == 1;
  }));
  truncation.exec("TRUNCATE " + schema_.table("outbox_0"));
  truncation.commit();
  late.get();
  EXPECT_EQ(read(*cursor), (Ids{"late"}));
}

TEST_F(SegmentsTest, Rule18_NothingQueuesBehindTheQuestionForTheLock) {
  auto cursor = acquired();
  pqxx::connection slow{postgres_url()};
  pqxx::work open{slow};
  append(open);
  append();
  keep();
  EXPECT_EQ(read(*cursor), (Ids{"2"}));
  settle(cursor, 1);
  std::atomic<bool> done{false};
  std::jthread keeper{[&] {
    for (int i = 0; i < 100; ++i) {
      keep();
    }
    done = true;
  }};
  // Appends into that very segment are those that could wait. They are cancelled, and fail here, after 1 s.
  use_segment(0);
  pqxx::connection appender{postgres_url()};
  pqxx::nontransaction{appender}.exec("SET lock_timeout = '1s'");
  int count = 0;
  while (!done) {
    pqxx::work tx{appender};
    ASSERT_NO_THROW(append(tx));
    tx.commit();
    ++count;
  }
  EXPECT_GT(count, 0);
  EXPECT_FALSE(empty(0));
  open.commit();
  keeper.join();
  EXPECT_EQ(read(*cursor).size(), static_cast<std::size_t>(count) + 1);
}

TEST_F(SegmentsTest, Rule18_ASegmentThatIsAlwaysReadIsTruncatedThoughAnotherIsStillWrittenTo) {
  auto cursor = acquired();
  append();
  use_segment(1);
  pqxx::connection slow{postgres_url()};
  pqxx::work open{slow};
  append(open);
  use_segment(2);
  EXPECT_EQ(read(*cursor), (Ids{"1"}));
  settle(cursor, 1);
  // One of them is always reading, each for a moment.
  std::vector<std::jthread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&](const std::stop_token& stop) {
      pqxx::connection connection{postgres_url()};
      while (!stop.stop_requested()) {
        pqxx::work tx{connection};
        tx.exec("SELECT count(*), pg_sleep(0.01) FROM " + schema_.table("outbox_0"));
        tx.commit();
      }
    });
  }
  for (int i = 0; i < 200 && !empty(0); ++i) {
    keep();
  }
  EXPECT_TRUE(empty(0));
  EXPECT_FALSE(empty(1));
}

TEST_F(SegmentsTest, AKeeperKilledHalfWayLeavesTheSegmentAsItWas) {
  auto cursor = acquired();
  append();
  keep();
  EXPECT_EQ(read(*cursor), (Ids{"1"}));
  settle(cursor, 1);
  {
    pqxx::connection dying{postgres_url()};
    pqxx::work half{dying};
    half.exec("LOCK TABLE " + schema_.table("outbox_0") + " IN ACCESS EXCLUSIVE MODE NOWAIT");
    half.exec("TRUNCATE " + schema_.table("outbox_0"));
    half.exec("SELECT setval('" + schema_.table("outbox_segment") + "', 2)");
    schema_.exec("SELECT pg_terminate_backend(" + std::to_string(dying.backendpid()) + ")");
    EXPECT_THROW(half.commit(), pqxx::failure);
  }
  EXPECT_FALSE(empty(0));
  append();  // the sequence has moved, which is no harm
  EXPECT_EQ(read(*cursor), (Ids{"2"}));
  settle(cursor, 1);
  keep();
  EXPECT_TRUE(empty(0));
  append();
  EXPECT_EQ(read(*cursor), (Ids{"3"}));
}

TEST_F(SegmentsTest, ACursorThatNobodyRunsIsNamedOnceAndCanBeDropped) {
  auto cursor = acquired("memory:orders");
  acquired("memory:gone")->release();
  Segments strict{schema_.name(), {.segment_bytes = 1, .grace = 0ms, .abandoned = 0s}, logger_};
  append();
  strict.look(keeping_);
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  strict.look(keeping_);
  strict.look(keeping_);
  EXPECT_FALSE(empty(0));
  ASSERT_EQ(logger_->errors().size(), 1U);
  EXPECT_NE(logger_->errors()[0].find("memory:gone"), std::string::npos) << logger_->errors()[0];
  EXPECT_NE(logger_->errors()[0].find("drop_cursor"), std::string::npos) << logger_->errors()[0];

  EXPECT_THROW(outbox_.drop_cursor("memory:orders"), std::runtime_error) << "it is held";
  EXPECT_FALSE(outbox_.drop_cursor("memory:never"));
  EXPECT_TRUE(outbox_.drop_cursor("memory:gone"));
  strict.look(keeping_);
  EXPECT_TRUE(empty(0));
}

TEST_F(SegmentsTest, ARoleThatMayNotTruncateIsToldOnceAndReadsOn) {
  auto cursor = acquired();
  append();
  keep();
  EXPECT_EQ(read(*cursor).size(), 1U);
  settle(cursor, 1);
  const std::string role = schema_.name();
  schema_.exec("CREATE ROLE " + role + "; GRANT USAGE ON SCHEMA " + role + " TO " + role +
               "; GRANT SELECT ON ALL TABLES IN SCHEMA " + role + " TO " + role + "; GRANT SELECT ON ALL SEQUENCES IN SCHEMA " +
               role + " TO " + role);
  pqxx::nontransaction{keeping_}.exec("SET ROLE " + role);
  Segments hasty{schema_.name(), {.segment_bytes = 1, .interval = 0ms, .grace = 0ms}, logger_};
  EXPECT_NO_THROW(hasty.tend(keeping_));
  EXPECT_NO_THROW(hasty.tend(keeping_));
  EXPECT_EQ(logger_->errors().size(), 1U);
  pqxx::nontransaction{keeping_}.exec("RESET ROLE");
  schema_.exec("DROP OWNED BY " + role + "; DROP ROLE " + role);
}

TEST_F(SegmentsTest, CheckpointsLeaveNoDeadRowsAndTheirLogIsFolded) {
  // An old snapshot, for which every dead row would be kept.
  pqxx::connection reporting{postgres_url()};
  pqxx::transaction<pqxx::repeatable_read> report{reporting};
  report.exec("SELECT count(*) FROM " + schema_.table("outbox"));
  postgres::CursorState state{schema_.name(), "memory:orders", "me"};
  ASSERT_TRUE(state.take(connection_, 60s));
  const auto row = [&] {
    return schema_.value<std::string>("SELECT string_agg(ctid::text, ' ') FROM " + schema_.table("cursors"));
  };
  const auto before = row();
  for (int i = 1; i <= 500; ++i) {
    pqxx::nontransaction tx{connection_};
    state.write(tx, {.prev = "5:5:", .cur = "9:9:", .place = i}, 60s);
  }
  EXPECT_EQ(row(), before) << "never updated";
  const auto stored = [&] {
    return schema_.value("SELECT place FROM " + schema_.table("cursor_status") + " WHERE lease_until > clock_timestamp()");
  };
  EXPECT_EQ(stored(), 500);
  Segments folding{schema_.name(), {.fold_bytes = 8192}, logger_};
  folding.look(keeping_);
  EXPECT_EQ(schema_.value("SELECT pg_relation_size('" + schema_.table("cursor_log") + "')"), 0);
  EXPECT_EQ(stored(), 500);
  EXPECT_NE(row(), before) << "once";
  EXPECT_EQ(state.read(connection_), (postgres::LogPosition{.prev = "5:5:", .cur = "9:9:", .place = 500}));
  pqxx::nontransaction tx{connection_};
  state.write(tx, {.prev = "9:9:"}, 60s);
  EXPECT_EQ(schema_.value<std::string>("SELECT prev::text FROM " + schema_.table("cursor_status") + " WHERE cur IS NULL"),
            "9:9:");
}

TEST_F(SegmentsTest, TakingOverWhileTheLogIsFoldedNeverGoesBack) {
  constexpr int kTakes = 150;
  std::atomic<bool> done{false};
  std::jthread folder{[&] {
    Segments folding{schema_.name(), {.fold_bytes = 1}, logger_};
    while (!done) {
      folding.look(keeping_);
    }
  }};
  std::atomic<std::int64_t> highest{0};
  std::vector<std::jthread> relays;
  for (int n = 0; n < 2; ++n) {
    relays.emplace_back([&, n] {
      pqxx::connection connection{postgres_url()};
      postgres::CursorState state{schema_.name(), "memory:orders", std::to_string(n)};
      for (int i = 0; i < kTakes; ++i) {
        const auto position = state.take(connection, 60s);
        if (!position) {
          continue;
        }
        EXPECT_EQ(position->place, highest) << "the last place that was stored";
        pqxx::nontransaction tx{connection};
        highest = position->place + 1;
        state.write(tx, {.prev = "5:5:", .cur = "9:9:", .place = highest}, 60s);
        highest = position->place + 2;
        state.write(tx, {.prev = "5:5:", .cur = "9:9:", .place = highest}, std::nullopt);
      }
    });
  }
  relays.clear();
  done = true;
  folder.join();
  EXPECT_GT(highest, 0);
  EXPECT_TRUE(logger_->errors().empty());
}

// Writers, two relays' keepers and two cursors of different speed at once.
TEST_F(SegmentsTest, Rule2_NothingIsLostWhileTheRingTurns) {
  constexpr int kWriters = 3;
  constexpr int kEach = 150;
  std::atomic<int> running{kWriters};
  std::vector<std::jthread> threads;
  schema_.exec("CREATE TABLE " + schema_.table("aggregates") + " AS SELECT generate_series(0, 4) AS id, 0 AS version");
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      std::mt19937 random{static_cast<unsigned>(w)};
      pqxx::connection connection{postgres_url()};
      for (int i = 0; i < kEach; ++i) {
        pqxx::work tx{connection};
        const auto key = std::to_string(random() % 5);
        const auto version = tx.exec("UPDATE " + schema_.table("aggregates") + " SET version = version + 1 WHERE id = " + key +
                                     " RETURNING version")[0][0]
                                 .as<std::string>();
        outbox_.append(tx, {.id = version, .type = "t", .key = key, .data = std::string(random() % 20'000, 'x')});
        if (random() % 8 == 0) {
          std::this_thread::yield();
        }
        tx.commit();
      }
      --running;
    });
  }
  std::atomic<bool> done{false};
  std::atomic<int> turns{0};
  for (int k = 0; k < 2; ++k) {
    threads.emplace_back([&] {
      pqxx::connection connection{postgres_url()};
      Segments segments{schema_.name(), {.segment_bytes = 1, .grace = 0ms}, logger_};
      auto last = active();
      while (!done) {
        segments.look(connection);
        if (const auto now = active(); now != last) {
          last = now;
          ++turns;
        }
      }
    });
  }
  const auto consume = [&](std::size_t batch) {
    postgres::CursorSettings settings{.url = postgres_url(), .schema = schema_.name(), .lease = 60s};
    const auto name = "memory:" + std::to_string(batch);
    auto cursor = std::make_unique<postgres::PostgresCursor>(settings, name, std::vector<std::string>{"*"});
    EXPECT_TRUE(cursor->acquire());
    std::map<std::string, int> versions;
    int total = 0;
    std::uint64_t sequence = 0;
    for (int reads = 0; total < kWriters * kEach; ++reads) {
      const auto entries = cursor->read(batch);
      for (const auto& entry : entries) {
        EXPECT_EQ(std::stoi(entry.event.id), ++versions[entry.event.key]) << "key " << entry.event.key;
        sequence = entry.sequence;
        ++total;
      }
      cursor->checkpoint(sequence);
      if (reads % 5 == 4) {  // stores the checkpoint
        cursor->release();
        EXPECT_TRUE(cursor->acquire());
        sequence = 0;
      }
      if (HasFailure() || (running == 0 && entries.empty() && reads > 100'000)) {
        break;
      }
    }
    EXPECT_EQ(total, kWriters * kEach);
  };
  auto slow = std::async(std::launch::async, [&] { consume(3); });
  consume(50);
  slow.get();
  done = true;
  threads.clear();
  EXPECT_GT(turns, 3);
  EXPECT_TRUE(logger_->errors().empty());
}

}  // namespace
}  // namespace penstock
