// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

// How the benchmarks measure: docs/benchmarks.md.
namespace penstock::bench {

using Json = nlohmann::ordered_json;

/// What one part of one run gave: for each metric of the work its values. A rate is one value, latencies are many.
using Samples = std::vector<std::vector<double>>;

struct Goal {
  enum class Kind : std::uint8_t { ratio_at_least, ratio_within, ours_at_most, ours_at_least };
  Kind kind = Kind::ratio_at_least;
  double value = 0;
};

struct Metric {
  std::string name{};  ///< appended to the work's; may be empty
  std::string unit{};
  double quantile = 0.5;  ///< of the values of one part
  std::optional<Goal> goal{};
  Json settings = Json::object();  ///< beside the work's
};

/// One work, done by us and by the reference. A part does `scale` of the work (1: all, 0.1: to warm up), checks at the sink
/// that it was done, and throws when it was not.
struct Work {
  std::string name{};
  std::vector<Metric> metrics{};
  Json settings = Json::object();
  std::function<Samples(double scale)> ours{};
  std::function<Samples(double scale)> reference{};  ///< none: our figure stands alone
  int most_runs = 1'000;                             ///< fewer than asked for, where a run is long
  bool only_by_name = false;                         ///< takes many minutes: not done unless it is named itself
};

struct Config {
  std::string postgres{}, kafka{}, amqp{}, nats{};  ///< addresses; empty when that server was not started
  std::string self{};                               ///< this program, to run a part in a process of its own
  double size = 1;                                  ///< factor on the amount of work
  int runs = 5;

  [[nodiscard]] std::size_t events(double full, double scale) const {
    const double count = full * size * scale;
    return count < 10 ? 10 : static_cast<std::size_t>(count);
  }
};

/// Runs a work and gives a row for each of its metrics. With an error instead of figures when a part threw.
std::vector<Json> measure(const Work& work, const Config& config);

/// The table for people.
std::string table(const std::vector<Json>& rows);

/// Of the values, by the nearest rank; 0 of none.
double quantile(std::vector<double> values, double q);

/// The share of the machine's CPU time that is in use now, by whoever: looked at while nothing is measured.
double busy_now();

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Events per second, as the only value of the only metric.
inline Samples rate(std::size_t events, double seconds) { return {{static_cast<double>(events) / seconds}}; }

/// Throws unless the sink holds what it should.
void check_count(const std::string& what, std::size_t expected, std::size_t found);

}  // namespace penstock::bench
