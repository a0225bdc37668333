// SPDX-License-Identifier: Apache-2.0
// A dump of the log, loaded into a cluster that numbers its transactions by itself.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "penstock/migrate.hpp"
#include "penstock/outbox.hpp"
#include "support/postgres.hpp"
#include "support/private_postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::postgres_url;
using test::Schema;

class ErrorLogger final : public Logger {
 public:
  void log(LogLevel level, const std::string& /*message*/) override {
    const std::lock_guard lock{mutex_};
    errors_ += level == LogLevel::error ? 1 : 0;
  }
  int errors() {
    const std::lock_guard lock{mutex_};
    return errors_;
  }

 private:
  std::mutex mutex_;
  int errors_ = 0;
};

TEST(Restore, Rule2_ADumpLoadedIntoAnotherClusterRepeatsAndSkipsNothing) {
  const Schema schema{"restore"};
  const auto append = [&](const std::string& url, Outbox& outbox, const std::string& id) {
    pqxx::connection connection{url};
    pqxx::work tx{connection};
    outbox.append(tx, {.id = id, .type = "t", .key = "k", .data = "{}"});
    tx.commit();
  };
  const auto read = [](EventLog::Cursor& cursor) {
    std::vector<std::string> ids;
    for (auto entries = cursor.read(100); !entries.empty(); entries = cursor.read(100)) {
      for (const auto& entry : entries) {
        ids.push_back(entry.event.id);
      }
    }
    return ids;
  };
  {
    Outbox outbox{postgres_url(), {.schema = schema.name(), .source = "/s"}};
    // Puts this cluster's numbering ahead of a new one's.
    schema.exec("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    append(postgres_url(), outbox, "settled");
    schema.exec("SELECT setval('" + schema.table("outbox_segment") + "', 1)");
    auto cursor = outbox.cursor("memory:orders", {"*"});
    ASSERT_TRUE(cursor->acquire());
    ASSERT_EQ(read(*cursor).size(), 1U);
    cursor->checkpoint(1);
    cursor->release();
    append(postgres_url(), outbox, "waiting");
  }
  const test::PrivatePostgres other;
  ASSERT_NO_THROW(test::output_of(
      "pg_dump --schema=" + schema.name() + " '" + postgres_url() + "' | psql -q -v ON_ERROR_STOP=1 '" + other.url() + "'",
      other.place()));
  const auto logger = std::make_shared<ErrorLogger>();
  Outbox outbox{other.url(), {.schema = schema.name(), .source = "/s", .logger = logger}};
  append(other.url(), outbox, "new");  // before any relay has looked
  {
    pqxx::connection connection{other.url()};
    pqxx::nontransaction tx{connection};
    EXPECT_EQ(tx.exec("SELECT last_value FROM " + schema.table("outbox_segment"))[0][0].as<int>(), 1);
    EXPECT_TRUE(
        tx.exec("SELECT bool_and(pg_current_xact_id() < prev_max) FROM (SELECT pg_snapshot_xmax(prev) AS prev_max FROM " +
                schema.table("cursor_status") + ") p")[0][0]
            .as<bool>())
        << "the stored place is ahead of this cluster: what is new would not be seen";
  }
  auto cursor = outbox.cursor("memory:orders", {"*"});
  ASSERT_TRUE(cursor->acquire());
  EXPECT_EQ(read(*cursor), (std::vector<std::string>{"settled", "waiting", "new"}));
  EXPECT_EQ(logger->errors(), 1) << "said once";
  append(other.url(), outbox, "newer");
  EXPECT_EQ(read(*cursor), (std::vector<std::string>{"newer"}));
  cursor->checkpoint(4);
  cursor->release();
  ASSERT_TRUE(cursor->acquire());
  EXPECT_TRUE(read(*cursor).empty());
  EXPECT_EQ(logger->errors(), 1);
}

// All rows are written by one transaction then, and its number may be that of the one that made the schema, as where both
// clusters are new and were set up by the same steps.
TEST(Restore, Rule2_ADumpLoadedByATransactionWithTheNumberOfTheMigrationIsKnownForWhatItIs) {
  const auto use_numbers = [](const std::string& url, long long up_to) {
    pqxx::connection connection{url};
    pqxx::nontransaction tx{connection};
    tx.exec("DO $$ BEGIN WHILE pg_current_xact_id()::text::bigint < " + std::to_string(up_to) +
            " LOOP COMMIT; END LOOP; END $$");
  };
  const auto append = [](const std::string& url, const std::string& id) {
    Outbox outbox{url, {.source = "/s"}};
    pqxx::connection connection{url};
    pqxx::work tx{connection};
    outbox.append(tx, {.id = id, .type = "t", .key = "k", .data = "{}"});
    tx.commit();
  };
  const test::PrivatePostgres one;
  const test::PrivatePostgres other;
  use_numbers(one.url(), 2'000);
  migrate(one.url());
  use_numbers(one.url(), 5'000);
  append(one.url(), "settled");
  {
    Outbox outbox{one.url(), {.source = "/s"}};
    auto cursor = outbox.cursor("memory:orders", {"*"});
    ASSERT_TRUE(cursor->acquire());
    ASSERT_EQ(cursor->read(10).size(), 1U);
    cursor->checkpoint(1);
    cursor->release();
  }
  const auto made = test::output_of(
      "psql -Atc 'SELECT min(txid::text::bigint) FROM penstock.schema_version' '" + one.url() + "'", one.place());
  use_numbers(other.url(), std::stoll(made) - 1);
  ASSERT_NO_THROW(test::output_of(
      "pg_dump --schema=penstock '" + one.url() + "' | psql -q -1 -v ON_ERROR_STOP=1 '" + other.url() + "'", other.place()));
  append(other.url(), "new");
  const auto logger = std::make_shared<ErrorLogger>();
  Outbox outbox{other.url(), {.source = "/s", .logger = logger}};
  auto cursor = outbox.cursor("memory:orders", {"*"});
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(cursor->acquire());
    std::vector<std::string> ids;
    for (const auto& entry : cursor->read(10)) {
      ids.push_back(entry.event.id);
    }
    EXPECT_EQ(ids, (std::vector<std::string>{"settled", "new"}));
    EXPECT_EQ(logger->errors(), 1) << "said once";
  }
}

}  // namespace
}  // namespace penstock
