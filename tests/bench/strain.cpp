// SPDX-License-Identifier: Apache-2.0
// What others do to the database while a relay works: transactions that stay open, one that appends millions, a horizon that
// does not move, a log shared with other destinations.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr std::size_t kWriters = 200;
constexpr int kDestinations = 3;
constexpr int kEventsPerSecond = 800;

/// Rate and peak of memory of a process that drains what is there.
Samples drained(const Config& config, const Schema& schema, std::size_t events) {
  schema.execute("CHECKPOINT");
  const Json result = run_child(config, "--child-drain", schema, events);
  check_count("events in the sink", events, result["events"].get<std::size_t>());
  return {{result["rate"]}, {result["peak_mb"]}};
}

/// A transaction that has appended an event and stays open.
class OpenWriter {
 public:
  OpenWriter(Outbox& outbox, const std::string& url, std::size_t number)
      : connection_{std::make_unique<pqxx::connection>(url)}, tx_{std::make_unique<pqxx::work>(*connection_)} {
    outbox.append(*tx_, Event{.type = kType, .key = "late-" + std::to_string(number), .data = payload_of(number)});
  }
  void commit() { tx_->commit(); }

 private:
  std::unique_ptr<pqxx::connection> connection_;
  std::unique_ptr<pqxx::work> tx_;
};

/// A backlog drained while so many transactions are open that have appended; and what they appended, when they commit.
Samples beside_writers(const Config& config, Original& original, std::size_t writers, std::size_t events, int times) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  Outbox outbox{config.postgres, {.schema = schema.name(), .source = kSource}};
  std::vector<OpenWriter> open;
  for (std::size_t i = 0; i < writers; ++i) open.emplace_back(outbox, config.postgres, i);
  Samples last;
  for (int i = 0; i < times; ++i) {
    refill_outbox(original.get(), schema, {.events = events, .keys = kKeys});
    last = drained(config, schema, events);
  }
  for (OpenWriter& writer : open) writer.commit();
  if (writers > 0) drained(config, schema, writers);
  return last;
}

Samples from_one_transaction(const Config& config, Original& original, std::size_t events, bool one) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  refill_outbox(original.get(), schema, {.events = events, .keys = kKeys, .types = 1, .one_transaction = one});
  return drained(config, schema, events);
}

/// A log whose events go to several destinations, each to one of them, or all to one.
Samples to_destinations(const Config& config, Original& original, std::size_t events, int destinations) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  refill_outbox(original.get(), schema, {.events = events, .keys = kKeys, .types = kDestinations, .one_transaction = false});
  schema.execute("CHECKPOINT");
  Outbox outbox{config.postgres, {.schema = schema.name(), .source = kSource}};
  std::vector<std::shared_ptr<InstantSink>> sinks;
  std::vector<Route> routes;
  for (int i = 0; i < destinations; ++i) {
    sinks.push_back(std::make_shared<InstantSink>());
    routes.push_back({.pattern = destinations == 1 ? "*" : kType + "." + std::to_string(i),
                      .channel = {.backend = "bench", .name = "sink-" + std::to_string(i), .publisher = sinks.back()}});
  }
  const auto arrived = [&] {
    std::size_t sum = 0;
    for (const auto& sink : sinks) sum += sink->count();
    return sum;
  };
  Relay relay{outbox, std::move(routes)};
  const std::jthread thread{[&](const std::stop_token& stop) { relay.run(stop); }};
  const Stopwatch watch;
  while (arrived() < events) {
    if (watch.seconds() > 300) throw std::runtime_error{"the relay stands still at " + std::to_string(arrived())};
    std::this_thread::sleep_for(1ms);
  }
  double first = sinks.front()->first();
  double last = sinks.front()->last();
  for (const auto& sink : sinks) {
    first = std::min(first, sink->first());
    last = std::max(last, sink->last());
  }
  check_count("events in the sinks", events, arrived());
  return rate(events, last - first);
}

/// Steady traffic while an idle transaction keeps the database from cleaning up anything.
Samples pinned(const Config& config, std::chrono::seconds duration) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  Outbox outbox{config.postgres, {.schema = schema.name(), .source = kSource}};
  const auto sink = std::make_shared<InstantSink>();
  std::mutex mutex;
  std::map<std::string, SteadyClock::time_point> committed;  // by id, until it arrives
  std::vector<double> early;
  std::vector<double> late;
  const auto start = SteadyClock::now();
  const auto timed = std::make_shared<TimedPublisher>(sink, [&](const Event& event, SteadyClock::time_point at) {
    const std::lock_guard lock{mutex};
    const auto found = committed.find(event.id);
    if (found == committed.end()) return;  // it was quicker than the answer to COMMIT
    const double ms = std::chrono::duration<double, std::milli>(at - found->second).count();
    if (found->second - start < duration / 10) early.push_back(ms);
    if (found->second - start > duration - duration / 10) late.push_back(ms);
    committed.erase(found);
  });
  const auto dead = [&](const std::string& tables) {
    pqxx::connection connection{config.postgres};
    pqxx::nontransaction tx{connection};
    tx.exec("SELECT pg_stat_clear_snapshot()");
    return tx
        .exec("SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_all_tables WHERE schemaname = '" + schema.name() + "' AND " +
              tables)[0][0]
        .as<double>();
  };

  pqxx::connection idle{config.postgres};
  pqxx::work horizon{idle};
  horizon.exec("SELECT pg_current_xact_id()");
  std::vector<double> backlogs;
  std::size_t appended = 0;
  {
    const RunningRelay relay{outbox, {.backend = "bench", .name = "sink", .publisher = timed}};
    pqxx::connection connection{config.postgres};
    for (auto next = start; SteadyClock::now() - start < duration;
         next += std::chrono::microseconds{1'000'000 / kEventsPerSecond}) {
      std::this_thread::sleep_until(next);
      pqxx::work tx{connection};
      const std::string id = outbox.append(tx, Event{.type = kType, .key = key_of(appended), .data = payload_of(appended)});
      tx.commit();
      {
        const std::lock_guard lock{mutex};
        committed.emplace(id, SteadyClock::now());
      }
      ++appended;
      if (appended % 80 == 0) backlogs.push_back(static_cast<double>(appended - std::min(appended, sink->count())));
      if (appended % (60UL * kEventsPerSecond) == 0) std::cerr << "pinned: " << appended << " events" << std::endl;
    }
    const Stopwatch patience;
    while (sink->count() < appended && patience.seconds() < 30) std::this_thread::sleep_for(1ms);
  }
  check_count("events in the sink", appended, sink->count());
  std::this_thread::sleep_for(2s);  // for the statistics
  const double events = dead("relname LIKE 'outbox%'");
  const double state = dead("relname LIKE 'cursor%'");
  horizon.commit();
  return {backlogs, backlogs, {events}, {state}, early, late};
}

