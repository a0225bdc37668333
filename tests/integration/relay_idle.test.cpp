// SPDX-License-Identifier: Apache-2.0
// What a relay costs a database while nothing happens, and what that must not cost: events found late, leases lost.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "support/postgres.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::postgres_url;
using test::Schema;
using Steady = std::chrono::steady_clock;

class RelayIdle : public ::testing::Test {
 protected:
  Schema schema_{"idle"};
  ::penstock::testing::MemoryBroker broker_{{.seed = 1}};
  support::TcpProxy proxy_{port_of(postgres_url())};  // counts what relays ask
  std::string url_ = with_port(postgres_url(), proxy_.port());

  static std::size_t port_at(const std::string& url) { return url.rfind(':') + 1; }
  static std::uint16_t port_of(const std::string& url) {
    return static_cast<std::uint16_t>(std::stoi(url.substr(port_at(url))));
  }
  static std::string with_port(std::string url, std::uint16_t port) {
    return url.replace(port_at(url), url.find('/', port_at(url)) - port_at(url), std::to_string(port));
  }

  struct Running {
    Running(const std::string& url, const std::string& schema, ::penstock::testing::MemoryBroker& broker, bool listen = true)
        : outbox{url, {.schema = schema, .source = "/shop", .listen = listen}},
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
  /// Requests a second.
  [[nodiscard]] double idle_rate() const {
    const int before = proxy_.requests();
    const auto begin = Steady::now();
    std::this_thread::sleep_for(12s);
    return (proxy_.requests() - before) / std::chrono::duration<double>(Steady::now() - begin).count();
  }
  void append(const std::string& type) const {
    schema_.exec("SELECT " + schema_.table("append") + "('" + type + "', 'x', event_source => '/s')");
  }
};

TEST_F(RelayIdle, Rule12_FourCursorsTogetherCostAtMostTwoStatementsASecond) {
  Running running{url_, schema_.name(), broker_};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  append("a.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("a").size() == 1; }));
  std::this_thread::sleep_for(4s);
  const double rate = idle_rate();
  EXPECT_LE(rate, 2);
  EXPECT_GT(rate, 0) << "nothing was counted";
  EXPECT_TRUE(owns_all(running)) << "longer than a lease lasts";
  const auto begun = Steady::now();
  append("b.1");
  ASSERT_TRUE(eventually([&] { return broker_.published("b").size() == 1; }));
  EXPECT_LT(Steady::now() - begun, 900ms) << "the sleepers are notified";
}

TEST_F(RelayIdle, Rule12_WithPollingAloneEveryCursorFindsItsEventsWithinAboutASecond) {
  Running running{url_, schema_.name(), broker_, false};
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
  Running running{url_, schema_.name(), broker_, false};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  pqxx::connection connection{postgres_url()};
  pqxx::work tx{connection};
  tx.exec("SELECT " + schema_.table("append") + "('c.late', 'x', event_source => '/s')");
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
  Running running{url_, schema_.name(), broker_};
  ASSERT_TRUE(eventually([&] { return owns_all(running); }));
  std::this_thread::sleep_for(3s);
  schema_.exec("UPDATE " + schema_.table("cursors") +
               " SET owner = 'another', token = token + 1, lease_until = clock_timestamp() + interval '1 hour'"
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
  auto first = std::make_unique<Running>(url_, schema_.name(), broker_);
  ASSERT_TRUE(eventually([&] { return owns_all(*first); }));
  Running second{url_, schema_.name(), broker_};
  std::this_thread::sleep_for(4s);
  EXPECT_LE(idle_rate(), 4) << "of both";
  first.reset();
  const auto stopped = Steady::now();
  ASSERT_TRUE(eventually([&] { return owns_all(second); }));
  EXPECT_LT(Steady::now() - stopped, 2s);
}

}  // namespace
}  // namespace penstock
