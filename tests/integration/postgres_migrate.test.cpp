// SPDX-License-Identifier: Apache-2.0
#include "penstock/migrate.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <exception>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "support/postgres.hpp"

namespace penstock {
namespace {

using test::postgres_url;
using test::Schema;

TEST(Migrate, CreatesTheSchemaAndIsIdempotent) {
  const Schema schema{"migrate", false};
  EXPECT_EQ(schema_version(postgres_url(), schema.name()), 0);
  migrate(postgres_url(), schema.name());
  EXPECT_EQ(schema_version(postgres_url(), schema.name()), library_schema_version());
  const auto applied = "SELECT array_agg(applied_at ORDER BY version)::text FROM " + schema.table("schema_version");
  const auto before = schema.value<std::string>(applied);
  migrate(postgres_url(), schema.name());
  EXPECT_EQ(schema.value<std::string>(applied), before);
  for (const auto* table :
       {"outbox", "cursors", "cursor_log", "inbox", "parked", "dead_letters", "audit", "checkpoints", "begun"}) {
    EXPECT_EQ(schema.value("SELECT count(*) FROM " + schema.table(table)), 0) << table;
  }
}

TEST(Migrate, EightAtOnceApplyEachMigrationOnce) {
  const Schema schema{"migrate_race", false};
  std::latch start{8};
  std::atomic<int> failures{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        try {
          migrate(postgres_url(), schema.name());
        } catch (const std::exception& error) {
          ADD_FAILURE() << error.what();
          ++failures;
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(schema.value("SELECT count(*) FROM " + schema.table("schema_version")), library_schema_version());
}

TEST(Migrate, RefusesASchemaThatIsNewerAndLeavesItAlone) {
  const Schema schema{"migrate_newer"};
  const int newer = library_schema_version() + 1;
  schema.exec("INSERT INTO " + schema.table("schema_version") + "(version) VALUES (" + std::to_string(newer) + ")");
  try {
    migrate(postgres_url(), schema.name());
    FAIL() << "a newer schema was accepted";
  } catch (const SchemaTooNew& error) {
    EXPECT_NE(std::string{error.what()}.find(std::to_string(newer)), std::string::npos) << error.what();
    EXPECT_NE(std::string{error.what()}.find(std::to_string(library_schema_version())), std::string::npos) << error.what();
  }
  EXPECT_EQ(schema_version(postgres_url(), schema.name()), newer);
}

TEST(Migrate, RefusesNamesThatAreNoIdentifiers) {
  for (const auto* bad : {"", "Shop", "1shop", "shop-events", "a\"b", "a b", "pg_shop", "x; DROP TABLE y",
                          "a23456789012345678901234567890123456789012345678901"}) {
    EXPECT_THROW(migrate(postgres_url(), bad), std::invalid_argument) << bad;
    EXPECT_THROW(schema_version(postgres_url(), bad), std::invalid_argument) << bad;
  }
}

TEST(Migrate, TakesAKeyWordAsAName) {
  const std::string name = "order";
  ASSERT_EQ(schema_version(postgres_url(), name), 0) << "left over from another run";
  migrate(postgres_url(), name);
  EXPECT_EQ(schema_version(postgres_url(), name), library_schema_version());
  pqxx::connection connection{postgres_url()};
  pqxx::nontransaction tx{connection};
  tx.exec("SET client_min_messages = warning; DROP SCHEMA \"order\" CASCADE");
}

TEST(Migrate, WorksWhereTransactionsAreSerializableByDefault) {
  const Schema schema{"migrate_serializable", false};
  auto url = postgres_url();
  url += url.find('?') == std::string::npos ? "?" : "&";
  url += "options=-c%20default_transaction_isolation%3Dserializable";
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_NO_THROW(migrate(url, schema.name())); });
  }
  threads.clear();
  EXPECT_EQ(schema_version(postgres_url(), schema.name()), library_schema_version());
}

TEST(AppendInSql, AppendsToTheLogInTheCurrentTransaction) {
  const Schema schema{"migrate_sql"};
  const auto id =
      schema.value<std::string>("SELECT " + schema.table("append") +
                                "('shop.order.placed.v1', '{\"n\": 1}', event_key => 'o-1', event_source => '/shop')");
  EXPECT_EQ(id.size(), 36U);
  EXPECT_EQ(id[14], '7') << id;
  const auto row = schema.exec("SELECT * FROM " + schema.table("outbox"));
  ASSERT_EQ(row.size(), 1U);
  EXPECT_EQ(row[0]["event_id"].as<std::string>(), id);
  EXPECT_EQ(row[0]["route"].as<std::string>(), "shop.order.placed.v1");
  EXPECT_EQ(row[0]["key"].as<std::string>(), "o-1");
  EXPECT_EQ(row[0]["content_type"].as<std::string>(), "application/json");
  EXPECT_EQ(row[0]["data"].as<std::string>(), "\\x7b226e223a20317d");
  EXPECT_THROW(schema.exec("SELECT " + schema.table("append") + "('t', 'x')"), pqxx::sql_error);
}

}  // namespace
}  // namespace penstock
