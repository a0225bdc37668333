// SPDX-License-Identifier: Apache-2.0
#include "harness.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>

namespace penstock::bench {
namespace {

constexpr std::size_t kParts = 3;
enum Part : std::size_t { kReference, kOurs, kControl };
constexpr std::array<const char*, kParts> kPartNames{"reference", "ours", "reference again"};

/// By part and run.
using Results = std::array<std::vector<Samples>, kParts>;

std::vector<double> per_run(const std::vector<Samples>& runs, std::size_t metric, double q) {
  std::vector<double> values;
  values.reserve(runs.size());
  for (const Samples& run : runs) values.push_back(quantile(run.at(metric), q));
  return values;
}

/// Values that are many in each run are pooled: a p99 needs them all. Of rates, the median of the runs.
double overall(const std::vector<Samples>& runs, std::size_t metric, double q) {
  std::vector<double> pooled;
  bool many = false;
  for (const Samples& run : runs) {
    pooled.insert(pooled.end(), run.at(metric).begin(), run.at(metric).end());
    many = many || run.at(metric).size() > 1;
  }
  return many ? quantile(std::move(pooled), q) : quantile(per_run(runs, metric, q), 0.5);
}

/// Each run is compared with the reference of the same run, so that a machine that slows down slows both.
double paired_ratio(const Results& results, Part part, std::size_t metric, double q) {
  if (results[part].front().at(metric).size() > 1) {
    return overall(results[part], metric, q) / overall(results[kReference], metric, q);
  }
  const auto left = per_run(results[part], metric, q);
  const auto right = per_run(results[kReference], metric, q);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < left.size(); ++i) ratios.push_back(left[i] / right[i]);
  return quantile(std::move(ratios), 0.5);
}

double spread(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double middle = quantile(values, 0.5);
  return middle == 0 ? 0 : (*high - *low) / middle;
}

double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double scale = std::pow(10, 3 - static_cast<int>(std::floor(std::log10(std::fabs(value)))));
  return std::round(value * scale) / scale;
}

Json goal_text(const Metric& metric) {
  if (!metric.goal) return nullptr;
  switch (metric.goal->kind) {
    case Goal::Kind::ratio_at_least: return "ratio at least";
    case Goal::Kind::ratio_within: return "ratio within 1 ±";
    case Goal::Kind::ours_at_most: return "ours at most";
    case Goal::Kind::ours_at_least: return "ours at least";
  }
  return nullptr;
}

Json met(const Metric& metric, double ours, double ratio) {
  if (!metric.goal) return nullptr;
  switch (metric.goal->kind) {
    case Goal::Kind::ratio_at_least: return ratio >= metric.goal->value;
    case Goal::Kind::ratio_within: return std::fabs(ratio - 1) <= metric.goal->value;
    case Goal::Kind::ours_at_most: return ours <= metric.goal->value;
    case Goal::Kind::ours_at_least: return ours >= metric.goal->value;
  }
  return nullptr;
}

Json row(const Work& work, std::size_t index, const Results& results, double busy) {
  const Metric& metric = work.metrics[index];
  const double q = metric.quantile;
  const double ours = overall(results[kOurs], index, q);
  Json row;
  row["work"] = metric.name.empty() ? work.name : work.name + "." + metric.name;
  row["unit"] = metric.unit;
  row["ours"] = rounded(ours);
  double ratio = 0;
  if (work.reference) {
    ratio = paired_ratio(results, kOurs, index, q);
    row["reference"] = rounded(overall(results[kReference], index, q));
    row["ratio"] = rounded(ratio);
    row["control"] = rounded(paired_ratio(results, kControl, index, q));
  } else {
    row["reference"] = row["ratio"] = row["control"] = nullptr;
  }
  row["goal"] = metric.goal ? Json(metric.goal->value) : Json(nullptr);
  row["goal_kind"] = goal_text(metric);
  row["met"] = met(metric, ours, ratio);
  row["runs"] = results[kOurs].size();
  row["spread"] = rounded(spread(per_run(results[kOurs], index, q)));
  row["reference_spread"] = work.reference ? Json(rounded(spread(per_run(results[kReference], index, q)))) : Json(nullptr);
  row["busy_before"] = rounded(busy);
  row["settings"] = work.settings;
  row["settings"].update(metric.settings);
  return row;
}

std::array<double, 2> cpu_times() {
  std::ifstream stat{"/proc/stat"};
  std::string name;
  stat >> name;
  std::array<double, 8> fields{};  // user nice system idle iowait irq softirq steal
  for (double& field : fields) stat >> field;
  const double all = std::accumulate(fields.begin(), fields.end(), 0.0);
  return {all, fields[3] + fields[4]};
}

