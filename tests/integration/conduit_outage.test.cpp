// SPDX-License-Identifier: Apache-2.0
// The truth of outcomes while the broker is killed and comes back. Stops a server that others use, so it runs alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "penstock/conduit.hpp"
#include "penstock/uuid.hpp"
#include "support/kafka.hpp"
#include "support/services.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;
using SteadyClock = std::chrono::steady_clock;

Event event(const std::string& key, int number) {
  return {.id = uuid7(), .source = "/test", .type = "test.counted.v1", .key = key, .data = std::to_string(number)};
}

/// The broker, taken away and given back: it is there again whatever a test does.
class Broker {
 public:
  Broker() = default;
  ~Broker() {
    if (!up_) restart();
  }
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;
  void kill() {
    up_ = false;
    support::services("kill", "kafka");
  }
  void restart() {
    support::services("restart", "kafka");
    up_ = true;
  }

 private:
  bool up_ = true;
};

class ConduitOutage : public ::testing::Test {
 protected:
  ConduitOutage() { conduit_.declare({.name = topic_, .partitions = 3}); }
  ~ConduitOutage() override { support::delete_topic(servers_, topic_); }

  std::string servers_ = support::address("PENSTOCK_KAFKA");
  std::string topic_ = "outage-" + uuid7();
  Conduit conduit_{{.bootstrap_servers = servers_, .properties = {{"session.timeout.ms", "6000"}}}};
};

TEST_F(ConduitOutage, OutcomesTellTheTruthAcrossAKilledBroker) {
  Broker broker;
  const auto publisher = conduit_.channel(topic_).publisher;
  constexpr std::size_t kKeys = 6;
  constexpr std::size_t kBatch = 20;
  int number = 0;
  struct Call {
    std::vector<Event> events;
    std::future<Outcomes> outcomes;
  };
  std::vector<Call> calls;
  const auto submit = [&](int count, std::chrono::milliseconds timeout) {
    for (int i = 0; i < count; ++i) {
      std::vector<Event> events;
      for (std::size_t k = 0; k < kBatch; ++k) events.push_back(event("key-" + std::to_string(k % kKeys), number++));
      auto outcomes = publisher->submit(events, timeout);
      calls.push_back({std::move(events), std::move(outcomes)});
    }
  };
  submit(30, 60s);
  ASSERT_EQ(calls.front().outcomes.wait_for(60s), std::future_status::ready);
  submit(30, 2s);
  broker.kill();  // with calls on their way
  submit(10, 1s);
  // These run out of time while it is away.
  for (std::size_t i = calls.size() - 10; i < calls.size(); ++i) {
    ASSERT_EQ(calls[i].outcomes.wait_for(60s), std::future_status::ready);
  }
  broker.restart();
  submit(10, 60s);

  std::map<std::string, Status> last;
  std::vector<Event> open;
  for (Call& call : calls) {
    ASSERT_EQ(call.outcomes.wait_for(120s), std::future_status::ready) << "every event has its outcome";
    const Outcomes outcomes = call.outcomes.get();
    ASSERT_EQ(outcomes.size(), call.events.size());
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      EXPECT_NE(outcomes[i].status, Status::rejected) << outcomes[i].error;
      last[call.events[i].id] = outcomes[i].status;
      if (!outcomes[i].confirmed()) open.push_back(call.events[i]);
    }
  }
  EXPECT_FALSE(open.empty()) << "nothing was published while the broker was away";
  const std::size_t repeated = open.size();
  for (int round = 0; round < 10 && !open.empty(); ++round) {
    const Outcomes outcomes = publisher->publish(open, 60s);
    std::vector<Event> again;
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (!outcomes[i].confirmed()) again.push_back(open[i]);
    }
    open = std::move(again);
  }
  EXPECT_TRUE(open.empty()) << "the same publisher comes back by itself";

  std::map<std::string, std::vector<int>> positions;  // id → where its copies are, in the order they were stored per partition
  std::map<std::string, int> order_of_key;
  std::size_t copies = 0;
  for (const auto& message : support::read_all(servers_, topic_, 3)) {
    const Event stored = decode(message.wire, Binding::kafka);
    auto& seen = positions[stored.id];
    ++copies;
    // The first copies of a key are in the order they were submitted in.
    if (seen.empty()) {
      const int at = std::stoi(*stored.data);
      const auto [highest, first] = order_of_key.try_emplace(stored.key, at);
      EXPECT_TRUE(first || at > highest->second) << stored.key << ": " << at << " after " << highest->second;
      highest->second = at;
    }
    seen.push_back(static_cast<int>(message.offset));
  }
  for (const auto& [id, status] : last) EXPECT_TRUE(positions.contains(id)) << id << " is lost";
  EXPECT_EQ(positions.size(), static_cast<std::size_t>(number));
  RecordProperty("events", number);
  RecordProperty("repeated", static_cast<int>(repeated));
  RecordProperty("copies", static_cast<int>(copies));
}

TEST_F(ConduitOutage, WhatWasAcknowledgedBeforeStaysSettledAndTheRestComes) {
  Broker broker;
  const auto publisher = conduit_.channel(topic_).publisher;
  std::vector<Event> events;
  for (int i = 0; i < 60; ++i) events.push_back(event("key-" + std::to_string(i % 6), i));
  for (const Outcome& outcome : publisher->publish(events, 60s)) ASSERT_TRUE(outcome.confirmed()) << outcome.error;

  auto source = conduit_.source(topic_);
  source->open("group-" + uuid7(), nullptr);
  std::map<std::string, int> handled;
  const auto until = [&](std::size_t wanted) {
    const auto deadline = SteadyClock::now() + 120s;
    while (handled.size() < wanted && SteadyClock::now() < deadline) {
      for (const Message& message : source->poll(10, 200ms)) {
        ++handled[message.id()];
        source->ack(message);
      }
    }
  };
  until(20);
  broker.kill();
  EXPECT_NO_THROW(static_cast<void>(source->poll(1, 300ms)));
  broker.restart();
  until(events.size());
  EXPECT_EQ(handled.size(), events.size());
  source->close(10s);
}

TEST_F(ConduitOutage, ASourceWhoseTopicIsDeletedClosesInTime) {
  std::vector<Event> events;
  for (int i = 0; i < 30; ++i) events.push_back(event("key-" + std::to_string(i % 6), i));
  for (const Outcome& outcome : conduit_.channel(topic_).publisher->publish(events, 60s)) {
    ASSERT_TRUE(outcome.confirmed()) << outcome.error;
  }
  auto source = conduit_.source(topic_);
  source->open("group-" + uuid7(), nullptr);
  const auto deadline = SteadyClock::now() + 120s;
  for (std::size_t handled = 0; handled < events.size() && SteadyClock::now() < deadline;) {
    for (const Message& message : source->poll(10, 200ms)) {
      ++handled;
      source->ack(message);
    }
  }
  support::delete_topic(servers_, topic_);
  for (int i = 0; i < 10; ++i) static_cast<void>(source->poll(10, 200ms));  // it learns of it
  const auto start = SteadyClock::now();
  source->close(3s);
  EXPECT_LT(SteadyClock::now() - start, 15s) << "librdkafka by itself never comes back";
}

}  // namespace
}  // namespace penstock
