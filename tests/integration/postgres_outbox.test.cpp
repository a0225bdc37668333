// SPDX-License-Identifier: Apache-2.0
#include "penstock/outbox.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "postgres/outbox_append.hpp"
#include "postgres/pqxx_compat.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::postgres_url;
using test::Schema;

class OutboxTest : public testing::Test {
 protected:
  Schema schema_{"outbox"};
  Outbox outbox_{postgres_url(), {.schema = schema_.name(), .source = "/shop/orders-api"}};
  pqxx::connection connection_{postgres_url()};

  std::vector<std::string> append_all(const std::vector<Event>& events) {
    pqxx::work tx{connection_};
    auto ids = outbox_.append(tx, events);
    tx.commit();
    return ids;
  }
  std::string append(Event event) {
    pqxx::work tx{connection_};
    auto id = outbox_.append(tx, std::move(event));
    tx.commit();
    return id;
  }
  static std::vector<Event> read_all(EventLog::Cursor& cursor) {
    std::vector<Event> events;
    for (;;) {
      auto entries = cursor.read(100);
      if (entries.empty()) {
        return events;
      }
      for (auto& entry : entries) {
        events.push_back(std::move(entry.event));
      }
    }
  }
  std::unique_ptr<EventLog::Cursor> acquired(const std::string& name, const std::vector<std::string>& patterns = {"*"}) {
    auto cursor = outbox_.cursor(name, patterns);
    EXPECT_TRUE(cursor->acquire());
    return cursor;
  }
};

Event full_event() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    bytes += static_cast<char>(i);
  }
  return {.id = "e-1",
          .source = "/another",
          .type = "shop.order.placed.v1",
          .subject = "order \"1\" {a,b} \\ NULL",
          .key = "o-1,{\"x\"}",
          .data = bytes,
          .content_type = "application/octet-stream",
          .data_schema = "https://example.com/schema",
          .time = "2026-11-22T08:30:00+01:00",
          .correlation_id = "c",
          .causation_id = "d",
          .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          .tracestate = "a=b",
          .extensions = {{"text", "NULL"}, {"flag", true}, {"number", 42}, {"bytes", ExtensionValue::binary(bytes)}},
          .headers = {{"x", "1"}, {"x", "2"}, {"null", std::nullopt}, {"empty", ""}, {"bytes", bytes}, {"\"\\{},", "'"}}};
}

TEST_F(OutboxTest, AnyEventSurvivesAlone) {
  const auto cursor = acquired("a");
  EXPECT_EQ(append(full_event()), "e-1");
  const auto read = read_all(*cursor);
  ASSERT_EQ(read.size(), 1U);
  EXPECT_EQ(read[0], full_event());
  for (const auto& [name, value] : full_event().extensions) {
    EXPECT_EQ(read[0].extensions.at(name).type(), value.type()) << name;
  }
}

TEST_F(OutboxTest, AnyEventSurvivesAmongOthersInTheOrderGiven) {
  const auto cursor = acquired("a");
  std::vector<Event> events;
  for (int i = 0; i < 700; ++i) {
    Event event = i % 3 == 0 ? full_event() : Event{.type = "t", .time = "2026-11-22T08:30:00Z"};
    event.source = "/s";
    event.id = std::to_string(i);
    event.data = i % 3 == 1 ? std::optional<std::string>{} : i % 3 == 2 ? std::optional<std::string>{""} : event.data;
    event.content_type = event.data ? "text/plain" : "";
    events.push_back(event);
  }
  const auto ids = append_all(events);
  const auto read = read_all(*cursor);
  ASSERT_EQ(read.size(), events.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(ids[i], events[i].id);
    EXPECT_EQ(read[i], events[i]) << i;
  }
}

