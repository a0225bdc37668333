// SPDX-License-Identifier: Apache-2.0
// What the reader's statements cost must not depend on the backlog, nor on what the planner knows of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "penstock/outbox.hpp"
#include "postgres/backlog.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/snapshot.hpp"
#include "postgres/window_reader.hpp"
#include "postgres/window_sql.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using postgres::run;
using postgres::Snapshot;
using test::postgres_url;
using test::Schema;

struct Plan {
  std::string text{};
  std::int64_t most_rows = 0;  // in any node, filtered ones included
  std::int64_t buffers = 0;    // touched by the whole statement
};

class PlansTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr std::int64_t kBacklog = 100'000;
  static constexpr std::int64_t kMost = 1000;  // rows a statement may return
  static constexpr std::int64_t kBytes = std::int64_t{16} << 20U;
  static constexpr std::int64_t kChunk = 5000;

  Schema schema_{"plans"};
  std::string log_ = schema_.table("outbox");
  pqxx::connection connection_{postgres_url()};
  pqxx::connection open_connection_{postgres_url()};
  std::unique_ptr<pqxx::work> open_{};
  std::uint64_t late_ = 0;

  void SetUp() override {
    for (const auto* segment : {"outbox_0", "outbox_1", "outbox_2"}) {
      schema_.exec("ALTER TABLE " + schema_.table(segment) + " SET (autovacuum_enabled = off)");
    }
    if (std::string{GetParam()} == "analyzed while empty") {
      schema_.exec("ANALYZE " + log_);
    }
    open_ = std::make_unique<pqxx::work>(open_connection_);
    fill(*open_, 10);  // the late transaction: the lowest ids, committed last
    late_ = open_->exec("SELECT pg_current_xact_id()::text")[0][0].as<std::uint64_t>();
    const auto delivered = kBacklog / 2;
    for (int i = 0; i < 10; ++i) {
      fill_committed(delivered / 10);
    }
    use_segment(1);
    prev_ = snapshot();
    for (int i = 0; i < 10; ++i) {
      if (i == 5) {
        use_segment(2);
      }
      fill_committed((kBacklog - delivered) / 10);
    }
    if (std::string{GetParam()} == "analyzed") {
      schema_.exec("VACUUM ANALYZE " + log_);
    }
  }

  void use_segment(int segment) {
    schema_.exec("SELECT setval('" + schema_.table("outbox_segment") + "', " + std::to_string(segment) + ")");
  }
  void fill(pqxx::transaction_base& tx, std::int64_t rows) {
    tx.exec("INSERT INTO " + log_ +
            "(route, event_id, source, type, key, data) SELECT 't', n::text, '/s', 't', (n % 100)::text, '\\x0011223344556677'"
            " FROM generate_series(1, " +
            std::to_string(rows) + ") n");
  }
  void fill_committed(std::int64_t rows) {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    fill(tx, rows);
    tx.commit();
  }
  /// The cluster's other transactions, each of which costs a look, are none of this table's.
  Snapshot snapshot() {
    auto snapshot = Snapshot::parse(schema_.value<std::string>("SELECT pg_current_snapshot()"));
    std::erase_if(snapshot.in_flight, [this](auto txid) { return txid != late_; });
    return snapshot;
  }

  /// 0 where there is none.
  static std::int64_t number_after(const std::string& line, const std::string& label) {
    const auto at = line.find(label);
    return at == std::string::npos ? 0 : std::strtol(line.c_str() + at + label.size(), nullptr, 10);
  }

  template <class... Args>
  Plan explain(const std::string& sql, const Args&... args) {
    pqxx::work tx{connection_};
    tx.exec(postgres::reader_settings());
    Plan plan;
    bool first = true;
    for (const auto& row : run(tx, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) " + sql, args...)) {
      const std::string line = row[0].c_str();
      if (line.find("Seq Scan on outbox_id_seq") != std::string::npos) {
        continue;  // a sequence has one row and no index
      }
      plan.text += line + "\n";
      plan.most_rows = std::max({plan.most_rows, number_after(line, "actual rows=") * number_after(line, "loops="),
                                 line.find("Rows Removed") == std::string::npos ? 0 : number_after(line, ": ")});
      if (first && line.find("Buffers: shared") != std::string::npos) {
        first = false;
        plan.buffers = number_after(line, " hit=") + number_after(line, " read=");
      }
    }
    EXPECT_FALSE(first) << "no count of buffers: " << plan.text;
    EXPECT_EQ(plan.text.find("Seq Scan on outbox"), std::string::npos) << plan.text;
    EXPECT_EQ(plan.text.find("Bitmap"), std::string::npos) << plan.text;
    return plan;
  }

  static std::string in_flight(const Snapshot& snapshot) { return postgres::array_of(snapshot.in_flight); }
  Plan poll(const Snapshot& prev) {
    return explain(postgres::poll_sql(schema_.name()), std::to_string(prev.xmax), in_flight(prev), kMost, kBytes,
                   std::optional<std::string>{"{t}"});
  }

  Snapshot prev_{};
};

