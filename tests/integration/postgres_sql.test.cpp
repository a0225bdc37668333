// SPDX-License-Identifier: Apache-2.0
// What the documents promise to those who come by SQL: append(), the trigger, and the roles. The documents' own SQL is run.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/checkpoints.hpp"
#include "penstock/envelope.hpp"
#include "penstock/outbox.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/replay.hpp"
#include "penstock/shared_limits.hpp"
#include "penstock/upkeep.hpp"
#include "postgres/cursor_state.hpp"
#include "postgres/segments.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using postgres::run;
using test::postgres_url;
using test::Schema;

void replace_all(std::string& text, const std::string& what, const std::string& with) {
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

/// The SQL blocks of a document, for another schema than `penstock`.
std::string text_of(const std::string& document) {
  std::stringstream text;
  text << std::ifstream{std::string{PENSTOCK_SOURCE_DIR} + "/docs/" + document}.rdbuf();
  return text.str();
}

std::vector<std::string> sql_blocks(const std::string& document, const Schema& schema) {
  std::vector<std::string> blocks;
  const std::string all = text_of(document);
  for (auto at = all.find("```sql\n"); at != std::string::npos; at = all.find("```sql\n", at)) {
    at += 7;
    const auto end = all.find("```", at);
    blocks.push_back(all.substr(at, end - at));
    replace_all(blocks.back(), "penstock.", schema.name() + ".");
    replace_all(blocks.back(), "SCHEMA penstock ", "SCHEMA " + schema.name() + " ");
    at = end;
  }
  return blocks;
}

class SqlTest : public testing::Test {
 protected:
  Schema schema_{"sql"};
  Outbox outbox_{postgres_url(), {.schema = schema_.name(), .source = "/shop"}};

  std::vector<Event> relayed() {
    auto cursor = outbox_.cursor("memory:all", {"*"});
    EXPECT_TRUE(cursor->acquire());
    std::vector<Event> events;
    for (const auto& entry : cursor->read(1000)) {
      events.push_back(entry.event);
    }
    cursor->release();
    return events;
  }
};

TEST_F(SqlTest, AppendTakesWhatTheLibraryTakesAndRefusesWhatItRefuses) {
  const Event good{.id = "i", .source = "/s", .type = "t", .data = "{}", .content_type = "application/json"};
  std::vector<Event> events{good};
  const auto with = [&](std::string Event::*field, std::initializer_list<std::string> values) {
    for (const auto& value : values) {
      events.push_back(good);
      events.back().*field = value;
    }
  };
  with(&Event::source, {"",
                        "/shop/orders",
                        "shop",
                        "urn:x:y",
                        "https://a.example/b?c=d#e",
                        "a b",
                        "a%20b",
                        "a%2",
                        "a%zz",
                        "#a#b",
                        "1x:y",
                        ":x",
                        "a/b:c",
                        "/h\xc3\xa4user",
                        "a\"b",
                        "<a>",
                        "a\\b",
                        "?x:y",
                        "[::1]",
                        "a\tb",
                        "a^b",
                        "`"});
  with(&Event::type, {"", "shop.order.placed.v1", "a b", "a\nb", "\x7f", "\xc2\x85", "\xe2\x82\xac", "\xef\xbf\xbf"});
  with(&Event::id, {"a b", "a\rb", "\xc3\xa4"});
  with(&Event::subject, {"s", "a\x01", "\xef\xb7\x90"});
  with(&Event::correlation_id, {"c", "c\x1f"});
  with(&Event::causation_id, {"c", "c\x02"});
  with(&Event::content_type, {"text/plain; charset=utf-8", "text", "text/", "/plain", "a/b;", "a/b ; c=\"d;\\\"e\"", "a/b;c",
                              "a/b c", "a/b;c=", "application/cloudevents+json", "APPLICATION/CLOUDEVENTS",
                              "application/x;a=b;c=d", "a/b; c=d ;; e=f", "a/b;c=\"d", "\xc3\xa4/b"});
  with(&Event::data_schema, {"urn:x", "https://a.example/s#f", "/relative", "x", "1:y", "a:b c", "a:"});
  with(&Event::time, {"2026-11-22T08:30:00Z",      "2026-11-22t08:30:00.123456789z",
                      "2026-11-22T08:30:00+05:30", "2026-11-22 08:30:00Z",
                      "2026-02-29T00:00:00Z",      "2024-02-29T00:00:00Z",
                      "2026-13-01T00:00:00Z",      "2026-04-31T00:00:00Z",
                      "2026-11-22T24:00:00Z",      "2026-11-22T08:30:60Z",
                      "2026-11-22T23:59:60Z",      "2026-11-22T08:30Z",
                      "2026-11-22T08:30:00",       "yesterday",
                      "0000-01-01T00:00:00Z",      "2026-11-22T08:30:00.Z",
                      "2026-00-10T00:00:00Z",      "2026-10-00T00:00:00Z",
                      "2026-11-22T08:60:00Z",      "2026-11-22T08:30:00+24:00"});
  const std::string id(32, 'a');
  with(&Event::traceparent,
       {"00-" + id + "-bbbbbbbbbbbbbbbb-01", "00-" + id + "-bbbbbbbbbbbbbbbb-1", "ff-" + id + "-bbbbbbbbbbbbbbbb-01",
        "00-" + std::string(32, '0') + "-bbbbbbbbbbbbbbbb-01", "00-" + id + "-0000000000000000-01",
        "00-" + id + "-bbbbbbbbbbbbbbbb-01-x", "01-" + id + "-bbbbbbbbbbbbbbbb-01-x", "01-" + id + "-bbbbbbbbbbbbbbbb-01x",
        "00-" + std::string(32, 'A') + "-bbbbbbbbbbbbbbbb-01", " 00-" + id + "-bbbbbbbbbbbbbbbb-01 ", "x"});
  pqxx::connection connection{postgres_url()};
  int taken = 0;
  for (const Event& event : events) {
    std::string refusal;
    try {
      validate(event);
      ++taken;
    } catch (const InvalidEvent& error) {
      refusal = error.what();
    }
    pqxx::work tx{connection};
    bool in_sql = true;
    try {
      run(tx,
          "SELECT " + schema_.table("append") +
              "($1, $2::text, event_source => $3, event_id => $4, subject => $5, content_type => $6, correlation_id => $7,"
              " causation_id => $8, traceparent => $9, event_time => $10, data_schema => $11)",
          event.type, *event.data, event.source, event.id, event.subject, event.content_type, event.correlation_id,
          event.causation_id, event.traceparent, event.time, event.data_schema);
      tx.commit();
    } catch (const pqxx::sql_error& error) {
      EXPECT_EQ(postgres::sqlstate(error), "22023") << error.what();
      in_sql = false;
    }
    EXPECT_EQ(in_sql, refusal.empty()) << refusal << " type '" << event.type << "' source '" << event.source
                                       << "' content type '" << event.content_type << "' time '" << event.time << "' schema '"
                                       << event.data_schema << "' trace '" << event.traceparent << "' id '" << event.id << "'";
  }
  EXPECT_EQ(relayed().size(), static_cast<std::size_t>(taken));
}

TEST_F(SqlTest, WhatIsAppendedInSqlIsTheEventTheLibraryWouldAppend) {
  schema_.exec(
      "SELECT " + schema_.table("append") +
      "('t', '\\x00ff'::bytea, 'k', '/s', 'i', 'sub', 'a/b', 'co', 'ca', NULL, '2026-11-22T08:30:00Z', 'urn:x', true)");
  const auto events = relayed();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0], (Event{.id = "i",
                              .source = "/s",
                              .type = "t",
                              .subject = "sub",
                              .key = "k",
                              .data = std::string{"\0\xff", 2},
                              .content_type = "a/b",
                              .data_schema = "urn:x",
                              .time = "2026-11-22T08:30:00Z",
                              .correlation_id = "co",
                              .causation_id = "ca"}));
}

