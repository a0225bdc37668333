// SPDX-License-Identifier: Apache-2.0
// From the commit of a transaction with one event to the broker's acknowledgement, while nothing else goes on.
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brokers.hpp"
#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval{50};

double ms(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

/// When the events were acknowledged, by id.
class Arrivals {
 public:
  void add(const std::string& id, Clock::time_point at) {
    const std::lock_guard lock{mutex_};
    times_.emplace(id, at);
    changed_.notify_all();
  }
  Clock::time_point wait(const std::string& id) {
    std::unique_lock lock{mutex_};
    if (!changed_.wait_for(lock, std::chrono::seconds{30}, [&] { return times_.count(id) != 0; })) {
      throw std::runtime_error{"an event was not acknowledged within 30 s"};
    }
    return times_.at(id);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Clock::time_point> times_;
};

/// Samples by metric: signalled twice, hinted twice (for two quantiles each).
Samples ours(const Config& config, const Backend& backend, std::size_t events) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  schema.execute("CREATE TABLE " + schema.table("orders") + " (id bigint PRIMARY KEY, customer text NOT NULL)");
  const std::string insert = "INSERT INTO " + schema.table("orders") + " (id, customer) VALUES ($1, $2)";
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  Arrivals arrivals;
  Channel channel = backend.channel(config, destination.name());
  channel.publisher = std::make_shared<TimedPublisher>(
      channel.publisher, [&](const Event& event, Clock::time_point at) { arrivals.add(event.id, at); });
  Outbox outbox{config.postgres, {.schema = schema.name(), .source = kSource}};
  pqxx::connection connection{config.postgres};
  std::vector<double> signalled;
  std::vector<double> hinted;
  {
    const RunningRelay relay{outbox, std::move(channel)};
    constexpr std::size_t kWarmUp = 4;
    auto next = Clock::now();
    for (std::size_t i = 0; i < events + kWarmUp; ++i) {
      std::this_thread::sleep_until(next);
      pqxx::work tx{connection};
      run(tx, insert, static_cast<std::int64_t>(i), "customer");
      const std::string id = outbox.append(tx, Event{.type = kType, .key = key_of(i), .data = payload_of(i)});
      tx.commit();
      const auto committed = Clock::now();
      const bool signal = i % 2 == 0;
      if (signal) outbox.signal();
      const double latency = ms(arrivals.wait(id) - committed);
      if (i >= kWarmUp) (signal ? signalled : hinted).push_back(latency < 0 ? 0 : latency);
      next = std::max(next, Clock::now() - kInterval) + kInterval;
    }
    events += kWarmUp;
  }
  check_count("messages at " + backend.name, events, broker->stored(destination.name()));
  return {signalled, signalled, hinted, hinted};
}

/// Each publish right after a commit like ours: the disk that the broker waits for is the one that the database has just used.
Samples raw(const Config& config, const Backend& backend, std::size_t events) {
  const Schema schema{config.postgres, Schema::Kind::empty};
  schema.execute("CREATE TABLE " + schema.table("orders") + " (id bigint PRIMARY KEY, customer text NOT NULL)");
  const std::string insert = "INSERT INTO " + schema.table("orders") + " (id, customer) VALUES ($1, $2)";
  pqxx::connection connection{config.postgres};
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  const auto publisher = broker->publisher(destination.name());
  constexpr std::size_t kWarmUp = 4;
  std::vector<double> latencies;
  auto next = Clock::now();
  for (std::size_t i = 0; i < events + kWarmUp; ++i) {
    std::this_thread::sleep_until(next);
    {
      pqxx::work tx{connection};
      run(tx, insert, static_cast<std::int64_t>(i), "customer");
      tx.commit();
    }
    const auto start = Clock::now();
    publisher->publish(i, 1);
    if (i >= kWarmUp) latencies.push_back(ms(Clock::now() - start));
    next = std::max(next, Clock::now() - kInterval) + kInterval;
  }
  check_count("messages at " + backend.name, events + kWarmUp, broker->stored(destination.name()));
  return Samples(4, latencies);
}

}  // namespace

std::vector<Work> latency_works(const Config& config) {
  constexpr double kOurs = 100;
  constexpr double kReference = 50;
  std::vector<Work> works;
  for (const Backend& backend : backends(config)) {
    const Json with_signal{{"wake_up", "Outbox::signal"}};
    const Json without{{"wake_up", "the outbox alone"}};
    Work work{
        .name = "latency." + backend.name,
        .metrics =
            {{.name = "signal.p50",
              .unit = "ms",
              .quantile = 0.5,
              .goal = Goal{Goal::Kind::ours_at_most, 3},
              .settings = with_signal},
             {.name = "signal.p99",
              .unit = "ms",
              .quantile = 0.99,
              .goal = Goal{Goal::Kind::ours_at_most, 15},
              .settings = with_signal},
             {.name = "p50", .unit = "ms", .quantile = 0.5, .goal = Goal{Goal::Kind::ours_at_most, 3}, .settings = without},
             {.name = "p99", .unit = "ms", .quantile = 0.99, .goal = Goal{Goal::Kind::ours_at_most, 15}, .settings = without}},
        .settings = {{"payload_bytes", kPayloadBytes},
                     {"interval_ms", kInterval.count()},
                     {"events_each_run", config.events(kOurs, 1)},
                     {"fsync", "on"}}};
    work.settings.update(backend.settings);
    work.settings["reference"] = backend.client + ", publish to acknowledgement, each right after a commit";
    work.ours = [=](double scale) { return ours(config, backend, config.events(kOurs, scale)); };
    work.reference = [=](double scale) { return raw(config, backend, config.events(kReference, scale)); };
    works.push_back(std::move(work));
  }
  return works;
}

}  // namespace penstock::bench
