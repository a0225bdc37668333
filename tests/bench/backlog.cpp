// SPDX-License-Identifier: Apache-2.0
// What a long backlog costs: the rate, the first event and the memory of a process that does nothing but drain it.
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

/// A relay that has worked for a while, and written checkpoints, before it goes away.
void work_for_a_while(const Schema& original, const Schema& schema) {
  Outbox outbox{schema.url(), {.schema = schema.name(), .source = kSource}};
  const auto sink = std::make_shared<InstantSink>();
  RunningRelay relay{outbox, {.backend = "bench", .name = "sink", .publisher = sink}};
  for (std::size_t i = 1; i <= 3; ++i) {
    refill_outbox(original, schema, {.events = 1'000, .keys = kKeys});
    relay.await_published(i * 1'000);
    std::this_thread::sleep_for(std::chrono::milliseconds{300});
  }
}

/// Rate, first event, peak of memory.
Samples drain_backlog(const Config& config, const Schema& original, std::size_t backlog, int times, bool away = false) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  if (away) work_for_a_while(original, schema);
  std::vector<double> rates;
  std::vector<double> firsts;
  std::vector<double> peaks;
  for (int i = 0; i < times; ++i) {
    refill_outbox(original, schema, {.events = backlog, .keys = kKeys});
    schema.execute("CHECKPOINT");
    const Json result = run_child(config, "--child-drain", schema, backlog);
    check_count("events in the sink", backlog, result["events"].get<std::size_t>());
    rates.push_back(result["rate"]);
    firsts.push_back(result["first_ms"]);
    peaks.push_back(result["peak_mb"]);
  }
  return {{quantile(rates, 0.5)}, {quantile(firsts, 0.5)}, {quantile(peaks, 1)}};
}

}  // namespace

int drain_child(const Schema& schema, std::size_t events) {
  Outbox outbox{schema.url(), {.schema = schema.name(), .source = kSource}};
  const auto sink = std::make_shared<InstantSink>();
  const double start = steady_seconds();
  {
    RunningRelay relay{outbox, {.backend = "bench", .name = "sink", .publisher = sink}};
    relay.await_published(events);
  }
  // From one batch to the next: what it takes to connect, to own the cursor and to find the first event is told apart.
  const double counted = static_cast<double>(sink->count() - sink->first_batch());
  std::cout << Json{{"events", sink->count()},
                    {"rate", counted / (sink->last() - sink->first())},
                    {"first_ms", (sink->first() - start) * 1'000},
                    {"peak_mb", memory_mb("VmHWM")},
                    {"rss_mb", memory_mb("VmRSS")}}
            << std::endl;
  return 0;
}

std::vector<Work> backlog_works(const Config& config) {
  constexpr double kLong = 1'000'000;
  constexpr double kLarge = 10'000'000;
  constexpr double kShort = 10'000;
  constexpr int kShortTimes = 8;
  const auto original = std::make_shared<Original>(config.postgres, config.events(100'000, 1));
  const Work work{.name = "backlog",
                  .metrics = {{.name = "rate", .unit = "events/s", .goal = Goal{Goal::Kind::ratio_within, 0.10}},
                              {.name = "first_event", .unit = "ms", .goal = Goal{Goal::Kind::ours_at_most, 100}},
                              {.name = "rss", .unit = "MB", .goal = Goal{Goal::Kind::ours_at_most, 64}}},
                  .settings = {{"payload_bytes", kPayloadBytes},
                               {"keys", kKeys},
                               {"reference", "the same with a backlog of " + std::to_string(config.events(kShort, 1))},
                               {"sink", "confirms at once"},
                               {"fsync", "on"}},
                  .most_runs = 3};
  const auto with = [&](const std::string& name, double backlog, bool away) {
    Work result = work;
    result.name = name;
    result.settings["backlog"] = config.events(backlog, 1);
    result.ours = [=](double scale) { return drain_backlog(config, original->get(), config.events(backlog, scale), 1, away); };
    result.reference = [=](double scale) {
      return drain_backlog(config, original->get(), config.events(kShort, 1), scale < 1 ? 1 : kShortTimes);
    };
    return result;
  };
  Work away = with("backlog.away", kLong, true);
  away.settings["cursor"] = "worked before, and was away while the backlog came";
  Work large = with("backlog.large", kLarge, true);
  large.settings["cursor"] = away.settings["cursor"];
  large.most_runs = 1;
  large.only_by_name = true;
  return {with("backlog", kLong, false), std::move(away), std::move(large)};
}

}  // namespace penstock::bench
