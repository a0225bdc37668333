// SPDX-License-Identifier: Apache-2.0
// A relay that is killed between any two of its steps, on each broker. The steps are found by decorators around log and
// publisher; the broker is read by clients that know nothing of penstock. PENSTOCK_FAILPOINT_KILLS: kills at each point.
#include <gtest/gtest.h>
#include <nats/nats.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/beacon.hpp"
#include "penstock/conduit.hpp"
#include "penstock/lane.hpp"
#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "support/kafka.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"
#include "support/raw_amqp.hpp"
#include "support/services.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using support::address;
using test::eventually;
using test::Journal;
using test::postgres_url;
using test::Process;
using test::Schema;

constexpr int kKeys = 10;

/// Where this process ends itself, and at the how manyth time it comes there.
struct FailPoint {
  std::string at{};
  int passes = 0;
  std::atomic<int> passed{0};

  void hit(const char* here) {
    if (at == here && ++passed == passes) {
      ::kill(::getpid(), SIGKILL);
    }
  }
};

class FailingCursor final : public EventLog::Cursor {
 public:
  FailingCursor(std::unique_ptr<Cursor> cursor, FailPoint& point) : cursor_{std::move(cursor)}, point_{point} {}

  bool acquire() override {
    settled_ = 0;
    unwritten_ = false;
    return cursor_->acquire();
  }
  std::vector<EventLog::Entry> read(std::size_t max) override {
    auto entries = cursor_->read(max);
    if (!entries.empty()) {
      point_.hit("read");
    }
    return entries;
  }
  void checkpoint(std::uint64_t sequence) override {
    if (std::exchange(settled_, sequence) != sequence) {
      unwritten_ = true;
      point_.hit("confirmed");
    }
    const auto before = std::chrono::steady_clock::now();
    cursor_->checkpoint(sequence);
    // What asks the server takes its time; what only remembers does not.
    if (std::chrono::steady_clock::now() - before > 100us) {
      point_.hit(std::exchange(unwritten_, false) ? "checkpoint" : "renewal");
    }
  }
  void bury(const EventLog::Entry& entry, const std::string& channel, const std::string& error, int attempts,
            bool holds) override {
    cursor_->bury(entry, channel, error, attempts, holds);
  }
  void park(std::span<const EventLog::Parking> entries, const std::string& channel) override {
    cursor_->park(entries, channel);
  }
  std::vector<EventLog::HeldKey> held_keys() override { return cursor_->held_keys(); }
  std::vector<std::string> siblings() override { return cursor_->siblings(); }
  EventLog::Backlog backlog() override { return cursor_->backlog(); }
  void wait(std::chrono::milliseconds most, std::stop_token stop) override { cursor_->wait(most, std::move(stop)); }
  void release() noexcept override { cursor_->release(); }

 private:
  std::unique_ptr<Cursor> cursor_;
  FailPoint& point_;
  std::uint64_t settled_ = 0;
  bool unwritten_ = false;
};

class FailingLog final : public EventLog {
 public:
  FailingLog(EventLog& log, FailPoint& point) : log_{log}, point_{point} {}
  std::unique_ptr<Cursor> cursor(const std::string& name, const std::vector<std::string>& patterns) override {
    return std::make_unique<FailingCursor>(log_.cursor(name, patterns), point_);
  }

 private:
  EventLog& log_;
  FailPoint& point_;
};

class FailingPublisher final : public Publisher {
 public:
  FailingPublisher(std::shared_ptr<Publisher> publisher, FailPoint& point) : publisher_{std::move(publisher)}, point_{point} {}
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override {
    point_.hit("publish");
    auto outcomes = publisher_->submit(events, timeout);
    point_.hit("confirm");
    return outcomes;
  }

 private:
  std::shared_ptr<Publisher> publisher_;
  FailPoint& point_;
};

