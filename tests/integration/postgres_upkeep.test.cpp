// SPDX-License-Identifier: Apache-2.0
// Partitions of inbox and audit trail: there before they are needed, dropped after their retention, and what the inbox says
// then.
#include "penstock/upkeep.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/checkpoints.hpp"
#include "penstock/consumer.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/random.hpp"
#include "penstock/replay.hpp"
#include "penstock/uuid.hpp"
#include "postgres/migrations.hpp"
#include "postgres/schema_name.hpp"
#include "support/consumer_run.hpp"
#include "support/postgres.hpp"
#include "support/scripted_source.hpp"

namespace penstock::test {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LastWarning final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    if (level == LogLevel::warn) {
      text = message;
    }
  }
  std::string text{};
};

class UpkeepTest : public ::testing::Test {
 protected:
  /// The id of an event that was born so many days ago, by the clock of the database.
  std::string born(int days_ago) const {
    const auto seconds =
        schema.value("SELECT extract(epoch FROM now() - interval '1 day' * " + std::to_string(days_ago) + ")::bigint");
    return uuid7(std::chrono::system_clock::time_point{std::chrono::seconds{seconds}}, Random::system());
  }
  static Message message(const std::string& id, const std::string& time = {}) {
    Message result;
    result.event = {.id = id, .source = "/s", .type = "t", .key = id, .data = "1", .time = time};
    result.wire = encode(result.event, Binding::kafka);
    result.origin = {.backend = "memory", .channel = "jobs", .partition = 0, .position = 1};
    return result;
  }
  /// A partition for a day that is over, as it would have been made then. Its name.
  std::string past_day(int days_ago) const {
    const auto name = schema.value<std::string>("SELECT 'inbox_' || to_char((now() AT TIME ZONE 'UTC')::date - " +
                                                std::to_string(days_ago) + ", 'YYYYMMDD')");
    const auto day =
        schema.value("SELECT ((now() AT TIME ZONE 'UTC')::date - '1970-01-01'::date) - " + std::to_string(days_ago));
    schema.exec("CREATE TABLE " + schema.table(name) + " PARTITION OF " + schema.table("inbox") +
                " (PRIMARY KEY (consumer_group, source, id)) FOR VALUES FROM (" + std::to_string(day) + ") TO (" +
                std::to_string(day + 1) + ")");
    return name;
  }
  /// Where days before the migration have their rows, so that a test can make partitions for them.
  void forget_the_past() const {
    schema.exec("ALTER TABLE " + schema.table("inbox") + " DETACH PARTITION " + schema.table("inbox_rest") + "; ALTER TABLE " +
                schema.table("inbox") + " ATTACH PARTITION " + schema.table("inbox_rest") +
                " FOR VALUES FROM (MINVALUE) TO (0)");
  }
  /// Marks are as old as their events.
  void age() const {
    schema.exec("UPDATE " + schema.table("inbox") + " SET seen_at = to_timestamp(86400.0 * " + schema.table("inbox_day") +
                "(id)) WHERE " + schema.table("inbox_day") + "(id) >= 0");
  }
  bool exists(const std::string& table) const {
    return schema.value<bool>("SELECT to_regclass('" + schema.table(table) + "') IS NOT NULL");
  }
  long long count(const std::string& table, const std::string& where = "true") const {
    return schema.value("SELECT count(*) FROM " + schema.table(table) + " WHERE " + where);
  }
  Datastore::Admission handle(PostgresDatastore& by, const Message& one, const std::string& group = "g") const {
    const auto session = by.session(group);
    const auto admission = session->begin(one);
    if (admission == Datastore::Admission::fresh) {
      session->complete({}, {});
    }
    return admission;
  }
  UpkeepReport keep() const { return upkeep(postgres_url(), {.schema = schema.name(), .inbox_retention = 24h * 7}); }

  Schema schema{"upkeep"};
  PostgresDatastore store{postgres_url(), {.schema = schema.name()}};
};

