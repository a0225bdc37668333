// SPDX-License-Identifier: Apache-2.0
// The interleavings that break other ways of reading an outbox, each beside the reader it breaks.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "postgres/pqxx_compat.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using test::postgres_url;
using test::Schema;
using Ids = std::vector<std::string>;

std::vector<EventLog::Entry> read_entries(EventLog::Cursor& cursor, std::size_t max = 100) {
  std::vector<EventLog::Entry> all;
  for (;;) {
    auto entries = cursor.read(max);
    EXPECT_LE(entries.size(), max);
    if (entries.empty()) {
      return all;
    }
    for (auto& entry : entries) {
      all.push_back(std::move(entry));
    }
  }
}

Ids read_ids(EventLog::Cursor& cursor) {
  Ids ids;
  for (const auto& entry : read_entries(cursor)) {
    ids.push_back(entry.event.id);
  }
  return ids;
}

class WindowsTest : public testing::Test {
 protected:
  Schema schema_{"windows"};
  Outbox outbox_{postgres_url(), {.schema = schema_.name(), .source = "/shop"}};
  std::string log_ = schema_.table("outbox");
  std::unique_ptr<EventLog::Cursor> ours_ = outbox_.cursor("ours", {"*"});

  WindowsTest() { EXPECT_TRUE(ours_->acquire()); }

  void append(pqxx::transaction_base& tx, const std::string& id, const std::string& key) {
    outbox_.append(tx, {.id = id, .type = "t", .key = key});
  }
};

/// Remembers the largest id it has seen.
class ReaderById {
 public:
  explicit ReaderById(const std::string& log) : log_{log} {}
  Ids poll() {
    pqxx::nontransaction tx{connection_};
    Ids ids;
    for (const auto& row : postgres::run(tx, "SELECT id, event_id FROM " + log_ + " WHERE id > $1 ORDER BY id", last_)) {
      last_ = row[0].as<std::int64_t>();
      ids.push_back(row[1].as<std::string>());
    }
    return ids;
  }

 private:
  pqxx::connection connection_{postgres_url()};
  std::string log_;
  std::int64_t last_ = 0;
};

/// Orders by transaction id and stays below the oldest transaction that is open.
class ReaderByTransaction {
 public:
  explicit ReaderByTransaction(const std::string& log) : log_{log} {}
  Ids poll() {
    pqxx::nontransaction tx{connection_};
    Ids ids;
    for (const auto& row : postgres::run(tx,
                                         "SELECT txid::text, id, event_id FROM " + log_ +
                                             " WHERE (txid, id) > ($1::xid8, $2::bigint)"
                                             " AND txid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY txid, id",
                                         txid_, id_)) {
      txid_ = row[0].as<std::string>();
      id_ = row[1].as<std::int64_t>();
      ids.push_back(row[2].as<std::string>());
    }
    return ids;
  }

 private:
  pqxx::connection connection_{postgres_url()};
  std::string log_;
  std::string txid_ = "0";
  std::int64_t id_ = 0;
};

/// One of several workers that claim rows, deliver them and delete them.
class ReaderByClaim {
 public:
  explicit ReaderByClaim(const std::string& queue) : queue_{queue} {}
  Ids claim(int max) {
    tx_ = std::make_unique<pqxx::work>(connection_);
    Ids ids;
    for (const auto& row : postgres::run(*tx_,
                                         "DELETE FROM " + queue_ + " WHERE id IN (SELECT id FROM " + queue_ +
                                             " ORDER BY id LIMIT $1::int FOR UPDATE SKIP LOCKED) RETURNING id, event_id",
                                         max)) {
      ids.push_back(row[1].as<std::string>());
    }
    return ids;
  }
  void done() {
    tx_->commit();
    tx_.reset();
  }

 private:
  pqxx::connection connection_{postgres_url()};
  std::unique_ptr<pqxx::work> tx_{};  // dies before the connection
  std::string queue_;
};