TEST_F(SqlTest, TheDocumentsTriggerTurnsALegacyTableIntoEvents) {
  const auto blocks = sql_blocks("sql.md", schema_);
  ASSERT_EQ(blocks.size(), 2U);
  pqxx::connection connection{postgres_url()};
  pqxx::work tx{connection};
  tx.exec("SET LOCAL search_path = " + schema_.name());
  tx.exec("CREATE TABLE legacy_orders (id integer PRIMARY KEY, state text)");
  tx.exec(blocks[1]);
  tx.exec(blocks[0]);
  tx.exec("INSERT INTO legacy_orders VALUES (1, 'new'), (2, 'new')");
  tx.exec("UPDATE legacy_orders SET state = 'paid' WHERE id = 2");
  tx.exec("DELETE FROM legacy_orders WHERE id = 1");
  tx.commit();
  std::string story;
  for (const Event& event : relayed()) {
    EXPECT_EQ(event.source, "/shop/legacy");
    story += event.type + " " + event.key + " " + *event.data + "\n";
  }
  EXPECT_EQ(story,
            "shop.order.placed.v1 o-17 {\"order\": \"o-17\"}\n"
            "shop.order.placed.v1 1 {\"id\": 1, \"state\": \"new\"}\n"
            "shop.order.placed.v1 2 {\"id\": 2, \"state\": \"new\"}\n"
            "shop.order.changed.v1 2 {\"id\": 2, \"state\": \"paid\"}\n"
            "shop.order.removed.v1 1 {\"id\": 1, \"state\": \"new\"}\n");
}

