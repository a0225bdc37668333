// SPDX-License-Identifier: Apache-2.0
// What a long backlog costs: the rate, the first event and the memory of a process that does nothing but drain it.
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

/// "VmHWM" or "VmRSS" of this process, in MB (2^20).
double memory_mb(const std::string& field) {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stod(line.substr(field.size() + 1)) / 1'024;
  }
  throw std::runtime_error{"/proc/self/status has no " + field};
}

Json in_child(const Config& config, const Schema& schema, std::size_t events) {
  const std::string command =
      "'" + config.self + "' --child '" + config.postgres + "' " + schema.name() + " " + std::to_string(events);
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error{"cannot start " + config.self};
  std::string printed;
  std::array<char, 4'096> chunk{};
  for (std::size_t n = 0; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) printed.append(chunk.data(), n);
  if (::pclose(pipe) != 0) throw std::runtime_error{"the draining process failed"};
  return Json::parse(printed);
}

/// A relay that has worked for a while, and written checkpoints, before it goes away.
void work_for_a_while(const Schema& original, const Schema& schema) {
  Outbox outbox{schema.url(), {.schema = schema.name(), .source = kSource}};
  const auto sink = std::make_shared<InstantSink>();
  RunningRelay relay{outbox, {.backend = "bench", .name = "sink", .publisher = sink}};
  for (std::size_t i = 1; i <= 3; ++i) {
    refill_outbox(original, schema, 1'000, kKeys);
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
    refill_outbox(original, schema, backlog, kKeys);
    schema.execute("CHECKPOINT");
    const Json result = in_child(config, schema, backlog);
    check_count("events in the sink", backlog, result["events"].get<std::size_t>());
    rates.push_back(result["rate"]);
    firsts.push_back(result["first_ms"]);
    peaks.push_back(result["peak_mb"]);
  }
  return {{quantile(rates, 0.5)}, {quantile(firsts, 0.5)}, {quantile(peaks, 1)}};
}

}  // namespace

int drain_child(const std::string& url, const std::string& schema, std::size_t events) {
  Outbox outbox{url, {.schema = schema, .source = kSource}};
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
  const auto original = std::make_shared<std::unique_ptr<Schema>>();
  const auto source = [=]() -> const Schema& {
    if (!*original) {
      *original = std::make_unique<Schema>(config.postgres, Schema::Kind::penstock);
      fill_outbox(**original, config.events(100'000, 1));
    }
    return **original;
  };
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
    result.ours = [=](double scale) { return drain_backlog(config, source(), config.events(backlog, scale), 1, away); };
    result.reference = [=](double scale) {
      return drain_backlog(config, source(), config.events(kShort, 1), scale < 1 ? 1 : kShortTimes);
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