/// An event for each attribute that may be left out, with it alone and without it alone.
std::vector<Event> with_and_without_each() {
  const Event least{.source = "/s", .type = "t"};
  const Event full = full_event();
  std::vector<Event> events{least, full};
  const auto both = [&](auto set) {
    events.push_back(least);
    set(events.back(), full);
    events.push_back(full);
    set(events.back(), least);
  };
  for (const auto field : {&Event::subject, &Event::key, &Event::data_schema, &Event::correlation_id, &Event::causation_id,
                           &Event::traceparent, &Event::tracestate}) {
    both([field](Event& to, const Event& from) { to.*field = from.*field; });
  }
  both([](Event& to, const Event& from) { to.extensions = from.extensions; });
  both([](Event& to, const Event& from) { to.headers = from.headers; });
  both([](Event& to, const Event& from) { to.data = from.data; });
  for (const auto* text :
       {"", "'", "\\", "\\\\x41", "\"", "NULL", "{}", "$1", "\xc3\xa4 \xf0\x9f\x98\x80", "it's \\'quoted\\' E'\\n'"}) {
    events.push_back(full);
    events.back().subject = events.back().key = events.back().tracestate = text;
    events.back().data = text;
    events.back().headers = {{"h", text}};
    events.back().extensions = {{"x", std::string{text}}};
  }
  for (std::size_t i = 0; i < events.size(); ++i) {
    events[i].id = std::to_string(i);
    events[i].time = "2026-11-22T08:30:00Z";
    events[i].content_type = events[i].data ? "text/plain" : "";
  }
  return events;
}

TEST_F(OutboxTest, NothingThatIsLeftOutTakesThePlaceOfAnother) {
  const auto events = with_and_without_each();
  const auto expect_all = [&](EventLog::Cursor& cursor) {
    const auto read = read_all(cursor);
    ASSERT_EQ(read.size(), events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(read[i], events[i]) << i;
    }
  };
  const auto cursor = acquired("a");
  std::vector<postgres::OutboxRow> all;
  for (const Event& event : events) {
    all.push_back({.event = &event});
  }
  const auto in_transaction = [&](auto append) {
    pqxx::work tx{connection_};
    append(tx);
    tx.commit();
    expect_all(*cursor);
  };
  // Not through the Outbox, which refuses a trace state without its parent.
  in_transaction([&](auto& tx) {
    for (const auto& row : all) {
      postgres::append_rows(tx, schema_.name(), {&row, 1});
    }
  });
  in_transaction([&](auto& tx) {
    for (const auto& row : all) {
      postgres::append_row_locked(tx, schema_.name(), row);
    }
  });
  in_transaction([&](auto& tx) { postgres::append_rows(tx, schema_.name(), all); });
  // The text in which a consumer's events travel with its other statements.
  in_transaction([&](auto& tx) {
    for (const auto& row : all) {
      tx.exec(postgres::append_text(tx, schema_.name(), {&row, 1}) + "SELECT");
    }
  });
  in_transaction([&](auto& tx) { tx.exec(postgres::append_text(tx, schema_.name(), all) + "SELECT"); });
}

TEST_F(OutboxTest, ARouteOfItsOwnIsKeptBesideTheType) {
  const Event event = {.id = "e", .source = "/s", .type = "t"};
  const postgres::OutboxRow row{.event = &event, .route = "jobs.dead"};
  pqxx::work tx{connection_};
  postgres::append_rows(tx, schema_.name(), {&row, 1});
  postgres::append_row_locked(tx, schema_.name(), row);
  postgres::append_rows(tx, schema_.name(), std::vector{row, row});
  tx.exec(postgres::append_text(tx, schema_.name(), {&row, 1}) +
          postgres::append_text(tx, schema_.name(), std::vector{row, row}));
  tx.commit();
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + schema_.table("outbox") + " WHERE route = 'jobs.dead' AND type = 't'"), 7);
}

