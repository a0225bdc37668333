// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/envelope.hpp"
#include "penstock/outbox.hpp"
#include "postgres/cursor.hpp"
#include "postgres/text_codec.hpp"
#include "postgres/window_reader.hpp"
#include "support/postgres.hpp"
#include "support/recording_logger.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::postgres_url;
using test::RecordingLogger;
using test::Schema;
using Ids = std::vector<std::string>;

class CursorTest : public testing::Test {
 protected:
  Schema schema_{"cursor"};
  std::shared_ptr<RecordingLogger> logger_ = std::make_shared<RecordingLogger>();
  std::string cursors_ = schema_.table("cursors");
  std::string status_ = schema_.table("cursor_status");
  std::string dead_letters_ = schema_.table("dead_letters");
  Outbox outbox_ = make_outbox(5s);
  pqxx::connection connection_{postgres_url()};
  int appended_ = 0;

  Outbox make_outbox(std::chrono::milliseconds lease) {
    return Outbox{postgres_url(), {.schema = schema_.name(), .source = "/shop", .lease = lease, .logger = logger_}};
  }
  /// Events with the ids "1", "2", …, in one transaction.
  void append(int count) {
    std::vector<Event> events;
    for (int i = 0; i < count; ++i) {
      events.push_back({.id = std::to_string(++appended_), .type = "t", .key = "k"});
    }
    pqxx::work tx{connection_};
    outbox_.append(tx, events);
    tx.commit();
  }
  std::unique_ptr<EventLog::Cursor> acquired(Outbox& outbox, const std::string& name = "memory:orders") {
    auto cursor = outbox.cursor(name, {"*"});
    EXPECT_TRUE(cursor->acquire());
    return cursor;
  }
  static Ids read(EventLog::Cursor& cursor, std::size_t max) {
    Ids ids;
    for (const auto& entry : cursor.read(max)) {
      ids.push_back(entry.event.id);
    }
    return ids;
  }
  static Ids read_all(EventLog::Cursor& cursor) {
    Ids all;
    for (;;) {
      const Ids ids = read(cursor, 100);
      if (ids.empty()) {
        return all;
      }
      all.insert(all.end(), ids.begin(), ids.end());
    }
  }
  static Ids numbers(int from, int to) {
    Ids ids;
    for (int i = from; i <= to; ++i) {
      ids.push_back(std::to_string(i));
    }
    return ids;
  }
  void expire_lease() {
    for (const auto& table : {cursors_, schema_.table("cursor_log")}) {
      schema_.exec("UPDATE " + table + " SET lease_until = clock_timestamp() - interval '1 second'");
    }
  }
  /// Ends the server's side of every connection of our cursors to this schema.
  void cut_connections() {
    schema_.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'"
        " AND pid <> pg_backend_pid() AND query LIKE '%" +
        schema_.name() + "%'");
  }
};

TEST_F(CursorTest, ANewCursorStartsAtTheBeginningOfTheLog) {
  append(3);
  const auto cursor = acquired(outbox_);
  append(1);
  EXPECT_EQ(read_all(*cursor), numbers(1, 4));
  EXPECT_EQ(read_all(*cursor), Ids{});
}

TEST_F(CursorTest, SequencesCountFromOneWithoutGaps) {
  append(5);
  auto cursor = acquired(outbox_);
  std::uint64_t expected = 0;
  for (const auto& entry : cursor->read(3)) {
    EXPECT_EQ(entry.sequence, ++expected);
  }
  for (const auto& entry : cursor->read(3)) {
    EXPECT_EQ(entry.sequence, ++expected);
  }
  EXPECT_EQ(expected, 5U);
  cursor->release();
  EXPECT_TRUE(cursor->acquire());
  EXPECT_EQ(cursor->read(1).at(0).sequence, 1U);
}

TEST_F(CursorTest, ARestartRepeatsWhatWasNotSettledAndNothingElse) {
  append(10);
  auto cursor = acquired(outbox_);
  EXPECT_EQ(read(*cursor, 7), numbers(1, 7));
  cursor->checkpoint(4);  // inside the window
  cursor->release();
  cursor = acquired(outbox_);
  append(2);
  EXPECT_EQ(read_all(*cursor), numbers(5, 12));
  cursor->checkpoint(6);  // all of the first window
  cursor->release();
  cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), numbers(11, 12));
  cursor->checkpoint(2);
  cursor->release();
  cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), Ids{});
  append(1);
  EXPECT_EQ(read_all(*cursor), numbers(13, 13));
}

