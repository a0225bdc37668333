// SPDX-License-Identifier: Apache-2.0
// Relays in processes of their own that share the cursors of one outbox: killed, stopped, suspended.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::Journal;
using test::postgres_url;
using test::Process;
using test::Schema;

/// A broker that is a file: "<who> <key> <id>" for each event, confirmed a little later.
class JournalPublisher final : public Publisher {
 public:
  JournalPublisher(const Journal& journal, std::string who) : journal_{journal}, who_{std::move(who)} {}

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    std::string lines;
    for (const Event& event : events) {
      lines += who_ + " " + event.key + " " + event.id + "\n";
    }
    journal_.write(lines);
    std::promise<Outcomes> promise;
    auto future = promise.get_future();
    const std::lock_guard lock{mutex_};
    waiting_.push_back({std::move(promise), events.size()});
    changed_.notify_all();
    return future;
  }

 private:
  void confirm(const std::stop_token& stop) {
    std::unique_lock lock{mutex_};
    while (changed_.wait(lock, stop, [this] { return !waiting_.empty(); })) {
      auto [promise, count] = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      std::this_thread::sleep_for(2ms);  // the broker's time
      promise.set_value(Outcomes(count, Outcome{Outcome::Status::confirmed, {}}));
      lock.lock();
    }
  }

  const Journal& journal_;
  std::string who_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::pair<std::promise<Outcomes>, std::size_t>> waiting_;
  std::jthread thread_{[this](const std::stop_token& stop) { confirm(stop); }};
};

constexpr std::size_t kInFlight = 40;
constexpr int kKeys = 10;

class RelayLeases : public ::testing::Test {
 protected:
  Schema schema_{"leases"};
  Journal journal_;
  int next_ = 0;

  // In every process its own.
  [[nodiscard]] Outbox outbox() const { return Outbox{postgres_url(), {.schema = schema_.name(), .source = "/shop"}}; }

  /// Runs a relay until SIGTERM.
  [[nodiscard]] std::unique_ptr<Process> relay(const std::string& who, int channels = 1) const {
    return std::make_unique<Process>([this, who, channels] {
      sigset_t terminate;
      ::sigemptyset(&terminate);
      ::sigaddset(&terminate, SIGTERM);
      ::pthread_sigmask(SIG_BLOCK, &terminate, nullptr);
      Outbox log = outbox();
      std::vector<Route> routes;
      for (int i = 0; i < channels; ++i) {
        routes.push_back({"*", {"file", "orders" + std::to_string(i), std::make_shared<JournalPublisher>(journal_, who)}});
      }
      Relay moving{log, routes, {.batch = 10, .in_flight = kInFlight}};
      std::jthread thread{[&](std::stop_token stop) { moving.run(std::move(stop)); }};
      // Says when it takes a lease, loses it, or finds another's.
      std::string said;
      const timespec moment{0, 10'000'000};
      while (::sigtimedwait(&terminate, nullptr, &moment) != SIGTERM) {
        const auto status = moving.status().channels.at(0);
        const std::string now = status.owner ? "owns" : status.backlog || said == "owns" ? "waits" : said;
        if (now != std::exchange(said, now)) {
          journal_.write("~ " + who + " " + now + "\n");
        }
      }
    });
  }
  void append(int count) {
    Outbox log = outbox();
    pqxx::connection connection{postgres_url()};
    std::vector<Event> events;
    for (int i = 0; i < count; ++i, ++next_) {
      events.push_back({.id = std::to_string(next_), .type = "t", .key = "k" + std::to_string(next_ % kKeys), .data = "{}"});
    }
    pqxx::work tx{connection};
    log.append(tx, events);
    tx.commit();
  }
  /// How often a process said so.
  [[nodiscard]] std::ptrdiff_t said(const std::string& what) const {
    const auto lines = journal_.lines();
    return std::count(lines.begin(), lines.end(), "~ " + what);
  }
  struct Line {
    std::string who{};
    std::string key{};
    int id = 0;
  };
  [[nodiscard]] std::vector<Line> sent() const {
    std::vector<Line> sent;
    for (const auto& text : journal_.lines()) {
      std::istringstream in{text};
      Line line;
      if (in >> line.who >> line.key >> line.id) {
        sent.push_back(line);
      }
    }
    return sent;
  }
  /// How many different events were sent; checks that none of a key was sent before its predecessors.
  [[nodiscard]] std::size_t arrived() const {
    std::map<std::string, int> next;
    std::size_t count = 0;
    for (const Line& line : sent()) {
      const auto& [at, inserted] = next.try_emplace(line.key, line.id % kKeys);
      EXPECT_LE(line.id, at->second) << "key " << line.key;
      if (line.id == at->second) {
        at->second += kKeys;
        ++count;
      }
    }
    return count;
  }
  [[nodiscard]] bool wait_for(std::size_t count) const {
    return eventually([&] { return arrived() >= count; }, 30s);
  }
  [[nodiscard]] std::string owner() const {
    const auto rows =
        schema_.exec("SELECT owner FROM " + schema_.table("cursor_status") + " WHERE lease_until > clock_timestamp()");
    return rows.empty() ? "" : rows[0][0].as<std::string>();
  }
  [[nodiscard]] bool owned_by(const Process& process) const {
    return owner().find(":" + std::to_string(process.pid()) + ":") != std::string::npos;
  }
};

