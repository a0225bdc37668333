// SPDX-License-Identifier: Apache-2.0
// What a relay costs a database while nothing happens, and what that must not cost: events found late, leases lost.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::postgres_url;
using Steady = std::chrono::steady_clock;

/// A database of its own, whose statistics count nobody else's transactions.
class Database {
 public:
  Database() {
    execute(postgres_url(), "CREATE DATABASE " + name_);
    url_ = postgres_url();
    url_.replace(url_.rfind('/') + 1, std::string::npos, name_);
    migrate(url_);
  }
  ~Database() {
    try {
      execute(postgres_url(), "DROP DATABASE " + name_ + " WITH (FORCE)");
    } catch (const std::exception&) {  // it stays, under a name nobody uses
    }
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  [[nodiscard]] const std::string& url() const { return url_; }
  void execute(const std::string& sql) const { execute(url_, sql); }
  /// As last reported by the backends, which do so at most once a second. Asked from another database.
  [[nodiscard]] long long transactions() const {
    pqxx::connection connection{postgres_url()};
    pqxx::nontransaction tx{connection};
    return tx.exec("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '" + name_ + "'")[0][0]
        .as<long long>();
  }

 private:
  static void execute(const std::string& url, const std::string& sql) {
    pqxx::connection connection{url};
    pqxx::nontransaction tx{connection};
    tx.exec(sql);
  }

  std::string name_ = test::unique_name("idle");
  std::string url_;
};

class RelayIdle : public ::testing::Test {
 protected:
  Database database_;
  ::penstock::testing::MemoryBroker broker_{{.seed = 1}};

  struct Running {
    Running(const Database& database, ::penstock::testing::MemoryBroker& broker, bool listen = true)
        : outbox{database.url(), {.source = "/shop", .listen = listen}},
          relay{outbox, {{"a.*", broker.channel("a")}, {"b.*", broker.channel("b")}, {"c.*", broker.channel("c")}}, {}},
          thread{[this](std::stop_token stop) { relay.run(std::move(stop)); }} {}

    Outbox outbox;
    Relay relay;
    std::jthread thread;
  };

  void SetUp() override {
    for (const auto* name : {"a", "b", "c"}) {
      broker_.declare(name, 1);
    }
  }
  static bool owns_all(const Running& running) {
    const auto status = running.relay.status();
    bool all = status.unrouted && status.unrouted->owner;
    for (const auto& channel : status.channels) {
      all = all && channel.owner;
    }
    return all;
  }
  void append(const std::string& type) const {
    database_.execute("SELECT penstock.append('" + type + "', 'x', event_source => '/s')");
  }
};

TEST_F(RelayIdle, Rule12_FourCursorsTogetherCostAtMostTwoStatementsASecond) {
  Running running{database_, broker_};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  append("a.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("a").size() == 1; }));
  std::this_thread::sleep_for(4s);
  const auto before = database_.transactions();
  const auto begin = Steady::now();
  std::this_thread::sleep_for(12s);
  const std::chrono::duration<double> passed = Steady::now() - begin;
  const auto counted = static_cast<double>(database_.transactions() - before);
  EXPECT_LE(counted, 2 * passed.count()) << counted / passed.count() << " a second";
  EXPECT_GT(counted, 0) << "the statistics count nothing";
  EXPECT_TRUE(owns_all(running)) << "longer than a lease lasts";
  const auto begun = Steady::now();
  append("b.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("b").size() == 1; }));
  EXPECT_LT(Steady::now() - begun, 900ms) << "the sleepers are notified";
}

TEST_F(RelayIdle, Rule12_WithPollingAloneEveryCursorFindsItsEventsWithinAboutASecond) {
  Running running{database_, broker_, false};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  std::size_t sent = 0;
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(2'300ms);
    ++sent;
    const auto begun = Steady::now();
    for (const auto* type : {"a.1", "b.1", "c.1"}) {
      append(type);
    }
    ASSERT_TRUE(eventually([&] {
      return broker_.published("a").size() == sent && broker_.published("b").size() == sent &&
             broker_.published("c").size() == sent;
    }));
    EXPECT_LT(Steady::now() - begun, 3s);
  }
}

TEST_F(RelayIdle, ATransactionThatWasOpenAllTheWhileIsFoundWhenItCommits) {
  Running running{database_, broker_, false};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  pqxx::connection connection{database_.url()};
  pqxx::work tx{connection};
  tx.exec("SELECT penstock.append('c.late', 'x', event_source => '/s')");
  std::this_thread::sleep_for(4s);
  append("a.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("a").size() == 1; }));
  std::this_thread::sleep_for(3s);
  tx.commit();
  const auto begun = Steady::now();
  ASSERT_TRUE(eventually([&] { return broker_.published("c").size() == 1; }));
  EXPECT_LT(Steady::now() - begun, 3s);
}

TEST_F(RelayIdle, Rule4_ARestingRelayThatWasTakenOverLearnsIt) {
  Running running{database_, broker_};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  std::this_thread::sleep_for(3s);
  database_.execute(
      "UPDATE penstock.cursors SET owner = 'another', token = token + 1, lease_until = clock_timestamp() + interval '1 hour'"
      " WHERE name = 'memory:b'");
  ASSERT_TRUE(eventually([&] { return !running.relay.status().channels.at(1).owner; }));
  EXPECT_TRUE(running.relay.status().channels.at(0).owner);
  append("b.1");
  append("a.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("a").size() == 1; }));
  std::this_thread::sleep_for(1'500ms);
  EXPECT_TRUE(broker_.published("b").empty());
}

TEST_F(RelayIdle, AStandbyRelayAsksForAllItsCursorsAtOnceAndTakesOverAtACleanStop) {
  auto first = std::make_unique<Running>(database_, broker_);
  ASSERT_TRUE(eventually([&] { return owns_all(*first); }));
  Running second{database_, broker_};
  std::this_thread::sleep_for(4s);
  const auto before = database_.transactions();
  const auto begin = Steady::now();
  std::this_thread::sleep_for(12s);
  const std::chrono::duration<double> passed = Steady::now() - begin;
  const auto counted = static_cast<double>(database_.transactions() - before);
  EXPECT_LE(counted, 4 * passed.count()) << "of both: " << counted / passed.count() << " a second";
  first.reset();
  const auto stopped = Steady::now();
  ASSERT_TRUE(eventually([&] { return owns_all(second); }));
  EXPECT_LT(Steady::now() - stopped, 2s);
}

}  // namespace
}  // namespace penstock