TEST_F(OutboxTest, ASpanLargerThanAStatementStaysInOrder) {
  // 40 MB, so two statements; and payloads in TOAST between small ones.
  std::vector<Event> events(2'000, Event{.type = "t", .key = "k"});
  for (std::size_t i = 0; i < events.size(); ++i) {
    events[i].id = std::to_string(i);
    events[i].data = std::string(i % 2 == 0 ? 40'000 : i % 100, static_cast<char>(i % 256));
  }
  append_all(events);
  EXPECT_EQ(schema_.value("SELECT count(*) FROM (SELECT event_id::bigint AS n, row_number() OVER (ORDER BY id) - 1 AS place,"
                          " octet_length(data) AS bytes, get_byte(data || '\\x00', 0) AS first FROM " +
                          schema_.table("outbox") +
                          ") r WHERE n = place AND bytes = CASE WHEN n % 2 = 0 THEN 40000 ELSE n % 100 END"
                          " AND first = CASE WHEN bytes = 0 THEN 0 ELSE n % 256 END"),
            2'000);
}

TEST_F(OutboxTest, AKeyThatIsNoTextIsRefusedAndNotCutOff) {
  for (const auto& key : {std::string{"a\0b", 3}, std::string{"\xff"}}) {
    pqxx::work alone{connection_};
    EXPECT_THROW(outbox_.append(alone, {.type = "t", .key = key}), pqxx::sql_error);
    alone.abort();
    pqxx::work among{connection_};
    EXPECT_THROW(outbox_.append(among, std::vector<Event>{{.type = "t", .key = key}, {.type = "t"}}), pqxx::sql_error);
  }
}

TEST_F(OutboxTest, AnUnusualSearchPathOrEncodingChangesNothing) {
  const auto cursor = acquired("a");
  schema_.exec("CREATE FUNCTION " + schema_.table("unnest") +
               "(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT 'wrong'::text $$");
  Event event = full_event();
  event.subject = event.key = "\xc3\xa4";  // in UTF-8
  for (const auto* setting : {"search_path = ''", "search_path = @, pg_catalog", "standard_conforming_strings = off",
                              "client_encoding = 'LATIN1'", "bytea_output = 'escape'"}) {
    std::string sql = setting;
    if (const auto at = sql.find('@'); at != std::string::npos) {
      sql.replace(at, 1, schema_.name());
    }
    const bool latin = sql.find("LATIN1") != std::string::npos;
    Event sent = event;
    sent.subject = sent.key = latin ? "\xe4" : event.key;
    const postgres::OutboxRow row{.event = &sent};
    pqxx::work tx{connection_};
    tx.exec("SET LOCAL " + sql);
    postgres::append_rows(tx, schema_.name(), {&row, 1});
    postgres::append_rows(tx, schema_.name(), std::vector{row, row});
    tx.exec(postgres::append_text(tx, schema_.name(), {&row, 1}));
    tx.exec(postgres::append_text(tx, schema_.name(), std::vector{row, row}));
    tx.commit();
    const auto read = read_all(*cursor);
    EXPECT_EQ(read.size(), 6U) << sql;
    for (const Event& got : read) {
      EXPECT_EQ(got, event) << sql;
    }
  }
}

TEST_F(OutboxTest, FillsInWhatIsNotSet) {
  const auto cursor = acquired("a");
  const auto before = std::chrono::system_clock::now() - 60s;
  const auto id = append({.type = "shop.order.placed.v1", .key = "o-1", .data = "{}"});
  append({.type = "shop.order.cleared.v1", .key = "o-1"});
  const auto read = read_all(*cursor);
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[0].id, id);
  EXPECT_EQ(id.size(), 36U);
  EXPECT_EQ(read[0].source, "/shop/orders-api");
  EXPECT_EQ(read[0].content_type, "application/json");
  const auto time = parse_time(read[0].time);
  ASSERT_TRUE(time) << read[0].time;
  EXPECT_GT(*time, before);
  EXPECT_LT(*time, before + 120s);
  EXPECT_FALSE(read[1].data);
  EXPECT_EQ(read[1].content_type, "") << "an event without data has no content type";
  EXPECT_NO_THROW(validate(read[0]));
}

TEST_F(OutboxTest, BelongsToTheCallersTransaction) {
  const auto cursor = acquired("a");
  {
    pqxx::work tx{connection_};
    outbox_.append(tx, {.type = "lost"});
  }
  EXPECT_TRUE(read_all(*cursor).empty());
  pqxx::work tx{connection_};
  EXPECT_THROW(outbox_.append(tx, Event{.id = "x"}), InvalidEvent);
  outbox_.append(tx, {.type = "kept"});  // nothing had been sent of the invalid one: the transaction is alive
  EXPECT_TRUE(read_all(*cursor).empty());
  tx.commit();
  const auto read = read_all(*cursor);
  ASSERT_EQ(read.size(), 1U);
  EXPECT_EQ(read[0].type, "kept");
}

TEST_F(OutboxTest, OneRoundTripForAnyNumber) {
  const auto statements = [&] { return schema_.value("SELECT count(*) FROM " + schema_.table("outbox")); };
  pqxx::work tx{connection_};
  EXPECT_TRUE(outbox_.append(tx, std::span<const Event>{}).empty());
  tx.commit();
  EXPECT_EQ(statements(), 0);
  // One statement has one timestamp.
  pqxx::work again{connection_};
  again.exec("ALTER TABLE " + schema_.table("outbox") + " ADD COLUMN at timestamptz DEFAULT statement_timestamp()");
  outbox_.append(again, std::vector<Event>(500, Event{.type = "t"}));
  again.commit();
  EXPECT_EQ(schema_.value("SELECT count(DISTINCT at) FROM " + schema_.table("outbox")), 1);
  EXPECT_EQ(statements(), 500);
}

TEST_F(OutboxTest, RoutesDecideWhichCursorSeesAnEvent) {
  append_all({{.type = "shop.order.placed.v1"},
              {.type = "shop.order.shipped.v1"},
              {.type = "shop.order_x"},
              {.type = "a%b"},
              {.type = "a.b"},
              {.type = "a\\b"}});
  const auto seen = [&](const std::string& name, const std::vector<std::string>& patterns) {
    const auto cursor = acquired(name, patterns);
    std::string types;
    for (const Event& event : read_all(*cursor)) {
      types += event.type + " ";
      EXPECT_TRUE(std::any_of(patterns.begin(), patterns.end(), [&](const auto& p) { return route_matches(p, event.type); }));
    }
    return types;
  };
  EXPECT_EQ(seen("1", {"shop.order.*"}), "shop.order.placed.v1 shop.order.shipped.v1 ");
  EXPECT_EQ(seen("2", {"*.shipped.*", "a.b"}), "shop.order.shipped.v1 a.b ");
  EXPECT_EQ(seen("3", {"shop.order_x"}), "shop.order_x ") << "an underscore stands for itself";
  EXPECT_EQ(seen("4", {"a%b"}), "a%b ") << "so does a per cent sign";
  EXPECT_EQ(seen("5", {"a\\b"}), "a\\b ") << "and a backslash";
  EXPECT_EQ(seen("6", {"shop.order"}), "");
  EXPECT_EQ(seen("7", {"*"}), "shop.order.placed.v1 shop.order.shipped.v1 shop.order_x a%b a.b a\\b ");
}

TEST_F(OutboxTest, TwoSchemasOfOneDatabaseDoNotMeet) {
  const Schema other_schema{"outbox_other"};
  Outbox other{postgres_url(), {.schema = other_schema.name(), .source = "/shop/orders-api"}};
  append({.id = "ours", .type = "a.v1", .key = "k", .data = "{}"});
  pqxx::work tx{connection_};
  other.append_locked(tx, {.id = "theirs", .type = "a.v1", .key = "k", .data = "{}"});
  tx.commit();
  const auto theirs = other.cursor("memory:orders", {"*"});
  const auto ours = acquired("memory:orders");  // of one name, at the same time
  ASSERT_TRUE(theirs->acquire());
  for (const auto& [cursor, id] : {std::pair{ours.get(), "ours"}, std::pair{theirs.get(), "theirs"}}) {
    const auto events = read_all(*cursor);
    ASSERT_EQ(events.size(), 1U);
    EXPECT_EQ(events[0].id, id);
  }
}

TEST_F(OutboxTest, LockedAppendsOfOneKeyAreReadInTheOrderOfTheirCommits) {
  const auto cursor = acquired("a");
  constexpr int kWriters = 8;
  constexpr int kEach = 25;
  // Without any lock of their own, writers of one key append "the number of events so far".
  schema_.exec("CREATE TABLE " + schema_.table("counter") + " AS SELECT 0 AS n");
  {
    std::vector<std::jthread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&] {
        pqxx::connection connection{postgres_url()};
        for (int i = 0; i < kEach; ++i) {
          pqxx::work tx{connection};
          outbox_.append_locked(tx, {.id = "locked", .type = "t", .key = "k"});
          // The lock is held from here on: what follows is serial.
          tx.exec("UPDATE " + schema_.table("outbox") + " SET event_id = (SELECT n::text FROM " + schema_.table("counter") +
                  ") WHERE event_id = 'locked' AND txid = pg_current_xact_id()");
          tx.exec("UPDATE " + schema_.table("counter") + " SET n = n + 1");
          tx.commit();
        }
      });
    }
  }
  const auto read = read_all(*cursor);
  ASSERT_EQ(read.size(), static_cast<std::size_t>(kWriters * kEach));
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].id, std::to_string(i));
  }
}