std::string number(const Json& value) {
  if (value.is_null()) return "-";
  const double v = value.get<double>();
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), std::fabs(v) >= 1'000 ? "%.0f" : std::fabs(v) >= 10 ? "%.1f" : "%.2f", v);
  return text.data();
}

std::string percent(const Json& value) {
  if (value.is_null()) return "-";
  return std::to_string(static_cast<int>(std::lround(value.get<double>() * 100))) + "%";
}

}  // namespace

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  if (q == 0.5 && values.size() % 2 == 0) return (values[values.size() / 2 - 1] + values[values.size() / 2]) / 2;
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[rank == 0 ? 0 : rank - 1];
}

double busy_now() {
  const auto before = cpu_times();
  std::this_thread::sleep_for(std::chrono::milliseconds{500});
  const auto after = cpu_times();
  const double all = after[0] - before[0];
  return all <= 0 ? 0 : 1 - (after[1] - before[1]) / all;
}

void check_count(const std::string& what, std::size_t expected, std::size_t found) {
  if (expected == found) return;
  throw std::runtime_error{what + ": expected " + std::to_string(expected) + ", found " + std::to_string(found)};
}

std::vector<Json> measure(const Work& work, const Config& config) {
  const int runs = std::min(config.runs, work.most_runs);
  const double busy = busy_now();
  Results results;
  std::string part_name = "warm-up";
  try {
    const Stopwatch total;
    if (work.reference) work.reference(0.1);
    work.ours(0.1);
    for (int run = 0; run < runs; ++run) {
      for (std::size_t step = 0; step < kParts; ++step) {
        const std::size_t part = (step + static_cast<std::size_t>(run)) % kParts;  // each comes first in turn
        if (part != kOurs && !work.reference) continue;
        part_name = kPartNames[part];
        const Stopwatch watch;
        results[part].push_back(part == kOurs ? work.ours(1) : work.reference(1));
        std::cerr << work.name << ": run " << run + 1 << " of " << runs << ", " << part_name << ": ";
        for (std::size_t i = 0; i < work.metrics.size(); ++i) {
          std::cerr << (i == 0 ? "" : ", ") << work.metrics[i].name << (work.metrics[i].name.empty() ? "" : " ")
                    << number(quantile(results[part].back().at(i), work.metrics[i].quantile)) << ' ' << work.metrics[i].unit;
        }
        std::cerr << " (" << number(watch.seconds()) << " s with preparation)" << std::endl;
      }
    }
    std::cerr << work.name << ": " << number(total.seconds()) << " s in all" << std::endl;
  } catch (const std::exception& e) {
    std::cerr << work.name << ": FAILED in " << part_name << ": " << e.what() << std::endl;
    return {Json{{"work", work.name}, {"error", part_name + ": " + e.what()}, {"settings", work.settings}}};
  }
  std::vector<Json> rows;
  for (std::size_t i = 0; i < work.metrics.size(); ++i) rows.push_back(row(work, i, results, busy));
  return rows;
}

std::string table(const std::vector<Json>& rows) {
  std::vector<std::array<std::string, 10>> cells{
      {"work", "unit", "ours", "reference", "ratio", "A/A", "spread", "ref. spread", "goal", "met"}};
  for (const Json& row : rows) {
    if (row.contains("error")) {
      cells.push_back({row["work"], "FAILED: " + row["error"].get<std::string>(), "", "", "", "", "", "", "", ""});
      continue;
    }
    const std::string goal = row["goal"].is_null() ? "-" : row["goal_kind"].get<std::string>() + " " + number(row["goal"]);
    cells.push_back({row["work"], row["unit"], number(row["ours"]), number(row["reference"]), number(row["ratio"]),
                     number(row["control"]), percent(row["spread"]), percent(row["reference_spread"]), goal,
                     row["met"].is_null() ? "-" : (row["met"].get<bool>() ? "yes" : "NO")});
  }
  std::array<std::size_t, 10> widths{};
  for (const auto& line : cells) {
    if (line[2].empty()) continue;
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const auto& line : cells) {
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string gap(widths[i] > line[i].size() ? widths[i] - line[i].size() : 0, ' ');
      const bool left = i < 2 || i > 7;
      text += left ? line[i] + gap : gap + line[i];
      text += i + 1 == widths.size() ? "\n" : "  ";
    }
  }
  return text;
}

}  // namespace penstock::bench
