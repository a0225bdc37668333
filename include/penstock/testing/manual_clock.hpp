// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "penstock/clock.hpp"

namespace penstock::testing {

/// A clock that moves when it is told to: hours pass in microseconds, and every wait that is over wakes up.
/// Thread safety: any thread. Lifetime: must outlive what it was given to.
class PENSTOCK_EXPORT ManualClock final : public Clock {
 public:
  /// Starts at 2026-01-01T00:00:00Z unless told otherwise.
  ManualClock();
  explicit ManualClock(TimePoint start);
  ~ManualClock() override;

  [[nodiscard]] TimePoint now() const override;
  void wait_until(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
                  std::stop_token stop) override;

  /// Moves time forward. Throws std::invalid_argument for a negative duration.
  void advance(Duration by);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::testing
