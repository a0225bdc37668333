// SPDX-License-Identifier: Apache-2.0
// The interleavings that break other ways of reading an outbox, each beside the reader it breaks.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "postgres/cursor.hpp"
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

/// Writers that begin, take keys, append, commit and abort in any order, beside readers that stop and crash; one thread decides
/// what happens next, so that a seed repeats it.
class Schedule {
 public:
  Schedule(const Schema& schema, std::deque<pqxx::connection>& connections, unsigned seed) : random_{seed} {
    settings_.url = postgres_url();
    settings_.schema = schema.name();
    // Small enough for windows of a few rows to be large ones, and for walks to take several steps.
    settings_.limits = {.small_window = 1 + random_() % 4,
                        .bytes = 1 + static_cast<std::int64_t>(random_() % 40),
                        .chunk = 1 + static_cast<std::int64_t>(random_() % 6),
                        .measured = static_cast<std::int64_t>(random_() % 6)};
    for (pqxx::connection& connection : connections) {
      writers_.push_back({.connection = &connection});
    }
    outbox_ = std::make_unique<Outbox>(postgres_url(), OutboxOptions{.schema = schema.name()});
    open_reader();
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      Writer& writer = writers_[random_() % writers_.size()];
      switch (random_() % 10) {
        case 0:
        case 1:
        case 2: append(writer); break;
        case 3: touch(writer); break;
        case 4:
        case 5: end(writer, random_() % 5 != 0); break;
        case 6:
        case 7: read(1 + random_() % 6); break;
        case 8: settle(); break;
        default:
          if (random_() % 3 == 0) {
            restart();
          }
      }
    }
    for (Writer& writer : writers_) {
      end(writer, true);
    }
    if (random_() % 2 == 0) {
      restart();
    }
    while (read(50) > 0) {
    }
    check();
  }

 private:
  struct Writer {
    pqxx::connection* connection = nullptr;
    std::unique_ptr<pqxx::work> tx{};
    std::set<int> keys{};
    std::vector<std::pair<int, std::string>> appended{};
  };

  pqxx::work& begun(Writer& writer) {
    if (!writer.tx) {
      writer.tx = std::make_unique<pqxx::work>(*writer.connection);
    }
    return *writer.tx;
  }
  void touch(Writer& writer) { begun(writer).exec("SELECT pg_current_xact_id()"); }
  void append(Writer& writer) {
    const int key = static_cast<int>(random_() % 4);
    for (const Writer& other : writers_) {
      if (&other != &writer && other.keys.count(key) != 0) {
        return;  // it would wait for the key's lock
      }
    }
    writer.keys.insert(key);
    std::vector<Event> events;
    for (auto n = 1 + random_() % 3; n > 0; --n) {
      const auto id = std::to_string(++next_id_);
      events.push_back({.id = id,
                        .source = "/s",
                        .type = random_() % 8 == 0 ? "hidden" : "seen",
                        .key = std::to_string(key),
                        .data = std::string(random_() % 30, 'x'),
                        .content_type = "text/plain"});
      if (events.back().type == "seen") {
        writer.appended.emplace_back(key, id);
      }
    }
    outbox_->append(begun(writer), events);
  }
  void end(Writer& writer, bool commit) {
    if (!writer.tx) {
      return;
    }
    if (commit) {
      writer.tx->commit();
      for (const auto& [key, id] : writer.appended) {
        committed_[key].push_back(id);
      }
    }
    writer.tx.reset();
    writer.keys.clear();
    writer.appended.clear();
  }

  void open_reader() {
    reader_ = std::make_unique<postgres::PostgresCursor>(settings_, "c", std::vector<std::string>{"seen"});
    ASSERT_TRUE(reader_->acquire());
    sequence_ = 0;
    settled_ = 0;
    unsettled_.clear();
  }
  std::size_t read(std::size_t max) {
    const auto entries = reader_->read(max);
    for (const auto& entry : entries) {
      EXPECT_EQ(entry.sequence, ++sequence_);
      unsettled_.push_back(entry.event.id);
      const int key = std::stoi(entry.event.key);
      if (first_read_.insert(entry.event.id).second) {
        delivered_[key].push_back(entry.event.id);
      } else {
        EXPECT_TRUE(may_repeat_.count(entry.event.id) != 0) << entry.event.id << " was settled and is read again";
      }
    }
    return entries.size();
  }
  void settle() {
    if (unsettled_.empty()) {
      return;
    }
    const auto count = 1 + random_() % unsettled_.size();
    settled_ += count;
    unsettled_.erase(unsettled_.begin(), unsettled_.begin() + static_cast<std::ptrdiff_t>(count));
    reader_->checkpoint(settled_);
  }
  void restart() {
    may_repeat_.insert(unsettled_.begin(), unsettled_.end());
    reader_->release();
    open_reader();
  }
  void check() {
    for (const auto& [key, ids] : committed_) {
      EXPECT_EQ(delivered_[key], ids) << "key " << key;
    }
  }

  std::mt19937 random_;
  postgres::CursorSettings settings_{};
  std::unique_ptr<Outbox> outbox_{};
  std::vector<Writer> writers_{};
  std::unique_ptr<postgres::PostgresCursor> reader_{};
  std::uint64_t sequence_ = 0;
  std::uint64_t settled_ = 0;
  Ids unsettled_{};
  std::set<std::string> may_repeat_{};
  int next_id_ = 0;
  std::map<int, Ids> committed_{};
  std::map<int, Ids> delivered_{};
  std::set<std::string> first_read_{};
};

TEST(WindowsSchedules, Rule2_NothingIsLostAndKeysStayInOrderInAnyInterleaving) {
  const Schema schema{"schedules"};
  // Beside everything, a transaction that never ends and one elsewhere that comes and goes.
  pqxx::connection foreign{postgres_url()};
  pqxx::work open{foreign};
  open.exec("SELECT pg_current_xact_id()");
  std::deque<pqxx::connection> connections;
  for (int i = 0; i < 4; ++i) {
    connections.emplace_back(postgres_url());
  }
  for (unsigned seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Schedule{schema, connections, seed}.run(60);
    schema.exec("TRUNCATE " + schema.table("outbox") + ", " + schema.table("cursors") + ", " + schema.table("cursor_log"));
    if (testing::Test::HasFailure()) {
      break;
    }
  }
}

}  // namespace
}  // namespace penstock