TEST_F(SqlTest, WhatGettingStartedShowsRuns) {
  const auto blocks = sql_blocks("getting-started.md", schema_);
  ASSERT_EQ(blocks.size(), 1U);
  schema_.exec(blocks[0]);
  const auto events = relayed();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].type + " " + events[0].key + " " + *events[0].data, R"(shop.order.paid.v1 A-1 {"id": "A-1"})");

  // The queries for whoever is on call, in a table.
  const std::string all = text_of("getting-started.md");
  int queries = 0;
  for (auto at = all.find("| `SELECT "); at != std::string::npos; at = all.find("| `SELECT ", at + 1), ++queries) {
    auto query = all.substr(at + 3, all.find('`', at + 3) - at - 3);
    replace_all(query, "penstock.", schema_.name() + ".");
    EXPECT_NO_THROW(schema_.exec(query)) << query;
  }
  EXPECT_EQ(queries, 5);
}

/// The documents' roles, under names of this run.
class RolesTest : public SqlTest {
 protected:
  RolesTest() {
    schema_.exec("CREATE ROLE " + app_ + "; CREATE ROLE " + relay_ + "; CREATE ROLE " + worker_ + "; CREATE ROLE " + operator_ +
                 "; CREATE ROLE " + upkeep_);
    schema_.exec("CREATE TABLE " + schema_.table("business") + " AS SELECT 1 AS secret");
    auto blocks = sql_blocks("postgres.md", schema_);
    EXPECT_EQ(blocks.size(), 5U);
    for (auto& block : blocks) {
      replace_all(block, "shop_app", app_);
      replace_all(block, "shop_relay", relay_);
      replace_all(block, "shop_worker", worker_);
      replace_all(block, "shop_operator", operator_);
      replace_all(block, "shop_upkeep", upkeep_);
      schema_.exec(block);
    }
  }
  ~RolesTest() override {
    for (const auto& role : {app_, relay_, worker_, operator_, upkeep_}) {
      schema_.exec("DROP OWNED BY " + role + "; DROP ROLE " + role);
    }
  }
  static std::string url_as(const std::string& role) {
    const auto url = postgres_url();
    return url + (url.find('?') == std::string::npos ? "?" : "&") + "options=-c%20role%3D" + role;
  }
  bool may(const std::string& role, const std::string& sql) {
    pqxx::connection connection{url_as(role)};
    pqxx::work tx{connection};
    try {
      tx.exec(sql);
      return true;
    } catch (const pqxx::insufficient_privilege&) {
      return false;
    }
  }

  std::string app_ = schema_.name() + "_app";
  std::string relay_ = schema_.name() + "_relay";
  std::string worker_ = schema_.name() + "_worker";
  std::string operator_ = schema_.name() + "_operator";
  std::string upkeep_ = schema_.name() + "_upkeep";
};

TEST_F(RolesTest, WhoAppendsCanDoThatAndNothingElse) {
  pqxx::connection connection{url_as(app_)};
  pqxx::work tx{connection};
  outbox_.append(tx, {.type = "t"});
  outbox_.append(tx, std::vector<Event>{{.type = "t"}, {.type = "t"}});
  outbox_.append_locked(tx, {.type = "t", .key = "k"});
  tx.exec("SELECT " + schema_.table("append") + "('t', 'x', event_source => '/s', lock_key => true)");
  tx.commit();
  for (const auto* what :
       {"SELECT FROM @outbox", "SELECT FROM @outbox_0", "UPDATE @outbox SET data = NULL", "DELETE FROM @outbox",
        "TRUNCATE @outbox_0", "SELECT FROM @dead_letters", "SELECT FROM @cursors", "SELECT FROM @inbox",
        "INSERT INTO @outbox(id, route, event_id, source, type) VALUES (1, 't', '1', '/s', 't')",
        "INSERT INTO @outbox(txid, route, event_id, source, type) VALUES ('3', 't', '1', '/s', 't')",
        "INSERT INTO @outbox_1(route, event_id, source, type) VALUES ('t', '1', '/s', 't')",
        "SELECT setval('@outbox_segment', 1)", "SELECT setval('@asleep_until', 0)", "SELECT setval('@outbox_id_seq', 1)"}) {
    std::string sql = what;
    replace_all(sql, "@", schema_.name() + ".");
    EXPECT_FALSE(may(app_, sql)) << sql;
  }
  EXPECT_EQ(relayed().size(), 5U);
}