TEST_F(UpkeepTest, PartitionsAreThereBeforeTheyAreNeededAndNoInsertEverFails) {
  EXPECT_THAT(keep().done, ::testing::SizeIs(3)) << "the first two days and months come with the migration";
  EXPECT_THAT(keep().done, IsEmpty());
  const auto day = [&](int ahead) {
    return schema.value<std::string>("SELECT 'inbox_' || to_char((now() AT TIME ZONE 'UTC')::date + " + std::to_string(ahead) +
                                     ", 'YYYYMMDD')");
  };
  for (int ahead = 0; ahead <= 3; ++ahead) {
    EXPECT_TRUE(exists(day(ahead))) << ahead;
    EXPECT_TRUE(exists(schema.value<std::string>("SELECT 'audit_' || to_char((now() AT TIME ZONE 'UTC') + " +
                                                 std::to_string(ahead / 2) + " * interval '1 month', 'YYYY_MM')")));
  }
  const auto today = born(0);
  EXPECT_EQ(handle(store, message(today)), Datastore::Admission::fresh);
  EXPECT_EQ(handle(store, message(today)), Datastore::Admission::duplicate);
  EXPECT_EQ(count(day(0)), 1);
  EXPECT_EQ(handle(store, message(born(-400))), Datastore::Admission::fresh);
  EXPECT_EQ(count("inbox_other"), 1);
  EXPECT_EQ(handle(store, message(born(3))), Datastore::Admission::fresh);
  EXPECT_EQ(handle(store, message("order-17")), Datastore::Admission::fresh);
  EXPECT_EQ(handle(store, message("order-17")), Datastore::Admission::duplicate);
  EXPECT_EQ(handle(store, message("019aAAAA-0000-7000-8000-000000000000")), Datastore::Admission::fresh);
  EXPECT_EQ(count("inbox_rest"), 3);
  EXPECT_EQ(count("audit_other"), 0);
  // Nobody has kept anything for a while: the day is in use without a partition, and stays so; the next ones are made.
  schema.exec("DROP TABLE " + schema.table(day(0)) + ", " + schema.table(day(2)));
  EXPECT_EQ(handle(store, message(today)), Datastore::Admission::fresh);
  EXPECT_THAT(keep().done, ::testing::ElementsAre("created " + day(2)));
  EXPECT_EQ(handle(store, message(today)), Datastore::Admission::duplicate);
}

TEST_F(UpkeepTest, Rule10_WhatTheInboxMayHaveForgottenIsRefusedOrHandledAsDeclared) {
  forget_the_past();
  keep();
  const auto name = past_day(20);
  const auto old = message(born(20));
  const auto unseen = message(born(20));
  const auto younger = message(born(5));
  ASSERT_EQ(handle(store, old), Datastore::Admission::fresh);
  age();
  const auto done = keep().done;
  EXPECT_THAT(done, Contains("emptied " + name));
  EXPECT_THAT(done, Contains("dropped " + name));
  EXPECT_FALSE(exists(name));
  EXPECT_EQ(count("inbox_horizon", "consumer_group = 'g'"), 1);
  // The one that was handled, and the one that was not: nobody can tell them apart.
  EXPECT_EQ(handle(store, old), Datastore::Admission::refused);
  EXPECT_EQ(handle(store, old), Datastore::Admission::duplicate);
  EXPECT_EQ(handle(store, unseen), Datastore::Admission::refused);
  EXPECT_EQ(count("dead_letters", "error_class = 'beyond retention' AND state = 'dead'"), 2);
  EXPECT_EQ(count("outbox", "route = 'penstock.dead.jobs'"), 2);
  EXPECT_EQ(handle(store, younger), Datastore::Admission::fresh);
  EXPECT_EQ(handle(store, message(born(20)), "new group"), Datastore::Admission::fresh) << "it has forgotten nothing";
  // Ids that tell nothing are as old as the event says.
  EXPECT_EQ(handle(store, message("order-1", "2020-01-01T00:00:00Z")), Datastore::Admission::refused);
  EXPECT_EQ(handle(store, message("order-2", "0000-01-01T00:00:00Z")), Datastore::Admission::fresh);
  EXPECT_EQ(handle(store, message("order-3")), Datastore::Admission::fresh);
  // By declaration.
  const auto logger = std::make_shared<LastWarning>();
  PostgresDatastore willing{postgres_url(),
                            {.schema = schema.name(), .beyond_retention = BeyondRetention::handle, .logger = logger}};
  EXPECT_EQ(handle(willing, message(born(20))), Datastore::Admission::fresh);
  EXPECT_THAT(logger->text, HasSubstr("older than what the inbox of 'g' keeps"));
  // A replay is somebody's word that it was not handled.
  Replays replays{postgres_url(), {.schema = schema.name()}};
  EXPECT_EQ(replays.run(replays.start({.filter = {.key = unseen.key()}, .who = "ada", .why = "it was not handled"})).sent, 1);
  const auto session = store.session("g");
  ASSERT_TRUE(session->begin_due());
  session->complete({}, {});
  EXPECT_EQ(handle(store, unseen), Datastore::Admission::duplicate);
}