TEST_F(CursorTest, ACheckpointIsWrittenSoonAndSparingly) {
  append(1000);
  const auto cursor = acquired(outbox_);
  const auto writes = [&] { return schema_.value("SELECT count(*) FROM " + schema_.table("cursor_log")); };
  EXPECT_EQ(read(*cursor, 1000).size(), 1000U);
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint64_t sequence = 1; sequence <= 1000; ++sequence) {
    cursor->checkpoint(sequence);
  }
  ASSERT_TRUE(eventually([&] {
    cursor->checkpoint(1000);
    return schema_.value("SELECT count(*) FROM " + status_ + " WHERE cur IS NULL AND place = 0 AND prev::text <> '3:3:'") == 1;
  }));
  const auto quarters = (std::chrono::steady_clock::now() - begin) / 250ms + 1;
  EXPECT_LE(writes(), quarters + 1) << "at most four a second";
}

TEST_F(CursorTest, AnIdleCursorWritesOnlyToKeepItsLease) {
  Outbox outbox = make_outbox(60s);  // so long that it need not be kept meanwhile, however slow the machine
  const auto cursor = acquired(outbox);
  const auto written = [&] { return schema_.value<std::string>("SELECT updated_at::text FROM " + status_); };
  const auto before = written();
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(read_all(*cursor), Ids{});
    schema_.exec("SELECT pg_current_xact_id()");  // others come and go, so the snapshots move
    cursor->checkpoint(0);
  }
  EXPECT_EQ(written(), before);
}

TEST_F(CursorTest, Rule3_AnotherRelayTakesOverWhenTheLeaseHasRunOut) {
  append(4);
  Outbox brief = make_outbox(300ms);
  const auto dead = acquired(brief);
  EXPECT_EQ(read(*dead, 4), numbers(1, 4));
  const auto other = brief.cursor("memory:orders", {"*"});
  EXPECT_FALSE(other->acquire());
  ASSERT_TRUE(eventually([&] { return other->acquire(); }, 5s));
  EXPECT_EQ(read_all(*other), numbers(1, 4));
}

TEST_F(CursorTest, Rule3_ALeaseThatIsReleasedIsFreeAtOnce) {
  const auto first = acquired(outbox_);
  const auto second = outbox_.cursor("memory:orders", {"*"});
  EXPECT_FALSE(second->acquire());
  first->release();
  EXPECT_TRUE(second->acquire());
  EXPECT_THROW(first->read(1), LeaseLost);
}

TEST_F(CursorTest, Rule4_NothingIsWrittenUnderALeaseThatWasTakenOver) {
  append(4);
  const auto old = acquired(outbox_);
  const auto entries = old->read(4);
  ASSERT_EQ(entries.size(), 4U);
  expire_lease();
  const auto next = acquired(outbox_);
  const auto before = schema_.value<std::string>("SELECT (c.*)::text FROM " + status_ + " c");
  EXPECT_THROW(old->bury(entries[0], "orders", "too late", 1, false), LeaseLost);
  EXPECT_THROW(old->checkpoint(4), LeaseLost);
  EXPECT_THROW(old->read(1), LeaseLost);
  old->release();
  EXPECT_EQ(schema_.value<std::string>("SELECT (c.*)::text FROM " + status_ + " c"), before);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + dead_letters_), 0);
  EXPECT_EQ(read_all(*next), numbers(1, 4));
}

TEST_F(CursorTest, Rule4_ACheckpointUnderAnOldTokenIsRefused) {
  append(4);
  Outbox brief = make_outbox(100ms);
  const auto old = acquired(brief);
  EXPECT_EQ(read(*old, 4).size(), 4U);
  expire_lease();
  const auto next = acquired(outbox_);
  EXPECT_TRUE(eventually([&] {
    try {
      old->checkpoint(4);
      return false;
    } catch (const LeaseLost&) {
      return true;
    }
  }));
  EXPECT_EQ(schema_.value("SELECT token FROM " + cursors_), 2);
  EXPECT_EQ(read_all(*next), numbers(1, 4));
}

TEST_F(CursorTest, Rule4_OfManyThatWantALeaseOneGetsIt) {
  std::atomic<int> owners{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        const auto cursor = outbox_.cursor("memory:orders", {"*"});
        for (int attempt = 0; attempt < 3; ++attempt) {
          if (cursor->acquire()) {
            ++owners;
            break;
          }
        }
      });
    }
  }
  EXPECT_EQ(owners, 1);
}

