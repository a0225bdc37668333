// SPDX-License-Identifier: Apache-2.0
// A relay on a real outbox. The broker is the one in memory, or a publisher that the test holds in its hand.
#include "penstock/relay.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "penstock/uuid.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::postgres_url;
using test::Schema;

class RelayOnPostgres : public ::testing::Test {
 protected:
  Schema schema_{"relay"};
  Outbox outbox_{postgres_url(), {.schema = schema_.name(), .source = "/shop", .lease = 1s}};
  ::penstock::testing::MemoryBroker broker_{{.seed = 1}};
  pqxx::connection connection_{postgres_url()};

  void SetUp() override { broker_.declare("orders", 4); }

  void append(int from, int to, int keys = 10) {
    std::vector<Event> events;
    for (int i = from; i < to; ++i) {
      events.push_back({.id = std::to_string(i), .type = "t", .key = "k" + std::to_string(i % keys), .data = "{}"});
    }
    pqxx::work tx{connection_};
    outbox_.append(tx, events);
    tx.commit();
  }
  /// How many different events have arrived; checks that none of a key arrived before its predecessors.
  std::size_t arrived(const std::vector<Event>& events, int keys = 10) {
    std::map<std::string, int> next;
    for (const Event& event : events) {
      const int id = std::stoi(event.id);
      const auto& [at, inserted] = next.try_emplace(event.key, id % keys);
      EXPECT_LE(id, at->second) << "key " << event.key;
      if (id == at->second) {
        at->second += keys;
      }
    }
    std::size_t count = 0;
    for (const auto& [key, id] : next) {
      count += static_cast<std::size_t>(id / keys);
    }
    return count;
  }
};

TEST_F(RelayOnPostgres, CarriesCommittedEventsInTheOrderOfTheirKeys) {
  append(0, 500);
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}};
  std::jthread thread{[&](std::stop_token stop) { EXPECT_TRUE(relay.run(std::move(stop))); }};
  for (int i = 500; i < 1000; i += 50) {
    append(i, i + 50);
    outbox_.signal();
  }
  ASSERT_TRUE(eventually([&] { return broker_.published("orders").size() == 1000; }));
  EXPECT_EQ(arrived(broker_.published("orders")), 1000U);
  thread.request_stop();
  thread.join();
  EXPECT_EQ(broker_.published("orders").size(), 1000U) << "nothing was sent twice";
  schema_.exec("VACUUM " + schema_.table("outbox"));
  EXPECT_EQ(test::dead_tuples(schema_, {"outbox_0", "outbox_1", "outbox_2"}), 0);
}

TEST_F(RelayOnPostgres, Rule13_AStreamThatNeverPausesIsPublishedWhileItFlows) {
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  int next = 0;
  EXPECT_TRUE(eventually([&] {
    append(next, next + 1);
    ++next;
    return broker_.published("orders").size() >= 50;
  }));
}

TEST_F(RelayOnPostgres, Rule3_ARelayThatDiesIsReplacedAndNothingIsLost) {
  append(0, 1000);
  {
    // Reads, is about to publish, and is never heard of again.
    const auto dead = outbox_.cursor("memory:orders", {"*"});
    ASSERT_TRUE(dead->acquire());
    ASSERT_FALSE(dead->read(100).empty());
  }
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  EXPECT_TRUE(eventually([&] { return broker_.published("orders").size() == 1000; }, 10s));
  EXPECT_EQ(arrived(broker_.published("orders")), 1000U);
}

TEST_F(RelayOnPostgres, Rule3_ConnectionsThatAreCutLoseNothing) {
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}, {.batch = 20, .in_flight = 50}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  for (int round = 0; round < 5; ++round) {
    append(round * 200, round * 200 + 200);
    ASSERT_TRUE(eventually([&] { return arrived(broker_.published("orders")) > static_cast<std::size_t>(round) * 200; }));
    schema_.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'"
        " AND pid <> pg_backend_pid() AND query LIKE '%" +
        schema_.name() + "%'");
  }
  EXPECT_TRUE(eventually([&] { return arrived(broker_.published("orders")) == 1000; }));
}