TEST_F(WindowsTest, Rule2_ALaterIdThatCommitsFirst) {
  ReaderById by_id{log_};
  ReaderByTransaction by_transaction{log_};
  pqxx::connection a{postgres_url()};
  pqxx::connection b{postgres_url()};
  pqxx::work t1{a};
  append(t1, "1", "x");
  pqxx::work t2{b};
  append(t2, "2", "y");
  t2.commit();
  EXPECT_EQ(by_id.poll(), (Ids{"2"}));
  EXPECT_EQ(by_transaction.poll(), (Ids{}));
  EXPECT_EQ(read_ids(*ours_), (Ids{"2"}));
  t1.commit();
  EXPECT_EQ(by_id.poll(), (Ids{})) << "this reader loses an event";
  EXPECT_EQ(by_transaction.poll(), (Ids{"1", "2"}));
  EXPECT_EQ(read_ids(*ours_), (Ids{"1"}));
  EXPECT_EQ(read_ids(*ours_), (Ids{}));
}

TEST_F(WindowsTest, Rule2_AnOlderTransactionThatWritesTheAggregateLater) {
  ReaderById by_id{log_};
  ReaderByTransaction by_transaction{log_};
  schema_.exec("CREATE TABLE " + schema_.table("queue") + "(id bigserial PRIMARY KEY, event_id text)");
  pqxx::connection a{postgres_url()};
  pqxx::connection b{postgres_url()};
  pqxx::work t1{a};
  t1.exec("SELECT pg_current_xact_id()");  // it changed another row first
  pqxx::work t2{b};
  append(t2, "X1", "x");
  t2.exec("INSERT INTO " + schema_.table("queue") + "(event_id) VALUES ('X1')");
  t2.commit();
  append(t1, "X2", "x");
  t1.exec("INSERT INTO " + schema_.table("queue") + "(event_id) VALUES ('X2')");
  t1.commit();
  EXPECT_EQ(by_id.poll(), (Ids{"X1", "X2"}));
  EXPECT_EQ(by_transaction.poll(), (Ids{"X2", "X1"})) << "this reader breaks the order";
  EXPECT_EQ(read_ids(*ours_), (Ids{"X1", "X2"}));

  ReaderByClaim slow{schema_.table("queue")};
  ReaderByClaim fast{schema_.table("queue")};
  EXPECT_EQ(slow.claim(1), (Ids{"X1"}));
  EXPECT_EQ(fast.claim(1), (Ids{"X2"})) << "these two deliver in the order in which they get to it";
  fast.done();
  slow.done();
}

TEST_F(WindowsTest, Rule2_AnUnrelatedLongTransactionInAnotherDatabase) {
  ReaderById by_id{log_};
  ReaderByTransaction by_transaction{log_};
  const auto other = test::unique_name("penstock_other");
  schema_.exec("CREATE DATABASE " + other);
  {
    auto url = postgres_url();
    const auto query = url.find('?');
    const auto slash = url.find('/', url.find("://") + 3);
    url = url.substr(0, slash) + "/" + other + (query == std::string::npos ? "" : url.substr(query));
    pqxx::connection elsewhere{url};
    pqxx::work open{elsewhere};
    open.exec("SELECT pg_current_xact_id()");
    pqxx::connection a{postgres_url()};
    for (const auto* id : {"1", "2", "3"}) {
      pqxx::work tx{a};
      append(tx, id, "x");
      tx.commit();
    }
    EXPECT_EQ(by_id.poll(), (Ids{"1", "2", "3"}));
    EXPECT_EQ(by_transaction.poll(), (Ids{})) << "this reader stands still";
    EXPECT_EQ(read_ids(*ours_), (Ids{"1", "2", "3"}));
  }
  schema_.exec("DROP DATABASE " + other);
}

TEST_F(WindowsTest, Rule2_ALongReadOnlyTransactionLeavesNoDeadEvents) {
  const auto queue = schema_.table("queue");
  schema_.exec("CREATE TABLE " + queue + "(id bigserial PRIMARY KEY, event_id text)");
  pqxx::connection a{postgres_url()};
  pqxx::transaction<pqxx::repeatable_read> report{a};
  report.exec("SELECT count(*) FROM " + log_);
  pqxx::connection b{postgres_url()};
  {
    pqxx::work tx{b};
    outbox_.append(tx, std::vector<Event>(500, Event{.type = "t", .key = "k"}));
    tx.exec("INSERT INTO " + queue + "(event_id) SELECT n::text FROM generate_series(1, 500) n");
    tx.commit();
  }
  ReaderByClaim claiming{queue};
  while (!claiming.claim(100).empty()) {
    claiming.done();
  }
  claiming.done();
  const auto read = read_entries(*ours_);
  EXPECT_EQ(read.size(), 500U);
  ours_->checkpoint(read.back().sequence);
  schema_.exec("VACUUM " + queue);
  schema_.exec("VACUUM " + log_);
  const auto dead = [&](const std::string& table) {
    return schema_.value("SELECT pg_stat_get_dead_tuples('" + table + "'::regclass)");
  };
  ASSERT_TRUE(test::eventually([&] { return dead(queue) >= 500; })) << "this reader leaves its dead rows behind";
  EXPECT_EQ(test::dead_tuples(schema_, {"outbox_0", "outbox_1", "outbox_2"}), 0);
}