TEST_F(CursorTest, AConnectionThatBreaksCostsARestartFromTheCheckpoint) {
  append(6);
  const auto cursor = acquired(outbox_);
  EXPECT_EQ(read(*cursor, 4), numbers(1, 4));
  cursor->checkpoint(2);
  cut_connections();
  EXPECT_THROW(
      {
        for (;;) {
          cursor->checkpoint(2);
          cursor->read(1);
        }
      },
      LogUnavailable);
  EXPECT_THROW(cursor->read(1), LeaseLost) << "the server may have lost commits that were read before it fell";
  EXPECT_THROW(cursor->checkpoint(2), LeaseLost);
  ASSERT_TRUE(cursor->acquire()) << "its own lease hinders nobody";
  EXPECT_EQ(read_all(*cursor), numbers(1, 6));
}

TEST_F(CursorTest, ADatabaseThatIsAwayIsLogUnavailable) {
  Outbox nowhere{"postgresql://postgres@127.0.0.1:1/postgres", {.schema = "penstock"}};
  const auto cursor = nowhere.cursor("memory:orders", {"*"});
  EXPECT_THROW(cursor->acquire(), LogUnavailable);
  std::stop_source stop;
  cursor->wait(1ms, stop.get_token());
  cursor->release();
}

TEST_F(CursorTest, ASchemaThatWasNotMigratedIsNamed) {
  Outbox missing{postgres_url(), {.schema = "never_made"}};
  try {
    missing.cursor("memory:orders", {"*"})->acquire();
    FAIL() << "there is no such schema";
  } catch (const LogUnavailable& error) {
    EXPECT_NE(std::string{error.what()}.find("never_made"), std::string::npos) << error.what();
  }
}

TEST_F(CursorTest, ABuriedEventIsADeadLetterWithEverythingThatItWas) {
  const auto cursor = acquired(outbox_);
  Event event{.id = "e",
              .source = "/s",
              .type = "t",
              .subject = "s",
              .key = "k",
              .data = std::string{"\0\xff", 2},
              .content_type = "application/octet-stream",
              .time = "2026-11-22T08:30:00Z",
              .correlation_id = "c",
              .extensions = {{"x", "1"}},
              .headers = {{"h", "\xff"}, {"h", std::nullopt}}};
  pqxx::work tx{connection_};
  outbox_.append(tx, event);
  tx.commit();
  const auto entry = cursor->read(1).at(0);
  cursor->bury(entry, "orders", "too large", 3, false);
  cursor->bury(entry, "orders", "too large", 3, false);  // as after a crash between burial and checkpoint
  const auto rows =
      schema_.exec("SELECT *, attempts->0->>'number' AS number, attempts->0->>'error' AS error FROM " + dead_letters_);
  ASSERT_EQ(rows.size(), 1U);
  const auto row = rows[0];
  EXPECT_EQ(row["side"].as<std::string>(), "outbox");
  EXPECT_EQ(row["state"].as<std::string>(), "dead");
  EXPECT_EQ(row["consumer_group"].as<std::string>(), "memory:orders");
  EXPECT_EQ(row["backend"].as<std::string>(), "memory");
  EXPECT_EQ(row["channel"].as<std::string>(), "orders");
  EXPECT_EQ(row["event_id"].as<std::string>(), "e");
  EXPECT_EQ(row["last_error"].as<std::string>(), "too large");
  EXPECT_EQ(row["number"].as<int>(), 3);
  EXPECT_EQ(row["error"].as<std::string>(), "too large");
  EXPECT_EQ(row["position"].as<long long>(), schema_.value("SELECT id FROM " + schema_.table("outbox")));
  const Wire wire{.key = postgres::from_hex(row["wire_key"].c_str()),
                  .headers = postgres::headers_from_json(row["headers"].c_str()),
                  .payload = postgres::from_hex(row["payload"].c_str())};
  EXPECT_EQ(decode(wire, Binding::kafka), event);
}