TEST_F(OutboxTest, LockedAppendsDrawTheIdAfterTheLock) {
  pqxx::work first{connection_};
  outbox_.append_locked(first, {.id = "first", .type = "t", .key = "k"});
  std::jthread second{[&] {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox_.append_locked(tx, {.id = "second", .type = "t", .key = "k"});
    tx.commit();
  }};
  ASSERT_TRUE(test::eventually(
      [&] { return schema_.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0; }));
  outbox_.append(first, {.id = "third", .type = "t", .key = "k"});  // same transaction, still under the lock
  first.commit();
  second.join();
  EXPECT_EQ(schema_.value<std::string>("SELECT string_agg(event_id, ' ' ORDER BY id) FROM " + schema_.table("outbox")),
            "first third second");
}

TEST_F(OutboxTest, Rule12_NotifiesOnlyWhenARelayHasSaidThatItSleeps) {
  pqxx::connection listening{postgres_url()};
  int notifications = 0;
  const postgres::Listener listener{listening, "penstock_" + schema_.name(), [&] { ++notifications; }};
  const auto cursor = acquired("a");
  // A round trip after the commit brings every notification that was sent by it.
  const auto after_commit = [&] {
    pqxx::nontransaction{listening}.exec("SELECT 1");
    listening.get_notifs();
    return std::exchange(notifications, 0);
  };
  append({.type = "t"});
  append_all({{.type = "t"}, {.type = "t"}});
  EXPECT_EQ(after_commit(), 0) << "nobody sleeps";
  EXPECT_EQ(read_all(*cursor).size(), 3U);
  std::stop_source stop;
  cursor->wait(5ms, stop.get_token());
  append({.type = "t"});
  EXPECT_EQ(after_commit(), 0) << "a short wait is polling";
  read_all(*cursor);
  cursor->wait(1s, stop.get_token());
  append({.type = "t"});
  EXPECT_EQ(after_commit(), 1);
  append_all({{.type = "t"}, {.type = "t"}});
  EXPECT_EQ(after_commit(), 1);
  pqxx::work tx{connection_};
  outbox_.append_locked(tx, {.type = "t", .key = "k"});
  tx.commit();
  EXPECT_EQ(after_commit(), 1);
  cursor->release();
  EXPECT_LE(schema_.value("SELECT last_value - (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM " +
                          schema_.table("asleep_until")),
            10'000)
      << "what is not announced anew lapses";
  schema_.exec("SELECT setval('" + schema_.table("asleep_until") + "', 0)");
  append({.type = "t"});
  EXPECT_EQ(after_commit(), 0) << "it has lapsed";
}

TEST_F(OutboxTest, Rule12_ATransactionMayBePreparedWhileACursorSleeps) {
  if (schema_.value("SELECT setting::int FROM pg_settings WHERE name = 'max_prepared_transactions'") == 0) {
    return;  // then there are none
  }
  const auto cursor = acquired("a");
  std::stop_source stop;
  while (!read_all(*cursor).empty()) {
  }
  cursor->wait(0ms, stop.get_token());  // takes what hints there are
  cursor->wait(1s, stop.get_token());
  ASSERT_GT(schema_.value("SELECT last_value FROM " + schema_.table("asleep_until")), 0);
  int next = 0;
  const auto commit_in_two_phases = [&](const auto& append_by) {
    const std::string name = schema_.name() + std::to_string(next++);
    pqxx::nontransaction tx{connection_};
    tx.exec("BEGIN");
    append_by(tx);
    EXPECT_NO_THROW(tx.exec("PREPARE TRANSACTION '" + name + "'"));
    EXPECT_NO_THROW(tx.exec("COMMIT PREPARED '" + name + "'"));
  };
  commit_in_two_phases([&](auto& tx) { outbox_.append(tx, Event{.type = "t"}); });
  commit_in_two_phases([&](auto& tx) { outbox_.append(tx, Event{.type = "t", .subject = "s"}); });
  commit_in_two_phases([&](auto& tx) { outbox_.append(tx, std::vector<Event>{{.type = "t"}, {.type = "t"}}); });
  commit_in_two_phases([&](auto& tx) { outbox_.append_locked(tx, Event{.type = "t", .key = "k"}); });
  commit_in_two_phases([&](auto& tx) { tx.exec("SELECT " + schema_.table("append") + "('t', '{}', event_source => '/s')"); });
  EXPECT_EQ(read_all(*cursor).size(), 6U);
}

TEST_F(OutboxTest, Rule12_ASleepingCursorIsWokenByACommitElsewhere) {
  const auto cursor = acquired("a");
  std::stop_source stop;
  while (!read_all(*cursor).empty()) {
  }
  cursor->wait(60s, stop.get_token());  // announces its sleep and wants to look once more
  ASSERT_TRUE(read_all(*cursor).empty());
  cursor->wait(0ms, stop.get_token());  // takes what hints there are
  std::jthread other{[&] {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox_.append(tx, {.type = "t"});
    tx.commit();
  }};
  const auto begin = std::chrono::steady_clock::now();
  std::size_t read = 0;
  while (read == 0) {
    cursor->wait(60s, stop.get_token());
    read += read_all(*cursor).size();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
}

TEST_F(OutboxTest, Rule12_ASignalOrARequestToStopEndsTheSleep) {
  const auto cursor = acquired("a");
  std::stop_source stop;
  cursor->wait(0ms, stop.get_token());
  cursor->wait(8s, stop.get_token());   // announces its sleep and wants to look once more
  cursor->wait(0ms, stop.get_token());  // takes what hints there are
  const auto sleeps = [&] {
    const auto began = std::chrono::steady_clock::now();
    cursor->wait(4s, stop.get_token());
    return std::chrono::steady_clock::now() - began >= 3s;
  };
  EXPECT_TRUE(sleeps()) << "and then it does sleep";
  outbox_.signal();
  EXPECT_FALSE(sleeps()) << "a signal from before";
  std::jthread signalling{[&] { outbox_.signal(); }};
  EXPECT_FALSE(sleeps()) << "a signal";
  std::jthread stopping{[&] { stop.request_stop(); }};
  EXPECT_FALSE(sleeps()) << "a request to stop";
  EXPECT_FALSE(sleeps()) << "one from before";
}

TEST(OutboxOptions, NamesWhatIsWrong) {
  EXPECT_THROW((Outbox{"", {.schema = "Bad Name"}}), std::invalid_argument);
  EXPECT_THROW((Outbox{"", {.lease = 1ms}}), std::invalid_argument);
  try {
    Outbox{"", {.source = "not a uri"}};
    FAIL() << "a source that is no URI was accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string{error.what()}.find("source"), std::string::npos);
  }
}

}  // namespace
}  // namespace penstock