Goal at_most(double value) { return {Goal::Kind::ours_at_most, value}; }

}  // namespace

std::vector<Work> strain_works(const Config& config) {
  constexpr double kEvents = 200'000;
  constexpr double kLarge = 5'000'000;
  const auto original = std::make_shared<Original>(config.postgres, config.events(100'000, 1));
  const Json settings{
      {"payload_bytes", kPayloadBytes}, {"keys", kKeys}, {"events", config.events(kEvents, 1)}, {"fsync", "on"}};
  const std::vector<Metric> rate_and_memory{{.name = "rate", .unit = "events/s", .goal = Goal{Goal::Kind::ratio_within, 0.10}},
                                            {.name = "rss", .unit = "MB", .goal = at_most(64)}};
  std::vector<Work> works;

  Work writers{.name = "strain.writers", .metrics = rate_and_memory, .settings = settings};
  writers.settings["writers"] = kWriters;
  writers.settings["reference"] = "the same without open transactions";
  writers.ours = [=](double scale) { return beside_writers(config, *original, kWriters, config.events(kEvents, scale), 1); };
  writers.reference = [=](double scale) { return beside_writers(config, *original, 0, config.events(kEvents, scale), 1); };
  works.push_back(std::move(writers));

  // An hour of 800 events/s is some three million that came and went while it was open.
  Work open{.name = "strain.open_writer", .metrics = rate_and_memory, .settings = settings};
  constexpr int kTimes = 15;
  open.settings["writers"] = 1;
  open.settings["events_while_open"] = kTimes * config.events(kEvents, 1);
  open.settings["reference"] = "the same without an open transaction";
  open.ours = [=](double scale) { return beside_writers(config, *original, 1, config.events(kEvents, scale), kTimes); };
  open.reference = [=](double scale) { return beside_writers(config, *original, 0, config.events(kEvents, scale), kTimes); };
  open.most_runs = 1;
  open.only_by_name = true;
  works.push_back(std::move(open));

  Work large{.name = "strain.one_transaction", .metrics = rate_and_memory, .settings = settings};
  large.settings["events"] = config.events(kLarge, 1);
  large.settings["reference"] = std::to_string(config.events(kEvents, 1)) + " events, 1000 in a transaction";
  large.ours = [=](double scale) { return from_one_transaction(config, *original, config.events(kLarge, scale), true); };
  large.reference = [=](double scale) { return from_one_transaction(config, *original, config.events(kEvents, scale), false); };
  large.most_runs = 1;
  large.only_by_name = true;
  works.push_back(std::move(large));

  Work destinations{.name = "strain.destinations",
                    .metrics = {{.unit = "events/s", .goal = Goal{Goal::Kind::ratio_at_least, 1 / 1.3}}},
                    .settings = settings};
  destinations.settings["destinations"] = kDestinations;
  destinations.settings["reference"] = "the same events to one destination";
  destinations.ours = [=](double scale) {
    return to_destinations(config, *original, config.events(kEvents, scale), kDestinations);
  };
  destinations.reference = [=](double scale) { return to_destinations(config, *original, config.events(kEvents, scale), 1); };
  works.push_back(std::move(destinations));

  Work horizon{.name = "strain.pinned",
               .metrics = {{.name = "backlog.p99", .unit = "events", .quantile = 0.99, .goal = at_most(10)},
                           {.name = "backlog.max", .unit = "events", .quantile = 1, .goal = at_most(10)},
                           {.name = "dead_events", .unit = "rows", .goal = at_most(0)},
                           {.name = "dead_state", .unit = "rows", .goal = at_most(100)},
                           {.name = "latency.first_tenth", .unit = "ms"},
                           {.name = "latency.last_tenth", .unit = "ms"}},
               .settings = {{"payload_bytes", kPayloadBytes},
                            {"events_per_second", kEventsPerSecond},
                            {"seconds", static_cast<int>(600 * config.size)},
                            {"fsync", "on"}}};
  horizon.ours = [=](double scale) {
    return pinned(config, std::chrono::seconds{std::max(2, static_cast<int>(600 * config.size * scale))});
  };
  horizon.most_runs = 1;
  horizon.only_by_name = true;
  works.push_back(std::move(horizon));
  return works;
}

}  // namespace penstock::bench