TEST_F(CursorTest, Rule2_AfterARestoreIntoAnotherClusterNothingIsSkipped) {
  append(3);
  auto cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), numbers(1, 3));
  cursor->checkpoint(3);
  cursor->release();
  cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), Ids{});
  cursor->release();
  EXPECT_TRUE(logger_->errors().empty());

  // What a dump of a cluster that is far ahead looks like when it has been loaded here: rows and places with numbers that are
  // yet to come, and every row written by the transaction that loaded it.
  schema_.exec("UPDATE " + schema_.table("outbox") + " SET txid = '8000000000' WHERE event_id = '3'");
  for (const auto& table : {cursors_, schema_.table("cursor_log")}) {
    schema_.exec("UPDATE " + table + " SET prev = '9000000000:9000000000:'");
  }
  schema_.exec("UPDATE " + schema_.table("schema_version") + " SET txid = '7000000000'");
  append(1);
  cursor = acquired(outbox_);
  EXPECT_EQ(logger_->errors().size(), 1U) << "it says so";
  EXPECT_EQ(read_all(*cursor), numbers(1, 4)) << "everything is sent again, with the same ids";
  append(1);
  EXPECT_EQ(read_all(*cursor), numbers(5, 5));
  cursor->checkpoint(5);
  cursor->release();
  cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), Ids{});
  EXPECT_EQ(logger_->errors().size(), 1U);
}

TEST_F(CursorTest, Rule2_WhileADumpIsBeingLoadedNothingIsTakenForItsPlace) {
  append(1);
  const auto versions = schema_.value<std::string>("SELECT array_agg(version)::text FROM " + schema_.table("schema_version"));
  schema_.exec("DELETE FROM " + schema_.table("schema_version"));
  auto cursor = outbox_.cursor("memory:orders", {"*"});
  EXPECT_THROW(cursor->acquire(), LogUnavailable);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + cursors_), 0) << "nothing that the dump will bring is made";
  schema_.exec("INSERT INTO " + schema_.table("schema_version") + "(version, txid) SELECT unnest('" + versions +
               "'::int[]), '9000000000'");
  ASSERT_TRUE(cursor->acquire());
  EXPECT_EQ(read_all(*cursor), numbers(1, 1));
}

TEST_F(CursorTest, Rule8_NoTransactionAndNoLockIsHeldBetweenCalls) {
  append(500);
  const auto cursor = acquired(outbox_);
  EXPECT_EQ(read(*cursor, 10).size(), 10U);
  cursor->checkpoint(5);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock' AND xact_start IS NOT NULL"
                          " AND query LIKE '%" +
                          schema_.name() + "%'"),
            0);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM pg_locks WHERE relation = '" + schema_.table("outbox") + "'::regclass"), 0);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM pg_locks WHERE relation = '" + cursors_ + "'::regclass"), 0);
}

TEST_F(CursorTest, AHugeTransactionIsStreamedInOrder) {
  constexpr int kEvents = 200'000;
  schema_.exec("INSERT INTO " + schema_.table("outbox") +
               "(route, event_id, source, type, key, data) SELECT 't', n::text, '/s', 't', (n % 100)::text,"
               " convert_to(repeat('x', 200), 'UTF8') FROM generate_series(1, " +
               std::to_string(kEvents) + ") n");
  auto cursor = acquired(outbox_);
  int next = 0;
  std::uint64_t sequence = 0;
  for (auto entries = cursor->read(500); !entries.empty(); entries = cursor->read(500)) {
    ASSERT_LE(entries.size(), 500U);
    for (const auto& entry : entries) {
      ASSERT_EQ(entry.event.id, std::to_string(++next));
      sequence = entry.sequence;
    }
    if (next == 100'000) {  // a restart from the middle of it
      cursor->checkpoint(sequence - 250);
      cursor->release();
      cursor = acquired(outbox_);
      next -= 250;
    } else {
      cursor->checkpoint(sequence);
    }
  }
  EXPECT_EQ(next, kEvents);
}

TEST_F(CursorTest, AReadThatPassesOverTheEventsOfOthersReturnsInBetween) {
  for (int i = 0; i < 10; ++i) {
    append(1'000);
  }
  schema_.exec("SELECT " + schema_.table("append") + "('mine', '{}', event_id => 'last', event_source => '/s')");
  postgres::PostgresCursor cursor{
      {.url = postgres_url(), .schema = schema_.name(), .limits = {.small_window = 10, .chunk = 10, .measured = 10}},
      "memory:mine",
      {"mine"}};
  ASSERT_TRUE(cursor.acquire());
  auto entries = cursor.read(10);
  EXPECT_TRUE(entries.empty() && !cursor.at_end()) << "a thousand statements in one call";
  while (entries.empty() && !cursor.at_end()) {
    entries = cursor.read(10);
  }
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries.front().event.id, "last");
  EXPECT_TRUE(cursor.read(10).empty() && cursor.at_end());
}