TEST_F(UpkeepTest, Rule10_AMarkStaysForTheRetentionAndWhileItsMessageIsParked) {
  forget_the_past();
  keep();
  const auto late = past_day(20);
  const auto parked = past_day(21);
  ASSERT_EQ(handle(store, message(born(20))), Datastore::Admission::fresh);  // born long ago, handled now
  const auto session = store.session("g");
  ASSERT_EQ(session->begin(message(born(21))), Datastore::Admission::fresh);
  session->park({.error = "away"}, 0ms);
  schema.exec("UPDATE " + schema.table(parked) + " SET seen_at = now() - interval '20 days'");
  EXPECT_THAT(keep().done, IsEmpty());
  EXPECT_EQ(count(late) + count(parked), 2);
  EXPECT_EQ(count("inbox_horizon"), 0);
  ASSERT_TRUE(session->begin_due());
  session->complete({}, {});
  EXPECT_THAT(keep().done, ::testing::ElementsAre("emptied " + parked, "dropped " + parked));
}

TEST_F(UpkeepTest, Rule10_RowsWithoutADayAreDeletedInSmallBatchesAndNoted) {
  keep();
  schema.exec("INSERT INTO " + schema.table("inbox") +
              "(consumer_group, source, id, seen_at, state) SELECT 'g', '/s', 'order-' || i, now() - interval '8 days',"
              " CASE i WHEN 1 THEN 'parked' ELSE 'done' END FROM generate_series(1, 7000) i");
  ASSERT_EQ(handle(store, message("order-now")), Datastore::Admission::fresh);
  EXPECT_THAT(keep().done, ::testing::ElementsAre("deleted 5000 of inbox_rest", "deleted 1999 of inbox_rest"));
  EXPECT_EQ(count("inbox"), 2);
  EXPECT_EQ(handle(store, message("order-7", "2020-01-01T00:00:00Z")), Datastore::Admission::refused);
}

TEST_F(UpkeepTest, TheAuditTrailIsDroppedByMonths) {
  const auto month = [&](const std::string& name, const std::string& from, const std::string& to) {
    schema.exec("CREATE TABLE " + schema.table(name) + " PARTITION OF " + schema.table("audit") + " FOR VALUES FROM ('" + from +
                "') TO ('" + to + "')");
  };
  month("audit_2021_01", "2021-01-01T00:00:00Z", "2021-02-01T00:00:00Z");
  const std::string insert = "INSERT INTO " + schema.table("audit") + "(at, consumer_group, backend, channel, outcome) VALUES ";
  schema.exec(insert +
              "('2021-01-15', 'g', 'b', 'c', 'done'), ('2020-01-15', 'g', 'b', 'c', 'done'), (now(), 'g', 'b', 'c', 'done')");
  EXPECT_EQ(count("audit_other"), 1);
  EXPECT_THAT(upkeep(postgres_url(), {.schema = schema.name(), .audit_retention = 0h}).done, ::testing::SizeIs(3));
  EXPECT_THAT(keep().done, ::testing::ElementsAre("dropped audit_2021_01", "deleted 1 of audit_other"));
  EXPECT_EQ(count("audit"), 1);
}

