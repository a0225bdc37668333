// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "penstock/export.hpp"

namespace penstock {

/// The one source of time in the library. Everything that is scheduled in memory asks it; what is stored in Postgres uses
/// the database's clock instead. testing::ManualClock makes hours pass in microseconds.
/// Thread safety: any thread. Lifetime: must outlive everything it was given to.
class PENSTOCK_EXPORT Clock {
 public:
  using TimePoint = std::chrono::system_clock::time_point;
  using Duration = std::chrono::system_clock::duration;

  virtual ~Clock() = default;
  [[nodiscard]] virtual TimePoint now() const = 0;

  /// Blocks until `changed` is notified, `until` has come or `stop` is requested; may also return for no reason, so callers
  /// loop on their own condition. `lock` is held again on return.
  virtual void wait_until(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
                          std::stop_token stop) = 0;

  /// Blocks for `duration` or until `stop` is requested; true when the time has passed.
  bool sleep_for(Duration duration, std::stop_token stop);

  /// The machine's clock. Steps of the wall clock do not disturb waits: they are measured by the monotonic clock.
  static Clock& system();
};

}  // namespace penstock
