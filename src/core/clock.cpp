// SPDX-License-Identifier: Apache-2.0
#include "penstock/clock.hpp"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

using std::chrono::steady_clock;

/// Longer waits end early, which every caller must expect anyhow, and no sum of times overflows.
constexpr std::chrono::hours longest_wait{24};

/// One wait on the monotonic clock; returns when notified, too.
void wait_once(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, steady_clock::time_point until,
               std::stop_token stop) {
  // The predicate is asked before and after the wait: no, then yes.
  changed.wait_until(lock, std::move(stop), until, [asked = false]() mutable { return std::exchange(asked, true); });
}

class SystemClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const override { return std::chrono::system_clock::now(); }

  void wait_until(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
                  std::stop_token stop) override {
    const TimePoint start = now();
    if (until <= start) return;
    const Duration wait = until >= start + longest_wait ? Duration{longest_wait} : until - start;
    wait_once(changed, lock, steady_clock::now() + wait, std::move(stop));
  }
};

}  // namespace

Clock& Clock::system() {
  static SystemClock clock;
  return clock;
}

bool Clock::sleep_for(Duration duration, std::stop_token stop) {  // NOLINT(performance-unnecessary-value-param)
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock{mutex};
  if (this == &system()) {
    // Not by `now`: a wall clock that steps back must not make the sleep longer.
    const auto start = steady_clock::now();
    while (!stop.stop_requested()) {
      const auto slept = steady_clock::now() - start;
      if (slept >= duration) return true;
      wait_once(changed, lock, steady_clock::now() + std::min<steady_clock::duration>(duration - slept, longest_wait), stop);
    }
    return steady_clock::now() - start >= duration;
  }
  const TimePoint start = now();
  const TimePoint until = duration > TimePoint::max() - start ? TimePoint::max() : start + duration;
  while (now() < until) {
    if (stop.stop_requested()) return false;
    wait_until(changed, lock, until, stop);
  }
  return true;
}

}  // namespace penstock