TEST_F(RelayOnPostgres, TwoRelaysShareTheCursorsAndTakeOver) {
  broker_.declare("archive", 1);
  const std::vector<Route> routes{{"*", broker_.channel("orders")}, {"*", broker_.channel("archive")}};
  const auto owned = [](const Relay& relay) {
    int count = 0;
    for (const auto& channel : relay.status().channels) {
      count += channel.owner ? 1 : 0;
    }
    return count;
  };
  Relay first{outbox_, routes, {.idle_wait = 50ms}};
  Relay second{outbox_, routes, {.idle_wait = 50ms}};
  std::jthread second_thread;
  {
    std::jthread first_thread{[&](std::stop_token stop) { first.run(std::move(stop)); }};
    ASSERT_TRUE(eventually([&] { return owned(first) == 2; }));
    second_thread = std::jthread{[&](std::stop_token stop) { second.run(std::move(stop)); }};
    append(0, 300);
    ASSERT_TRUE(eventually([&] { return arrived(broker_.published("archive")) == 300; }));
    EXPECT_EQ(owned(second), 0);
  }
  append(300, 600);
  EXPECT_TRUE(eventually([&] { return arrived(broker_.published("orders")) == 600; }));
  EXPECT_TRUE(eventually([&] { return arrived(broker_.published("archive")) == 600; }));
  EXPECT_EQ(owned(second), 2);
  EXPECT_EQ(broker_.published("archive").size(), 600U) << "a clean stop repeats nothing";
}

TEST_F(RelayOnPostgres, Rule6_AnEventTheBrokerNeverTakesBecomesADeadLetter) {
  ::penstock::testing::MemoryBroker small{{.seed = 1, .largest_message = 100}};
  small.declare("orders", 1);
  pqxx::work tx{connection_};
  outbox_.append(tx, std::vector<Event>{{.id = "1", .type = "t", .key = "k", .data = "small"},
                                        {.id = "2", .type = "t", .key = "k", .data = std::string(200, 'x')},
                                        {.id = "3", .type = "t", .key = "k", .data = "small"}});
  tx.commit();
  Relay relay{outbox_, {{"*", small.channel("orders")}}, {.retry = RetryPolicy::fixed(5ms)}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  ASSERT_TRUE(eventually([&] { return small.published("orders").size() == 2; }));
  EXPECT_EQ(schema_.value<std::string>("SELECT side || ' ' || event_id || ' ' || octet_length(payload) FROM " +
                                       schema_.table("dead_letters")),
            "outbox 2 200");
}

/// Takes what is not of the key; says of the others what it was told to say.
class Rejecting final : public Publisher {
 public:
  Rejecting(std::string key, std::string error) : key_{std::move(key)}, error_{std::move(error)} {}
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    Outcomes outcomes;
    for (const Event& event : events) {
      outcomes.push_back(event.key == key_ ? Outcome{Outcome::Status::rejected, error_}
                                           : Outcome{Outcome::Status::confirmed, {}});
    }
    std::promise<Outcomes> promise;
    promise.set_value(std::move(outcomes));
    return promise.get_future();
  }

 private:
  std::string key_;
  std::string error_;
};

TEST_F(RelayOnPostgres, Rule6_WhateverAChannelSaysOfAnEventItBecomesADeadLetter) {
  append(0, 20);
  const auto publisher = std::make_shared<Rejecting>("k3", std::string{"no \xff\xc3 \0 thing", 13});
  Relay relay{outbox_, {{"*", {"memory", "orders", publisher}}}, {.retry = RetryPolicy::fixed(5ms)}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  EXPECT_TRUE(eventually([&] { return status().buried == 2 && status().published == 18; })) << status().last_error;
  EXPECT_EQ(schema_.value<std::string>("SELECT DISTINCT last_error FROM " + schema_.table("dead_letters")), "no ??   thing");
}

TEST_F(RelayOnPostgres, Rule6_ARowThatNobodyAppendedAndThatIsNoEventBecomesADeadLetter) {
  append(0, 5);
  schema_.exec(
      "INSERT INTO " + schema_.table("outbox") + "(segment, route, event_id, source, type, key, headers, extensions, data)" +
      " SELECT segment, 't', 'bad-' || n, '/shop', 't', 'k1', h::jsonb, e::jsonb, 'bytes' FROM " + schema_.table("outbox") +
      R"( , (VALUES (1, '{"a": 1}', NULL), (2, '[["a"]]', NULL), (3, NULL, '[1]'), (4, NULL, '{"n": 5000000000}'),)" +
      R"( (5, NULL, '{"n": 1.5}'), (6, '[["x", {"base64": "?"}]]', NULL)) v(n, h, e) WHERE event_id = '0')");
  append(5, 10);
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}, {.idle_wait = 50ms}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  EXPECT_TRUE(eventually([&] { return status().published == 10 && status().buried == 6; })) << status().last_error;
  EXPECT_EQ(arrived(broker_.published("orders")), 10U);
  EXPECT_EQ(schema_.value<std::string>("SELECT string_agg(error_class || ' ' || convert_from(payload, 'UTF8'), ',') FROM " +
                                       schema_.table("dead_letters") + " WHERE last_error LIKE '%{%a%: 1}%'"),
            "malformed bytes");
  EXPECT_TRUE(eventually([&] { return status().backlog->events == 0; }));
}

