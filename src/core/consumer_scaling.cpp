// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_scaling.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

constexpr auto longest_queue = 20ms;    ///< what waits longer wants more workers
constexpr auto worth_a_worker = 200us;  ///< a handler's time below which a full intake is not the workers' fault
constexpr auto between_steps = 50ms;
constexpr auto window = 5s;
constexpr double spare = 1.25;  ///< workers for each one that was in use

std::string in_words(Clock::Duration time) {
  std::array<char, 32> text{};
  const double ms = Seconds{time}.count() * 1e3;
  std::snprintf(text.data(), text.size(), ms < 10 ? "%.2f ms" : "%.0f ms", ms);
  return text.data();
}

}  // namespace

int Scaling::wanted(const Load& load) {
  if (!begun_) {
    begun_ = true;
    grown_ = load.now - between_steps;
    window_ = load.now;
    worked_ = load.worked;
  }
  if (load.workers < bounds_.min) {
    return bounds_.min;
  }
  const int idle = load.workers - load.busy;
  if (load.workers < bounds_.max && load.waiting > static_cast<std::size_t>(std::max(idle, 0))) {
    return more(load);
  }
  return fewer(load);
}

int Scaling::more(const Load& load) {
  const std::string waiting = std::to_string(load.waiting) + " wait";
  int want = load.workers;
  if (load.handler_time == Duration::zero()) {
    const auto missing = std::min<std::size_t>(load.waiting, static_cast<std::size_t>(bounds_.max));
    want = load.busy + static_cast<int>(missing);
    reason_ = waiting + ", and no handler has ended yet";
  } else {
    const auto queue = load.handler_time * static_cast<Duration::rep>(load.waiting) / std::max(load.workers, 1);
    const bool slow = queue >= longest_queue || (load.full && load.handler_time >= worth_a_worker);
    if (!slow || load.now - grown_ < between_steps) {
      return load.workers;
    }
    want = 2 * load.workers;
    reason_ = waiting + (load.full ? " and the intake is full, " : ", ") + in_words(load.handler_time) + " each";
  }
  grown_ = load.now;
  window_ = load.now;
  worked_ = load.worked;
  return std::clamp(want, load.workers, bounds_.max);
}

int Scaling::fewer(const Load& load) {
  const auto passed = load.now - window_;
  if (passed < window) {
    return load.workers;
  }
  const double used = Seconds{load.worked - worked_}.count() / Seconds{passed}.count();
  window_ = load.now;
  worked_ = load.worked;
  const int enough = std::max(bounds_.min, static_cast<int>(std::ceil(used * spare)));
  if (enough >= load.workers) {
    return load.workers;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.1f of %d were in use for 5 s", used, load.workers);
  reason_ = text.data();
  return enough;
}

}  // namespace penstock::consumer