TEST_F(RelayLeases, Rule3_ARelayThatIsKilledIsReplacedWithinFiveSeconds) {
  append(100);
  auto first = relay("first");
  ASSERT_TRUE(wait_for(1));
  auto second = relay("second");
  append(200);
  ASSERT_TRUE(wait_for(100));
  first->signal(SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(first->wait()));
  append(100);
  EXPECT_TRUE(eventually([&] { return owned_by(*second); }, 5s));
  ASSERT_TRUE(wait_for(400));
}

TEST_F(RelayLeases, Rule3_ARelayThatIsStoppedIsReplacedWithinASecondAndNothingIsRepeated) {
  append(100);
  auto first = relay("first");
  ASSERT_TRUE(wait_for(100));
  auto second = relay("second");
  ASSERT_TRUE(eventually([&] { return said("second waits") == 1; }));
  first->signal(SIGTERM);
  EXPECT_EQ(first->wait(), 0);
  EXPECT_TRUE(eventually([&] { return owned_by(*second); }, 1s));
  append(100);
  ASSERT_TRUE(wait_for(200));
  EXPECT_EQ(sent().size(), 200U);
}

TEST_F(RelayLeases, Rule4_ARelayThatWasSuspendedMovesNoCheckpointAndRepeatsAtMostWhatItHadInFlight) {
  append(2'000);
  auto first = relay("first");
  ASSERT_TRUE(wait_for(200));
  first->signal(SIGSTOP);
  auto second = relay("second");
  append(300);
  ASSERT_TRUE(wait_for(2'300));
  ASSERT_TRUE(eventually([&] { return owned_by(*second); }));
  const auto cursor = [&] {
    return schema_.value<std::string>("SELECT owner || ' ' || token FROM " + schema_.table("cursors"));
  };
  const auto before = cursor();
  const std::size_t lines = sent().size();
  first->signal(SIGCONT);
  append(500);
  ASSERT_TRUE(wait_for(2'800));
  ASSERT_TRUE(eventually([&] { return said("first waits") == 1; }));
  EXPECT_EQ(cursor(), before);
  std::size_t late = 0;
  const auto all = sent();
  for (std::size_t i = lines; i < all.size(); ++i) {
    late += all[i].who == "first" ? 1U : 0U;
  }
  EXPECT_LE(late, kInFlight);
  // Nothing is missing for the next one either: the checkpoint is where the second put it.
  second->signal(SIGTERM);
  EXPECT_EQ(second->wait(), 0);
  ASSERT_TRUE(eventually([&] { return owned_by(*first); }));
  append(100);
  ASSERT_TRUE(wait_for(2'900));
  EXPECT_EQ(sent().size(), all.size() + 100);
}

TEST_F(RelayLeases, Rule4_RelaysThatComeAndGoLoseNothing) {
  std::deque<std::unique_ptr<Process>> relays;
  std::size_t total = 0;
  for (int round = 0; round < 6; ++round) {
    relays.push_back(relay("r" + std::to_string(round)));
    append(300);
    total += 300;
    if (relays.size() > 2) {
      relays.front()->signal(round % 2 == 0 ? SIGTERM : SIGKILL);
      static_cast<void>(relays.front()->wait());
      relays.pop_front();
    }
  }
  EXPECT_TRUE(wait_for(total));
}

TEST_F(RelayLeases, Rule12_AnIdleProcessAsksLittle) {
  append(10);
  const auto process = relay("only", 3);
  ASSERT_TRUE(eventually([&] { return sent().size() >= 30; }));
  const auto asleep = [&] {
    return schema_.value("SELECT count(*) FROM " + schema_.table("asleep_until") +
                         " WHERE last_value > extract(epoch FROM clock_timestamp()) * 1000") == 1;
  };
  ASSERT_TRUE(eventually(asleep));
  std::size_t fewest = 1'000;
  pqxx::connection connection{postgres_url()};
  for (int round = 0; round < 2; ++round) {        // the first may still see it fall asleep
    std::map<int, std::set<std::string>> queries;  // by connection, when they began
    for (const auto start = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - start < 4s;) {
      pqxx::nontransaction tx{connection};
      for (const auto& row :
           tx.exec("SELECT pid, query_start::text FROM pg_stat_activity WHERE application_name = 'penstock' AND query LIKE '%" +
                   schema_.name() + "%'")) {
        queries[row[0].as<int>()].insert(row[1].as<std::string>());
      }
      std::this_thread::sleep_for(1ms);
    }
    std::size_t statements = 0;
    for (const auto& [pid, starts] : queries) {
      statements += starts.size() - 1;
    }
    fewest = std::min(fewest, statements);
  }
  RecordProperty("statements_in_4_s", static_cast<int>(fewest));
  EXPECT_GT(fewest, 0U);
  EXPECT_LE(fewest, 4U * 6U) << "in 4 s: each of 3 cursors looks once a second and renews its lease of 4 s";
}

}  // namespace
}  // namespace penstock