TEST_P(PlansTest, AnIdlePollTouchesNextToNothing) {
  const auto plan = poll(snapshot());
  EXPECT_LE(plan.most_rows, 2) << plan.text;
  EXPECT_LE(plan.buffers, 40) << plan.text;
}

TEST_P(PlansTest, ASmallWindowTouchesItsOwnRows) {
  const auto prev = snapshot();
  fill_committed(100);
  open_->commit();
  open_.reset();
  const auto plan = poll(prev);
  EXPECT_GE(plan.most_rows, 110) << plan.text;
  EXPECT_LE(plan.most_rows, 120) << plan.text;
  EXPECT_LE(plan.buffers, 400) << plan.text;
}

TEST_P(PlansTest, ALargeWindowIsFoundToBeLargeWithoutBeingRead) {
  const auto plan = poll(prev_);
  EXPECT_LE(plan.most_rows, kMost + 1) << plan.text;
  EXPECT_LE(plan.buffers, 200) << plan.text;
}

TEST_P(PlansTest, AnOpenTransactionThatAppendsThousandsIsNotWalkedOver) {
  fill(*open_, 20'000);
  fill_committed(1);
  const auto plan = poll(snapshot());
  EXPECT_LE(plan.buffers, 40) << plan.text;
}

TEST_P(PlansTest, TheBacklogIsMeasuredByLookingAtAThousandRowsAtMost) {
  fill(*open_, 20'000);
  fill_committed(1);
  const auto cur = snapshot();
  for (const auto& prev : {prev_, snapshot()}) {
    const auto plan = explain(postgres::backlog_sql(schema_.name()), std::to_string(prev.xmax - 1), in_flight(prev),
                              std::optional{cur.text}, 1, std::optional<std::string>{"{t}"}, kMost);
    EXPECT_LE(plan.most_rows, kMost + 1) << plan.text;
    EXPECT_LE(plan.buffers, 300) << plan.text;
  }
}

TEST_P(PlansTest, TheExtentOfAWindowIsMeasuredAlongTheIndex) {
  const auto cur = snapshot();
  const auto plan =
      explain(postgres::extent_sql(schema_.name()), std::to_string(prev_.xmax), std::to_string(cur.xmax), cur.text, kChunk);
  EXPECT_LE(plan.most_rows, kChunk) << plan.text;
  EXPECT_EQ(plan.text.find("Sort Method"), std::string::npos) << plan.text;
}

TEST_P(PlansTest, TheExtentOfTheWholeLogIsFoundAtItsEnds) {
  const auto plan = explain(postgres::ends_sql(schema_.name()));
  EXPECT_LE(plan.most_rows, 1) << plan.text;
  EXPECT_LE(plan.buffers, 40) << plan.text;
}

TEST_P(PlansTest, ALateTransactionIsReadByItsNumberAndNotFromItsFirstIdOn) {
  open_->commit();
  open_.reset();
  const auto extent = explain(postgres::late_extent_sql(schema_.name()), in_flight(prev_), 0);
  EXPECT_LE(extent.buffers, 30) << extent.text;
  const auto rows = explain(postgres::late_rows_sql(schema_.name()), in_flight(prev_), 0, kBacklog, kMost, kBytes,
                            std::optional<std::string>{});
  EXPECT_LE(rows.most_rows, 10) << rows.text;
  EXPECT_LE(rows.buffers, 40) << rows.text;
}

TEST_P(PlansTest, AnyPlaceInALargeWindowCostsTheSame) {
  const auto cur = snapshot();
  for (const std::int64_t place : {kBacklog / 2 + 10, kBacklog * 3 / 4, kBacklog - 100}) {
    for (const auto& sql : {postgres::range_rows_sql(schema_.name()), postgres::small_rows_sql(schema_.name())}) {
      const auto plan = explain(sql, place, place + kChunk, prev_.text, cur.text, kMost, kBytes, std::optional<std::string>{});
      EXPECT_LE(plan.most_rows, kMost) << plan.text;
      EXPECT_LE(plan.buffers, 200) << plan.text;
      EXPECT_EQ(plan.text.find("Sort Method"), std::string::npos) << plan.text;
    }
  }
}

TEST_P(PlansTest, EventsForOthersCostNoMoreThanAChunkAtATime) {
  const auto cur = snapshot();
  const auto plan = explain(postgres::range_rows_sql(schema_.name()), kBacklog / 2 + 10, kBacklog / 2 + 10 + kChunk, prev_.text,
                            cur.text, kMost, kBytes, std::optional<std::string>{"{nothing}"});
  EXPECT_LE(plan.most_rows, kChunk) << plan.text;
}

TEST_P(PlansTest, AHugeWindowIsReadInOrderWithABoundedBuffer) {
  fill_committed(20'000);
  open_->commit();
  open_.reset();
  postgres::WindowReader reader{schema_.name(), {"*"}, {.small_window = 500, .bytes = 2000, .chunk = kChunk}};
  reader.seek({.prev = prev_.text});
  std::int64_t rows = 0;
  std::int64_t last = 0;
  for (auto step = reader.step(connection_); step != postgres::WindowReader::Step::end; step = reader.step(connection_)) {
    std::int64_t buffered = 0;
    for (const auto& row : reader.take().rows) {
      EXPECT_GT(row.id, last);
      last = row.id;
      ++buffered;
    }
    EXPECT_LE(buffered, 2000 / 8) << "eight bytes each";
    rows += buffered;
  }
  EXPECT_EQ(rows, 10 + kBacklog / 2 + 20'000);
}

TEST_P(PlansTest, PayloadsOfAllSizesAreReadInOrderWithABoundedBuffer) {
  open_->commit();
  open_.reset();
  constexpr std::int64_t kPayloads = 16'000;
  const auto size_of = [](std::int64_t i) { return i % 97 == 0 ? kPayloads / 2 : i % 31 == 0 ? 0 : i % 13; };
  const auto before = snapshot();
  std::vector<Event> events;
  for (std::int64_t i = 0; i < 2'000; ++i) {
    Event event{.id = std::to_string(i), .source = "/s", .type = "t", .key = "k"};
    if (i % 31 != 1) event.data = std::string(static_cast<std::size_t>(size_of(i)), 'x');
    events.push_back(std::move(event));
  }
  {
    Outbox outbox{test::postgres_url(), {.schema = schema_.name()}};
    pqxx::work tx{connection_};
    outbox.append(tx, events);
    tx.commit();
  }
  postgres::WindowReader reader{schema_.name(), {"*"}, {.small_window = 500, .bytes = kPayloads, .chunk = kChunk}};
  reader.seek({.prev = before.text});
  std::size_t next = 0;
  for (auto step = reader.step(connection_); step != postgres::WindowReader::Step::end; step = reader.step(connection_)) {
    std::size_t bytes = 0;
    for (const auto& row : reader.take().rows) {
      if (row.event.source != "/s") continue;
      ASSERT_EQ(row.event.id, events.at(next).id);
      EXPECT_EQ(row.event.data, events.at(next).data);
      bytes += row.event.data ? row.event.data->size() : 0;
      ++next;
    }
    EXPECT_LT(bytes, static_cast<std::size_t>(kPayloads + kPayloads / 2)) << "the last one may exceed it";
  }
  EXPECT_EQ(next, events.size());
}

INSTANTIATE_TEST_SUITE_P(Statistics, PlansTest, testing::Values("never analyzed", "analyzed while empty", "analyzed"),
                         [](const auto& statistics) {
                           std::string name = statistics.param;
                           for (char& c : name) {
                             c = c == ' ' ? '_' : c;
                           }
                           return name;
                         });

}  // namespace
}  // namespace penstock