TEST_F(UpkeepTest, Rule18_NobodyWaitsForUpkeepAndItWaitsForNobody) {
  forget_the_past();
  keep();
  const auto name = past_day(20);
  ASSERT_EQ(handle(store, message(born(20))), Datastore::Admission::fresh);
  age();
  const auto within = [](auto work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::steady_clock::now() - start;
  };
  // A handler takes its time: the partition is emptied all the same, and dropped when it is done.
  const auto session = store.session("g");
  ASSERT_EQ(session->begin(message(born(0))), Datastore::Admission::fresh);
  UpkeepReport report;
  EXPECT_LT(within([&] { report = keep(); }), 5s);
  EXPECT_THAT(report.done, ::testing::ElementsAre("emptied " + name));
  EXPECT_TRUE(exists(name));
  // Others go on meanwhile.
  EXPECT_EQ(handle(store, message(born(0))), Datastore::Admission::fresh);
  session->complete({}, {});
  EXPECT_THAT(keep().done, ::testing::ElementsAre("dropped " + name));
  // Somebody writes in the partition itself.
  const auto other = past_day(21);
  const auto late = message(born(21));
  ASSERT_EQ(handle(store, late, "another"), Datastore::Admission::fresh);
  age();
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    tx.exec("LOCK TABLE " + schema.table(other) + " IN ROW EXCLUSIVE MODE");
    EXPECT_LT(within([&] { report = keep(); }), 5s);
    EXPECT_THAT(report.done, IsEmpty());
  }
  // And several at once.
  std::atomic<int> steps{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] { steps += static_cast<int>(keep().done.size()); });
    }
  }
  steps += static_cast<int>(keep().done.size());
  EXPECT_EQ(steps, 2);
  EXPECT_FALSE(exists(other));
}

TEST_F(UpkeepTest, RefusesARetentionOfLessThanADay) {
  EXPECT_THROW(upkeep(postgres_url(), {.schema = schema.name(), .inbox_retention = 23h}), std::invalid_argument);
  EXPECT_THROW(upkeep(postgres_url(), {.schema = schema.name(), .audit_retention = -24h}), std::invalid_argument);
  EXPECT_THROW(upkeep(postgres_url(), {.schema = "No"}), std::invalid_argument);
  EXPECT_THROW(schema.exec("SELECT " + schema.table("upkeep") + "('1 hour', NULL)"), pqxx::sql_error);
}

TEST_F(UpkeepTest, Rule10_AConsumerAcknowledgesWhatTheStoreRefuses) {
  schema.exec("INSERT INTO " + schema.table("inbox_horizon") + " VALUES ('g', (now() AT TIME ZONE 'UTC')::date - 3)");
  const auto script = std::make_shared<Script>();
  Running consumer{std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), store, ConsumerOptions{.group = "g"},
                                              [](const Message&, Context&) { return Verdict::done(); })};
  Event event = numbered("", 1);
  event.id = born(5);
  script->deliver(event);
  event.id = born(2);
  script->deliver(event);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_EQ(consumer.status().dead, 1U);
  EXPECT_EQ(consumer.status().done, 1U);
}

TEST(CheckpointsTest, ASeekIsAuditedAndRefusedWhileTheGroupIsAtWork) {
  const Schema schema{"seek"};
  PostgresDatastore store{postgres_url(), {.schema = schema.name()}};
  const Checkpoints checkpoints{postgres_url(), schema.name()};
  EXPECT_THAT(checkpoints.list(), IsEmpty());
  const auto session = store.session("g");
  for (const int number : {1, 2}) {
    Message message;
    message.event = {.id = std::to_string(number), .source = "/s", .type = "t"};
    message.wire = encode(message.event, Binding::kafka);
    message.origin = {.backend = "kafka", .channel = "orders", .partition = number, .position = 40 + number};
    ASSERT_EQ(session->begin(message), Datastore::Admission::fresh);
    session->complete({}, {});
  }
  ASSERT_EQ(checkpoints.list().size(), 2U);
  EXPECT_EQ(checkpoints.list()[1].position, 42);
  EXPECT_EQ(checkpoints.list()[1].settled, 1);
  SeekRequest request{.group = "g", .channel = "orders", .partition = 2, .position = 17, .who = "ada", .why = "skip the test"};
  EXPECT_THROW(checkpoints.seek(request), std::runtime_error) << "it has just settled one";
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    tx.exec("SELECT FROM " + schema.table("checkpoints") + " WHERE partition = 2 FOR UPDATE");
    request.quiet = 0ms;
    try {
      checkpoints.seek(request);
      ADD_FAILURE() << "it is settling one";
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("is settling a message at this moment"));
    }
  }
  EXPECT_EQ(checkpoints.seek(request), 42);
  EXPECT_EQ(checkpoints.list()[0].position, 41);
  EXPECT_EQ(checkpoints.list()[1].position, 17);
  EXPECT_EQ(checkpoints.list()[1].settled, 1);
  EXPECT_EQ(schema.value("SELECT count(*) FROM " + schema.table("audit") +
                         " WHERE outcome = 'seek' AND actor = 'ada' AND note = 'from 42: skip the test' AND position = 17"),
            1);
  request.partition = 9;
  EXPECT_THROW(checkpoints.seek(request), std::invalid_argument);
  request.position = -2;
  EXPECT_THROW(checkpoints.seek(request), std::invalid_argument);
  EXPECT_THROW(checkpoints.seek({.group = "g", .channel = "orders", .partition = 2, .position = 1, .who = "ada"}),
               std::invalid_argument);
}