TEST_F(CursorTest, ACursorThatWasAwayBeginsAtItsFloorAndNotAtTheBeginningOfTheLog) {
  auto cursor = acquired(outbox_);
  const auto settle = [&](int count) {
    append(count);
    std::uint64_t last = 0;
    for (auto entries = cursor->read(1000); !entries.empty(); entries = cursor->read(1000)) {
      last = entries.back().sequence;
    }
    cursor->checkpoint(last);
    cursor->park({}, "orders");  // writes the checkpoint now
  };
  settle(3000);
  const auto seen = schema_.value("SELECT max(id) FROM " + schema_.table("outbox"));
  settle(1);
  EXPECT_EQ(schema_.value("SELECT floor FROM " + status_), seen);
  cursor->release();
  append(3000);

  const auto steps_to_first_row = [&](std::int64_t floor) {
    postgres::WindowReader reader{schema_.name(), {"*"}, {.small_window = 10, .chunk = 100, .measured = 100}};
    reader.seek({.prev = schema_.value<std::string>("SELECT prev FROM " + status_), .floor = floor});
    int steps = 1;
    while (reader.step(connection_) == postgres::WindowReader::Step::more) {
      ++steps;
    }
    EXPECT_EQ(reader.take().rows.at(0).event.id, "3002");
    return steps;
  };
  EXPECT_EQ(steps_to_first_row(seen), 3) << "the window is large, its ends, its first rows";
  EXPECT_GT(steps_to_first_row(0), 30);
  cursor = acquired(outbox_);
  EXPECT_EQ(read_all(*cursor), numbers(3002, 6001));
}

/// What the floor rests on.
TEST_F(CursorTest, ATransactionHasItsNumberBeforeItsEventsHaveIds) {
  schema_.exec("CREATE FUNCTION " + schema_.table("checked_id") +
               "() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN ASSERT pg_current_xact_id_if_assigned() IS NOT NULL;"
               " RETURN nextval('" +
               schema_.table("outbox_id_seq") + "'); END $$");
  for (const auto* table : {"outbox", "outbox_0", "outbox_1", "outbox_2"}) {
    schema_.exec("ALTER TABLE " + schema_.table(table) + " ALTER id SET DEFAULT " + schema_.table("checked_id") + "()");
  }
  append(1);
  append(100);
  {
    pqxx::work tx{connection_};
    outbox_.append_locked(tx, {.type = "t", .key = "k"});
    tx.commit();
  }
  schema_.exec("SELECT " + schema_.table("append") + "('t', 'x'::text, 'k', '/s')");
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + schema_.table("outbox")), 103);
}

TEST_F(CursorTest, TheBacklogIsWhatIsCommittedAndNotSettled) {
  auto cursor = acquired(outbox_);
  EXPECT_EQ(cursor->backlog().events, 0U);
  EXPECT_EQ(cursor->backlog().age, 0ms);
  append(10);
  {
    pqxx::connection other{postgres_url()};
    pqxx::work open{other};
    outbox_.append(open, {.id = "open", .type = "t"});
    append(5);
    EXPECT_EQ(cursor->backlog().events, 15U);
  }
  EXPECT_EQ(read(*cursor, 100).size(), 15U);
  cursor->checkpoint(4);
  ASSERT_TRUE(eventually([&] { return cursor->backlog().age >= 2ms; }));
  const auto backlog = cursor->backlog();
  EXPECT_EQ(backlog.events, 11U);
  EXPECT_TRUE(backlog.exact);
  EXPECT_FALSE(backlog.position.empty());
  cursor->checkpoint(15);
  EXPECT_EQ(cursor->backlog().events, 0U) << "what was rolled back is no backlog";
  EXPECT_EQ(cursor->backlog().age, 0ms);
}

TEST_F(CursorTest, TheBacklogOfACursorIsItsOwnEventsAndIsSeenWithoutTheLease) {
  append(3);
  auto cursor = outbox_.cursor("memory:others", {"other.*"});
  EXPECT_EQ(cursor->backlog().events, 0U);
  auto all = outbox_.cursor("memory:all", {"*"});
  EXPECT_EQ(all->backlog().events, 3U);
  EXPECT_TRUE(all->backlog().exact);
}

TEST_F(CursorTest, ALargeBacklogIsEstimated) {
  append(6000);
  auto cursor = acquired(outbox_);
  auto backlog = cursor->backlog();
  EXPECT_FALSE(backlog.exact);
  EXPECT_EQ(backlog.events, 6000U);
  EXPECT_EQ(cursor->read(4000).size(), 1000U);
  EXPECT_EQ(cursor->read(4000).size(), 1000U);
  cursor->checkpoint(1500);
  EXPECT_EQ(cursor->backlog().events, 4500U);
}

}  // namespace
}  // namespace penstock