/// A broker, with its clients of both kinds. What uses one runs in a process of its own: this one must keep to one thread.
struct Broker {
  std::string name{};
  std::function<void(const std::string& channel)> declare{};
  /// Runs `work` with the channel while its client lives.
  std::function<void(const std::string& channel, const std::function<void(Channel)>& work)> with{};
  /// The payloads, in the order in which they are stored, of a key at least; empties or removes the channel.
  std::function<std::vector<std::string>(const std::string& channel)> take_all{};
};
void PrintTo(const Broker& broker, std::ostream* out) { *out << broker.name; }

Broker rabbitmq() {
  return {"RabbitMQ",
          [](const std::string& channel) { Lane{{.url = address("PENSTOCK_AMQP_URL")}}.declare(QueueSpec{.name = channel}); },
          [](const std::string& channel, const std::function<void(Channel)>& work) {
            Lane lane{{.url = address("PENSTOCK_AMQP_URL")}};
            work(lane.channel(channel));
          },
          [](const std::string& channel) {
            support::RawAmqp client{address("PENSTOCK_AMQP_URL")};
            std::vector<std::string> payloads;
            while (client.get(
                channel, [&](const amqp_message_t& message) { payloads.push_back(support::RawAmqp::text(message.body)); })) {
            }
            client.remove(channel);
            return payloads;
          }};
}

Broker kafka() {
  static constexpr int kPartitions = 4;
  return {"Kafka",
          [](const std::string& channel) {
            Conduit{{.bootstrap_servers = address("PENSTOCK_KAFKA")}}.declare({.name = channel, .partitions = kPartitions});
          },
          [](const std::string& channel, const std::function<void(Channel)>& work) {
            Conduit conduit{{.bootstrap_servers = address("PENSTOCK_KAFKA")}};
            work(conduit.channel(channel));
          },
          [](const std::string& channel) {
            std::vector<std::string> payloads;
            for (auto& stored : support::read_all(address("PENSTOCK_KAFKA"), channel, kPartitions)) {
              payloads.push_back(stored.wire.payload.value_or(""));
            }
            support::delete_topic(address("PENSTOCK_KAFKA"), channel);
            return payloads;
          }};
}

Broker nats() {
  return {"NATS", [](const std::string& channel) { Beacon{{.url = address("PENSTOCK_NATS_URL")}}.declare({.name = channel}); },
          [](const std::string& channel, const std::function<void(Channel)>& work) {
            Beacon beacon{{.url = address("PENSTOCK_NATS_URL")}};
            work(beacon.channel(channel));
          },
          [](const std::string& channel) {
            const auto expect = [](natsStatus status) {
              if (status != NATS_OK) {
                throw std::runtime_error{std::string{"nats.c: "} + natsStatus_GetText(status)};
              }
            };
            natsConnection* connection = nullptr;
            jsCtx* js = nullptr;
            expect(natsConnection_ConnectTo(&connection, address("PENSTOCK_NATS_URL").c_str()));
            expect(natsConnection_JetStream(&js, connection, nullptr));
            jsStreamInfo* info = nullptr;
            expect(js_GetStreamInfo(&info, js, channel.c_str(), nullptr, nullptr));
            std::vector<std::string> payloads;
            for (auto sequence = info->State.FirstSeq; sequence <= info->State.LastSeq; ++sequence) {
              natsMsg* message = nullptr;
              expect(js_GetMsg(&message, js, channel.c_str(), sequence, nullptr, nullptr));
              payloads.emplace_back(natsMsg_GetData(message), static_cast<std::size_t>(natsMsg_GetDataLength(message)));
              natsMsg_Destroy(message);
            }
            jsStreamInfo_Destroy(info);
            expect(js_DeleteStream(js, channel.c_str(), nullptr, nullptr));
            jsCtx_Destroy(js);
            natsConnection_Destroy(connection);
            return payloads;
          }};
}

int kills() {
  const char* value = std::getenv("PENSTOCK_FAILPOINT_KILLS");
  return value == nullptr ? 3 : std::stoi(value);
}