/// A schema as an older library has made and used it.
TEST(UpkeepMigration, KeepsRowsRightsAndTheNumbering) {
  const Schema schema{"upkeep_old", false};
  const auto in = [&](std::string_view sql) { return postgres::in_schema(sql, schema.name()); };
  const std::string role = schema.name() + "_worker";
  schema.exec(
      in("CREATE SCHEMA @schema@; CREATE TABLE @schema@.schema_version (version integer PRIMARY KEY, applied_at timestamptz"
         " NOT NULL DEFAULT now(), txid xid8 NOT NULL DEFAULT pg_current_xact_id()); INSERT INTO @schema@.schema_version"
         " VALUES (1); CREATE ROLE " +
         role));
  schema.exec(in(postgres::migration(1)));
  schema.exec(
      in("GRANT SELECT, INSERT, UPDATE ON @schema@.inbox TO " + role + "; GRANT INSERT (outcome) ON @schema@.audit TO PUBLIC"));
  schema.exec(
      in("INSERT INTO @schema@.inbox(consumer_group, source, id) VALUES ('g', '/s', 'a'), ('g', '/s', '" + uuid7() + "')"));
  schema.exec(in(
      "INSERT INTO @schema@.audit(at, consumer_group, backend, channel, outcome) VALUES ('2020-01-01', 'g', 'b', 'c', 'done'),"
      " (now(), 'g', 'b', 'c', 'done')"));
  schema.exec(in(
      "INSERT INTO @schema@.dead_letters(side, consumer_group, backend, channel, reason) VALUES ('outbox', 'g', 'b', 'c', 'r'),"
      " ('consumer', 'g', 'b', 'c', 'r'), ('consumer', 'g', 'b', 'c', 'r')"));
  migrate(postgres_url(), schema.name());
  EXPECT_EQ(schema.value(in("SELECT count(*) FROM @schema@.inbox")), 2);
  EXPECT_EQ(schema.value(in("SELECT count(*) FROM @schema@.audit")), 2);
  EXPECT_EQ(schema.value(in("SELECT sum(depth) FROM @schema@.dead_letter_depth WHERE side = 'consumer'")), 2);
  const auto repeated =
      schema.exec(in("INSERT INTO @schema@.inbox(consumer_group, source, id) SELECT consumer_group, source, id"
                     " FROM @schema@.inbox ON CONFLICT DO NOTHING RETURNING id"));
  EXPECT_TRUE(repeated.empty());
  EXPECT_EQ(
      schema.value(in("INSERT INTO @schema@.audit(consumer_group, backend, channel, outcome) VALUES ('g', 'b', 'c', 'done')"
                      " RETURNING id")),
      3);
  EXPECT_TRUE(schema.value<bool>(
      in("SELECT has_table_privilege('" + role + "', '@schema@.inbox', 'INSERT') AND has_table_privilege('" + role +
         "', '@schema@.inbox_horizon', 'SELECT') AND has_column_privilege('" + role +
         "', '@schema@.audit', 'outcome', 'INSERT') AND NOT has_table_privilege('" + role + "', '@schema@.inbox', 'DELETE')")));
  EXPECT_FALSE(upkeep(postgres_url(), {.schema = schema.name()}).busy);
  schema.exec("DROP OWNED BY " + role + "; DROP ROLE " + role);
}

}  // namespace
}  // namespace penstock::test