TEST_F(RolesTest, ARelayRelaysTruncatesAndSeesNothingElse) {
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox_.append(tx, std::vector<Event>(3, Event{.type = "t", .key = "k"}));
    tx.commit();
  }
  Outbox outbox{url_as(relay_), {.schema = schema_.name(), .source = "/shop"}};
  auto cursor = outbox.cursor("memory:orders", {"*"});
  ASSERT_TRUE(cursor->acquire());
  EXPECT_EQ(cursor->backlog().events, 3U);
  const auto entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 3U);
  std::stop_source stop;
  cursor->wait(20ms, stop.get_token());
  cursor->bury(entries[0], "orders", "too large", 1, true);
  cursor->park(std::vector<EventLog::Parking>{{.entry = &entries[1]}}, "orders");
  EXPECT_EQ(cursor->held_keys().size(), 1U);
  EXPECT_EQ(cursor->siblings().size(), 1U);
  EXPECT_TRUE(cursor->read(10).empty());
  cursor->checkpoint(3);
  cursor->release();

  pqxx::connection connection{url_as(relay_)};
  postgres::Segments keeper{schema_.name(), {.segment_bytes = 1, .grace = 0ms, .fold_bytes = 1}, {}};
  keeper.look(connection);
  keeper.look(connection);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + schema_.table("outbox")), 0);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + schema_.table("cursor_log")), 0);
  // As a dump that was loaded here.
  schema_.exec("UPDATE " + schema_.table("schema_version") + " SET txid = '7000000000'");
  ASSERT_TRUE(cursor->acquire());
  cursor->release();
  EXPECT_TRUE(outbox.drop_cursor("memory:orders"));

  for (const auto* what :
       {"SELECT FROM @business", "SELECT FROM @inbox", "SELECT FROM @audit", "DELETE FROM @outbox",
        "INSERT INTO @outbox(route, event_id, source, type) VALUES ('t', '1', '/s', 't')",
        "CALL @append_row('1', '/s', 't', '', '', NULL, NULL)", "CALL @append_row_locked('1', '/s', 't', 'k', '', NULL, NULL)",
        "CALL @append_rows('{t}', '{1}', '{/s}', '{t}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "
        "NULL)",
        "SELECT @append('t', 'x', event_source => '/s')", "UPDATE @outbox SET data = NULL", "CREATE TABLE @mine ()"}) {
    std::string sql = what;
    replace_all(sql, "@", schema_.name() + ".");
    EXPECT_FALSE(may(relay_, sql)) << sql;
  }
}

TEST_F(RolesTest, AConsumerSettlesMessagesInEveryWayAndDoesNotReadTheLogOrMoveACursor) {
  SharedLimits{url_as(worker_), {.schema = schema_.name()}}.rate_limit({.name = "geocoding", .per_second = 1}).take();
  PostgresDatastore store{url_as(worker_), {.schema = schema_.name()}};
  const auto session = store.session("group");
  const auto message = [](int number) {
    Message result;
    result.event = {
        .id = std::to_string(number), .source = "/s", .type = "t", .key = "k" + std::to_string(number), .data = "{}"};
    result.wire = encode(result.event, Binding::kafka);
    result.origin = {.backend = "memory", .channel = "jobs", .partition = 0, .position = number};
    return result;
  };
  const std::vector<Event> emitted{{.id = "e", .source = "/s", .type = "t"}};
  ASSERT_EQ(session->begin(message(1)), Datastore::Admission::fresh);
  session->complete(emitted, {});
  EXPECT_TRUE(session->settled(message(1)));
  for (const int number : {2, 3}) {
    ASSERT_EQ(session->begin(message(number)), Datastore::Admission::fresh);
    session->park({.error = "away"}, 0ms);
  }
  EXPECT_EQ(session->due(10), 2U);
  ASSERT_TRUE(session->begin_due());
  session->complete({}, {.number = 2});
  ASSERT_TRUE(session->begin_due());
  session->bury({.number = 2, .error = "away"}, "too often");
  ASSERT_EQ(session->begin(message(4)), Datastore::Admission::fresh);
  session->bury({.error = "bad"}, "bad");
  Message malformed = message(5);
  malformed.event = {};
  malformed.defect = "no event";
  session->bury_malformed(malformed);
  const Message first = message(6);
  Message second = message(7);
  second.origin.redelivered = true;
  const std::array<const Message*, 2> batch{&first, &second};
  EXPECT_FALSE(session->begun(batch).at(1).known);
  session->note_begun({&batch[1], 1});
  EXPECT_EQ(session->begun(batch).at(1).times, 1);
  ASSERT_EQ(session->begin_batch(batch).at(1), Datastore::Admission::fresh);
  session->savepoint();
  session->undo();
  session->complete_batch(std::vector<Datastore::Completed>{{.message = &second}});
  EXPECT_TRUE(session->settled(second));
  EXPECT_FALSE(session->settled(first)) << "left out";
  EXPECT_EQ(schema_.value<std::string>("SELECT string_agg(reason, ', ' ORDER BY id) FROM " + schema_.table("dead_letters")),
            "too often, bad, no event");
  for (const auto* what : {"SELECT FROM @outbox", "SELECT FROM @outbox_0", "SELECT FROM @cursors", "TRUNCATE @outbox_0",
                           "SELECT FROM @business", "DELETE FROM @dead_letters", "DELETE FROM @audit"}) {
    std::string sql = what;
    replace_all(sql, "@", schema_.name() + ".");
    EXPECT_FALSE(may(worker_, sql)) << sql;
  }
}