class RelayFailPoints : public ::testing::TestWithParam<Broker> {
 protected:
  Schema schema_{"failpoints"};
  std::string channel_ = test::unique_name("failpoints");
  Journal journal_;
  int next_ = 0;

  void append(int count) {
    Outbox outbox{postgres_url(), {.schema = schema_.name(), .source = "/shop"}};
    pqxx::connection connection{postgres_url()};
    std::vector<Event> events;
    for (int i = 0; i < count; ++i, ++next_) {
      const std::string key = "k" + std::to_string(next_ % kKeys);
      events.push_back({.id = std::to_string(next_),
                        .type = "t",
                        .key = key,
                        .data = key + " " + std::to_string(next_),
                        .content_type = "text/plain"});
    }
    pqxx::work tx{connection};
    outbox.append(tx, events);
    tx.commit();
  }
  /// Runs a relay until it kills itself, or until `enough`.
  void run_relay(const std::string& at, int passes, const std::function<bool(const RelayStatus::PerChannel&)>& enough) {
    FailPoint point{.at = at, .passes = passes};
    GetParam().with(channel_, [&](const Channel& channel) {
      Outbox outbox{postgres_url(), {.schema = schema_.name(), .source = "/shop", .lease = 300ms}};
      FailingLog log{outbox, point};
      auto publisher = std::make_shared<FailingPublisher>(channel.publisher, point);
      Relay relay{log, {{"*", {channel.backend, channel.name, publisher}}}, {.batch = 7, .in_flight = 30, .idle_wait = 20ms}};
      std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
      if (!eventually([&] { return enough(relay.status().channels.at(0)); }, 30s)) {
        throw std::runtime_error{"a relay took too long at " + at + ": " + relay.status().channels.at(0).last_error};
      }
    });
  }
};

TEST_P(RelayFailPoints, Rule3_KilledAtAnyPointNothingIsLostAndKeysStayInOrder) {
  EXPECT_EQ(Process([&] { GetParam().declare(channel_); }).wait(), 0);
  std::mt19937 random{20'261'122};
  for (const std::string at : {"read", "publish", "confirm", "confirmed", "checkpoint", "renewal"}) {
    for (int kill = 0; kill < kills(); ++kill) {
      const int passes = 1 + static_cast<int>(random() % (at == "checkpoint" ? 1 : at == "renewal" ? 2 : 4));
      append(60);
      Process relay{[&] { run_relay(at, passes, [](const auto&) { return false; }); }};
      const int status = relay.wait();
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "at " << at << " for the time number " << passes;
    }
  }
  append(60);
  Process last{[&] {
    run_relay("", 0, [&](const auto& status) { return status.published > 0 && status.backlog && status.backlog->events == 0; });
  }};
  ASSERT_EQ(last.wait(), 0);

  Process reader{[&] {
    for (const std::string& payload : GetParam().take_all(channel_)) {
      journal_.write(payload + "\n");
    }
  }};
  ASSERT_EQ(reader.wait(), 0);
  std::map<std::string, int> next;
  int arrived = 0;
  const auto stored = journal_.lines();
  for (const std::string& line : stored) {
    std::istringstream in{line};
    std::string key;
    int id = -1;
    ASSERT_TRUE(in >> key >> id) << line;
    const auto& [at, inserted] = next.try_emplace(key, id % kKeys);
    EXPECT_LE(id, at->second) << "key " << key << ": before its predecessor";
    if (id == at->second) {
      at->second += kKeys;
      ++arrived;
    }
  }
  EXPECT_EQ(arrived, next_) << "of " << stored.size() << " stored";
  RecordProperty("appended", next_);
  RecordProperty("stored", static_cast<int>(stored.size()));
}

INSTANTIATE_TEST_SUITE_P(Brokers, RelayFailPoints, ::testing::Values(rabbitmq(), kafka(), nats()),
                         [](const auto& broker) { return broker.param.name; });

}  // namespace
}  // namespace penstock