TEST_F(RelayOnPostgres, Rule6_SeveralSuchRowsOfAKeyThatIsHeldAreDeadLettersToo) {
  append(0, 10);
  schema_.exec("INSERT INTO " + schema_.table("outbox") +
               "(segment, route, event_id, source, type, key, headers) SELECT segment, 't', 'bad-' || n, '/shop', 't', 'k1', "
               "'{}' FROM " +
               schema_.table("outbox") + ", generate_series(1, 3) n WHERE event_id = '0'");
  schema_.exec("UPDATE " + schema_.table("outbox") + R"( SET headers = '[["a"]]' WHERE event_id LIKE 'bad-%')");
  append(10, 20);
  Relay relay{outbox_, {{"*", broker_.channel("orders")}}, {.idle_wait = 50ms, .after_dead_letter = AfterDeadLetter::hold}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  EXPECT_TRUE(eventually([&] { return status().buried == 3 && status().parked >= 1; }, 8s)) << status().last_error;
  EXPECT_TRUE(eventually([&] { return status().backlog->events == 0; }, 8s)) << status().last_error;
  EXPECT_EQ(schema_.value("SELECT count(*) FROM " + schema_.table("dead_letters") + " WHERE state = 'dead' AND holds"), 3);
}

TEST_F(RelayOnPostgres, Rule6_AnEventWithALongKeyBecomesADeadLetter) {
  std::string key;  // more than an entry of an index takes, and nothing that compresses
  for (int i = 0; i < 300; ++i) {
    key += uuid7();
  }
  pqxx::work tx{connection_};
  outbox_.append(tx, std::vector<Event>{{.id = key, .type = "t", .key = key}, {.id = "2", .type = "t", .key = key}});
  outbox_.append(tx, Event{.id = "3", .type = "t", .key = "k"});
  tx.commit();
  const auto publisher = std::make_shared<Rejecting>(key, "too long");
  Relay relay{outbox_,
              {{"*", {"memory", "orders", publisher}}},
              {.idle_wait = 50ms, .retry = RetryPolicy::fixed(5ms), .after_dead_letter = AfterDeadLetter::hold}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  EXPECT_TRUE(eventually([&] { return status().buried == 1 && status().parked == 1; })) << status().last_error;
  schema_.exec("UPDATE " + schema_.table("dead_letters") + " SET state = 'discarded' WHERE state = 'dead'");
  EXPECT_TRUE(eventually([&] { return status().buried == 2; })) << status().last_error;
}

TEST_F(RelayOnPostgres, Rule6_AKeyHeldBehindADeadLetterGoesOnInOrderWhenThatIsResolved) {
  ::penstock::testing::MemoryBroker small{{.seed = 1, .largest_message = 100}};
  small.declare("orders", 1);
  const auto append_one = [&](const std::string& id, const std::string& key, std::size_t size) {
    pqxx::work tx{connection_};
    outbox_.append(tx, Event{.id = id, .type = "t", .subject = "s" + id, .key = key, .data = std::string(size, 'x')});
    tx.commit();
  };
  const RelayOptions options{.idle_wait = 50ms, .retry = RetryPolicy::fixed(5ms), .after_dead_letter = AfterDeadLetter::hold};
  append_one("1", "k", 10);
  append_one("2", "k", 200);
  append_one("3", "k", 30);
  append_one("4", "other", 40);
  const auto dead = [&](const std::string& state) {
    return schema_.value("SELECT count(*) FROM " + schema_.table("dead_letters") + " WHERE state = '" + state + "'");
  };
  {
    Relay relay{outbox_, {{"*", small.channel("orders")}}, options};
    std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
    ASSERT_TRUE(eventually([&] { return dead("behind") == 1; }));
    ASSERT_TRUE(eventually([&] { return small.published("orders").size() == 2; }));
  }
  Relay relay{outbox_, {{"*", small.channel("orders")}}, options};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  append_one("5", "k", 200);
  append_one("6", "k", 60);
  append_one("7", "other", 70);
  ASSERT_TRUE(eventually([&] { return dead("behind") == 3; }));
  ASSERT_TRUE(eventually([&] { return small.published("orders").size() == 3; }));
  EXPECT_TRUE(eventually([&] { return relay.status().channels.at(0).held_keys == 1U; }));
  schema_.exec("UPDATE " + schema_.table("dead_letters") + " SET state = 'discarded' WHERE state = 'dead'");
  // The 3 goes out, the 5 is the next that cannot, the 6 waits behind it.
  ASSERT_TRUE(eventually([&] { return dead("dead") == 1 && dead("behind") == 1; }));
  EXPECT_EQ(small.published("orders").size(), 4U);
  schema_.exec("UPDATE " + schema_.table("dead_letters") + " SET state = 'replayed' WHERE state = 'dead'");
  ASSERT_TRUE(eventually([&] { return relay.status().channels.at(0).held_keys == 0; }));
  append_one("8", "k", 80);
  ASSERT_TRUE(eventually([&] { return small.published("orders").size() == 6; }));
  std::string of_key;
  for (const Event& event : small.published("orders")) {
    EXPECT_EQ(event.subject, "s" + event.id);
    EXPECT_EQ(event.data->size(), std::stoul(event.id) * 10);
    of_key += event.key == "k" ? event.id : "";
  }
  EXPECT_EQ(of_key, "1368");
  // A key is free when what was parked of it is on its way; the rows go with the next checkpoint.
  EXPECT_TRUE(eventually([&] { return dead("behind") == 0; }));
}

TEST_F(RelayOnPostgres, Rule6_AKeyThatIsFreeAgainIsHeldNoLongerThoughItsEventsNeverPause) {
  ::penstock::testing::MemoryBroker small{{.seed = 1, .largest_message = 100}};
  small.declare("orders", 1);
  int appended = 0;
  const auto append_one = [&](std::size_t size) {
    pqxx::work tx{connection_};
    outbox_.append(tx, Event{.id = std::to_string(appended++), .type = "t", .key = "k", .data = std::string(size, 'x')});
    tx.commit();
  };
  append_one(200);
  append_one(10);
  Relay relay{outbox_,
              {{"*", small.channel("orders")}},
              {.idle_wait = 50ms, .retry = RetryPolicy::fixed(5ms), .after_dead_letter = AfterDeadLetter::hold}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  ASSERT_TRUE(eventually([&] { return status().parked == 1; }));
  schema_.exec("UPDATE " + schema_.table("dead_letters") + " SET state = 'discarded' WHERE state = 'dead'");
  EXPECT_TRUE(eventually([&] {
    append_one(10);
    std::this_thread::sleep_for(20ms);
    return status().held_keys == 0;
  }));
  for (int i = 0; i < 20; ++i) {
    append_one(10);
  }
  ASSERT_TRUE(eventually([&] { return small.published("orders").size() == static_cast<std::size_t>(appended - 1); }));
  int next = 1;
  for (const Event& event : small.published("orders")) {
    EXPECT_EQ(event.id, std::to_string(next++));
  }
}

/// Cannot take what is of the keys for now; all else.
class Failing final : public Publisher {
 public:
  explicit Failing(std::set<std::string> keys) : keys_{std::move(keys)} {}
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    const std::lock_guard lock{mutex_};
    Outcomes outcomes;
    for (const Event& event : events) {
      const bool fails = keys_.count(event.key) != 0;
      outcomes.push_back({fails ? Outcome::Status::retryable : Outcome::Status::confirmed, fails ? "no leader" : ""});
      ++tries_[event.id];
      if (!fails) stored_[event.key].push_back(event.id);
    }
    std::promise<Outcomes> promise;
    promise.set_value(std::move(outcomes));
    return promise.get_future();
  }
  void mend() {
    const std::lock_guard lock{mutex_};
    keys_.clear();
  }
  int tries(const std::string& id) {
    const std::lock_guard lock{mutex_};
    return tries_[id];
  }
  std::vector<std::string> stored(const std::string& key) {
    const std::lock_guard lock{mutex_};
    return stored_[key];
  }

 private:
  std::mutex mutex_;
  std::set<std::string> keys_;
  std::map<std::string, int> tries_;
  std::map<std::string, std::vector<std::string>> stored_;
};

TEST_F(RelayOnPostgres, Rule6_KeysThatKeepFailingTakeNoRoomFromOthersAndGoOnInTheirOrder) {
  append(0, 4'000);  // of ten keys
  const auto publisher = std::make_shared<Failing>(std::set<std::string>{"k3", "k7"});
  const std::vector<Route> routes{{"*", {"memory", "orders", publisher}}};
  const RelayOptions options{.in_flight = 500, .idle_wait = 50ms, .retry = RetryPolicy::fixed(20ms)};
  const auto behind = [&](const std::string& which) {
    return schema_.value("SELECT count(*) FROM " + schema_.table("dead_letters") + " WHERE state = 'behind' AND " + which);
  };
  {
    Relay relay{outbox_, routes, options};
    std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
    const auto status = [&] { return relay.status().channels.at(0); };
    ASSERT_TRUE(eventually([&] { return status().published == 3'200 && status().parked == 800; })) << status().last_error;
    EXPECT_TRUE(eventually([&] { return status().fenced_keys == 2 && status().backlog->events == 0; }));
    EXPECT_EQ(behind("reason = 'is tried again' AND last_error = 'no leader' AND next_attempt_at IS NOT NULL"), 2);
    EXPECT_EQ(behind("true"), 800);
    EXPECT_EQ(schema_.value("SELECT coalesce(sum(depth), 0) FROM " + schema_.table("dead_letter_depth")), 0)
        << "they are no dead letters";
  }
  Relay relay{outbox_, routes, options};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  const int tries = publisher->tries("3");
  ASSERT_TRUE(eventually([&] { return publisher->tries("3") > tries + 1; }));
  append(4'000, 4'100);
  ASSERT_TRUE(eventually([&] { return status().published == 80 && status().parked == 20; })) << status().last_error;
  EXPECT_EQ(publisher->tries("0"), 1) << "what waits holds back no checkpoint, so nothing is repeated";
  EXPECT_EQ(publisher->tries("13"), 0);
  publisher->mend();
  for (const std::string key : {"k3", "k7"}) {
    ASSERT_TRUE(eventually([&] { return publisher->stored(key).size() == 410; })) << status().last_error;
    int next = key[1] - '0';
    for (const std::string& id : publisher->stored(key)) {
      EXPECT_EQ(id, std::to_string(next));
      next += 10;
    }
  }
  EXPECT_TRUE(eventually([&] { return behind("true") == 0 && status().fenced_keys == 0; }));
}

TEST_F(RelayOnPostgres, WhoeverGivesUpAnEventThatKeepsFailingFreesItsKey) {
  append(0, 400);
  const auto publisher = std::make_shared<Failing>(std::set<std::string>{"k3"});
  Relay relay{outbox_,
              {{"*", {"memory", "orders", publisher}}},
              {.in_flight = 50, .idle_wait = 50ms, .retry = RetryPolicy::fixed(20ms)}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  ASSERT_TRUE(eventually([&] { return status().parked == 40; })) << status().last_error;
  // As docs/replay.md has it.
  schema_.exec("UPDATE " + schema_.table("dead_letters") + " SET state = 'dead', next_attempt_at = NULL WHERE event_id = '3'");
  publisher->mend();
  EXPECT_TRUE(eventually([&] { return publisher->stored("k3").size() >= 39; }));
  EXPECT_TRUE(eventually(
      [&] { return schema_.value("SELECT count(*) FROM " + schema_.table("dead_letters") + " WHERE state = 'behind'") == 0; }));
  const auto stored = publisher->stored("k3");
  EXPECT_EQ(stored.at(stored.size() - 39), "13") << "it may have been on its way at that moment";
}

TEST_F(RelayOnPostgres, AnEventWithoutARouteIsADeadLetterUnlessAnotherRelayMayCarryIt) {
  const auto append_type = [&](const std::string& id, const std::string& type) {
    pqxx::work tx{connection_};
    outbox_.append(tx, Event{.id = id, .type = type, .key = "k", .data = "{}"});
    tx.commit();
  };
  const auto letters = [&] { return schema_.value("SELECT count(*) FROM " + schema_.table("dead_letters")); };
  append_type("1", "shop.a%b");
  append_type("2", "shop.a_b");
  append_type("3", "shop.axb");
  Relay relay{outbox_, {{"shop.a_*", broker_.channel("orders")}}, {.idle_wait = 50ms}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  ASSERT_TRUE(eventually([&] { return letters() == 2; }));
  ASSERT_TRUE(eventually([&] { return broker_.published("orders").size() == 1; }));
  EXPECT_EQ(schema_.value<std::string>("SELECT string_agg(event_id || ' ' || channel, ',' ORDER BY event_id) FROM " +
                                       schema_.table("dead_letters")),
            "1 unrouted,3 unrouted");
  // Another relay, with other routes.
  broker_.declare("bank", 1);
  Relay other{outbox_, {{"bank.*", broker_.channel("bank")}}, {.idle_wait = 50ms, .unrouted = Unrouted::ignore}};
  std::jthread other_thread{[&](std::stop_token stop) { other.run(std::move(stop)); }};
  ASSERT_TRUE(eventually([&] { return other.status().channels.at(0).owner; }));
  thread.request_stop();
  thread.join();
  Relay again{outbox_, {{"shop.a_*", broker_.channel("orders")}}, {.idle_wait = 50ms}};
  std::jthread again_thread{[&](std::stop_token stop) { again.run(std::move(stop)); }};
  append_type("4", "bank.b");
  ASSERT_TRUE(eventually([&] { return broker_.published("bank").size() == 1; }));
  ASSERT_TRUE(eventually([&] { return again.status().unrouted->published == 1; }));
  EXPECT_EQ(letters(), 2);
}

TEST_F(RelayOnPostgres, StatusTellsOwnerBacklogAndPosition) {
  append(0, 100);
  const auto publisher = std::make_shared<::penstock::testing::MemoryBroker>(::penstock::testing::MemoryBrokerOptions{});
  publisher->declare("orders", 1);
  publisher->set_down(true);
  Relay relay{outbox_, {{"*", publisher->channel("orders")}}, {.retry = RetryPolicy::fixed(50ms)}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  const auto status = [&] { return relay.status().channels.at(0); };
  ASSERT_TRUE(eventually([&] { return status().backlog && status().backlog->events == 100 && status().backlog->exact; }));
  EXPECT_TRUE(status().owner);
  ASSERT_TRUE(eventually([&] { return status().last_error_at.has_value(); }));
  publisher->set_down(false);
  ASSERT_TRUE(eventually([&] { return status().published == 100; }));
  EXPECT_TRUE(eventually([&] { return status().backlog->events == 0 && !status().backlog->position.empty(); }));
  EXPECT_GT(status().rate, 0.0);
}

class HeldPublisher final : public Publisher {
 public:
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    const std::lock_guard lock{mutex_};
    held_.emplace_back(events.size(), std::promise<Outcomes>{});
    return held_.back().second.get_future();
  }
  bool holds() {
    const std::lock_guard lock{mutex_};
    return !held_.empty();
  }
  void confirm() {
    const std::lock_guard lock{mutex_};
    for (auto& [count, promise] : held_) {
      promise.set_value(Outcomes(count, Outcome{Outcome::Status::confirmed, {}}));
    }
    held_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<std::size_t, std::promise<Outcomes>>> held_;
};

TEST_F(RelayOnPostgres, Rule8_NoTransactionOrLockIsHeldWhileTheBrokerIsWaitedFor) {
  const auto publisher = std::make_shared<HeldPublisher>();
  append(0, 10);
  Relay relay{outbox_, {{"*", {"memory", "orders", publisher}}}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  ASSERT_TRUE(eventually([&] { return publisher->holds(); }));
  // Nothing of the relay is ever older than one short statement: what is open now is closed a little later, and a lock on the
  // whole table can be had.
  const auto open = schema_.exec(
      "SELECT pid, xact_start FROM pg_stat_activity WHERE application_name = 'penstock'"
      " AND xact_start IS NOT NULL AND query LIKE '%" +
      schema_.name() + "%'");
  for (const auto& row : open) {
    EXPECT_TRUE(eventually([&] {
      return schema_.value("SELECT count(*) FROM pg_stat_activity WHERE pid = " + row[0].as<std::string>() +
                           " AND xact_start = '" + row[1].as<std::string>() + "'") == 0;
    }));
  }
  schema_.exec("SET lock_timeout = '10s'; LOCK TABLE " + schema_.table("outbox") + ", " + schema_.table("cursors") +
               " IN ACCESS EXCLUSIVE MODE");
  EXPECT_TRUE(publisher->holds());
  publisher->confirm();
  EXPECT_TRUE(eventually([&] { return relay.status().channels.at(0).published == 10; }));
}

}  // namespace
}  // namespace penstock