TEST_F(WindowsTest, ATransactionThatWasOpenForLongIsMergedById) {
  pqxx::connection a{postgres_url()};
  pqxx::connection b{postgres_url()};
  pqxx::work late{a};
  append(late, "old", "a");
  {
    pqxx::work tx{b};
    append(tx, "between", "b");
    tx.commit();
  }
  EXPECT_EQ(read_ids(*ours_), (Ids{"between"}));
  // Now, in one window: b writes key c, then the late transaction, having waited for c's lock, writes it after b.
  {
    pqxx::work tx{b};
    append(tx, "c1", "c");
    tx.commit();
  }
  append(late, "c2", "c");
  late.commit();
  EXPECT_EQ(read_ids(*ours_), (Ids{"old", "c1", "c2"}));
}

TEST_F(WindowsTest, AbortedTransactionsAndSubtransactionsLeaveNoTrace) {
  pqxx::connection a{postgres_url()};
  {
    pqxx::work tx{a};
    append(tx, "1", "x");
    // In SQL: libpqxx 6 begins a pqxx::subtransaction at its first exec(), so not for statements with parameters.
    tx.exec("SAVEPOINT undone");
    append(tx, "undone", "x");
    tx.exec("ROLLBACK TO SAVEPOINT undone");
    tx.exec("SAVEPOINT kept");
    append(tx, "2", "x");
    tx.exec("RELEASE SAVEPOINT kept");
    tx.commit();
  }
  {
    pqxx::work tx{a};
    append(tx, "aborted", "x");
  }
  EXPECT_EQ(read_ids(*ours_), (Ids{"1", "2"}));
}

TEST_F(WindowsTest, FiftyWritersAtOnceKeepEveryKeyInOrder) {
  constexpr int kWriters = 50;
  constexpr int kKeys = 20;
  constexpr int kEach = 20;
  schema_.exec("CREATE TABLE " + schema_.table("aggregates") + " AS SELECT n AS id, 0 AS version FROM generate_series(0, " +
               std::to_string(kKeys - 1) + ") n");
  std::vector<EventLog::Entry> read;
  {
    std::vector<std::jthread> writers;
    std::atomic<int> running{kWriters};
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&, w] {
        try {
          std::mt19937 random{static_cast<unsigned>(w)};
          pqxx::connection connection{postgres_url()};
          for (int i = 0; i < kEach; ++i) {
            const auto key = std::to_string(random() % kKeys);
            pqxx::work tx{connection};
            if (random() % 2 == 0) {
              tx.exec("SELECT pg_current_xact_id()");
            }
            const auto version = tx.exec("UPDATE " + schema_.table("aggregates") +
                                         " SET version = version + 1 WHERE id = " + key + " RETURNING version")[0][0]
                                     .as<std::string>();
            append(tx, version, key);
            tx.commit();
          }
        } catch (const std::exception& error) {
          ADD_FAILURE() << error.what();
        }
        --running;
      });
    }
    while (running > 0) {
      for (auto& entry : ours_->read(7)) {
        read.push_back(std::move(entry));
      }
    }
  }
  for (auto& entry : read_entries(*ours_)) {
    read.push_back(std::move(entry));
  }
  EXPECT_EQ(read.size(), static_cast<std::size_t>(kWriters * kEach));
  std::map<std::string, int> versions;
  for (const auto& entry : read) {
    EXPECT_EQ(std::stoi(entry.event.id), ++versions[entry.event.key]) << "key " << entry.event.key;
  }
  schema_.exec("VACUUM " + log_);
  EXPECT_EQ(test::dead_tuples(schema_, {"outbox_0", "outbox_1", "outbox_2"}), 0);
}

}  // namespace
}  // namespace penstock