TEST_F(RolesTest, AnOperatorReplaysAndDoesNotReadTheLogOrMoveACursor) {
  PostgresDatastore store{url_as(worker_), {.schema = schema_.name()}};
  const auto session = store.session("group");
  for (const int number : {1, 2, 3}) {
    Message message;
    message.event = {.id = std::to_string(number), .source = "/s", .type = "t", .key = "k", .data = "1"};
    message.wire = encode(message.event, Binding::kafka);
    message.origin = {.backend = "memory", .channel = "jobs"};
    ASSERT_EQ(session->begin(message), Datastore::Admission::fresh);
    session->bury({.error = "bad"}, "bad");
  }
  ASSERT_TRUE(outbox_.cursor("memory:jobs", {"t"})->acquire());
  Replays replays{url_as(operator_), {.schema = schema_.name()}};
  EXPECT_EQ(replays.plan({}).letters, 3);
  const auto replay = [&](ReplayTarget target, int letter) {
    const auto id =
        schema_.value("SELECT id FROM " + schema_.table("dead_letters") + " WHERE event_id = '" + std::to_string(letter) + "'");
    replays.edit(id, "2", "ada", "test");
    schema_.exec("UPDATE " + schema_.table("dead_letters") +
                 " SET created_at = now() - interval '1 day' WHERE id = " + std::to_string(id));
    const auto yesterday = schema_.value<std::string>("SELECT to_json(now() - interval '1 hour')#>>'{}'");
    return replays.run(replays.start({.filter = {.until = yesterday}, .target = target, .who = "ada", .why = "test"})).sent;
  };
  EXPECT_EQ(replay(ReplayTarget::group, 1), 1);
  EXPECT_EQ(replay(ReplayTarget::channel, 2), 1);
  EXPECT_EQ(replay(ReplayTarget::discard, 3), 1);
  EXPECT_FALSE(replays.cancel(1, "ada", "too late"));
  EXPECT_TRUE(session->begin_due());
  session->abandon();
  for (const auto* what :
       {"SELECT FROM @outbox", "SELECT FROM @outbox_0", "UPDATE @cursors SET place = 1", "TRUNCATE @outbox_0",
        "SELECT FROM @business", "DELETE FROM @dead_letters", "UPDATE @dead_letters SET payload = NULL", "DELETE FROM @audit",
        "UPDATE @audit SET actor = 'bob'", "DELETE FROM @letter_edits", "UPDATE @dead_letter_counts SET depth = 0",
        "DELETE FROM @replay_jobs"}) {
    std::string sql = what;
    replace_all(sql, "@", schema_.name() + ".");
    EXPECT_FALSE(may(operator_, sql)) << sql;
  }
  Checkpoints checkpoints{url_as(operator_), schema_.name()};
  EXPECT_EQ(checkpoints.list().size(), 1U);
  EXPECT_NO_THROW(checkpoints.seek(
      {.group = "group", .channel = "jobs", .partition = -1, .position = 7, .who = "ada", .why = "test", .quiet = 0ms}));
  // Upkeep is one function and no right on a table.
  EXPECT_FALSE(upkeep(url_as(upkeep_), {.schema = schema_.name()}).busy);
  EXPECT_FALSE(may(upkeep_, "SELECT FROM " + schema_.table("inbox")));
  for (const auto& role : {app_, relay_, worker_, operator_}) {
    EXPECT_FALSE(may(role, "SELECT " + schema_.table("upkeep") + "('1 day', '1 day')")) << role;
  }
}

}  // namespace
}  // namespace penstock
