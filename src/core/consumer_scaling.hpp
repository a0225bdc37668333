// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "penstock/clock.hpp"
#include "penstock/consumer.hpp"

namespace penstock::consumer {

/// How many workers there should be. It grows fast, by doubling, while messages wait longer than they should by the measured
/// time of a handler; it shrinks slowly, to what was in use over some seconds. In between nothing changes, so it does not
/// swing.
///
/// Thread safety: none; the engine's mutex guards it.
class Scaling {
 public:
  using TimePoint = Clock::TimePoint;
  using Duration = Clock::Duration;

  struct Load {
    TimePoint now{};
    std::size_t waiting = 0;  ///< messages that a worker could take
    bool full = false;        ///< the intake takes no more, so that more may wait at the broker
    int workers = 0;
    int busy = 0;
    Duration worked{};        ///< by all workers since the start
    Duration handler_time{};  ///< of one message; 0: none has ended yet
  };

  explicit Scaling(Workers bounds) : bounds_{bounds} {}

  /// Between min and max.
  int wanted(const Load& load);
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }

 private:
  int more(const Load& load);
  int fewer(const Load& load);

  const Workers bounds_;
  std::string reason_ = "the least there may be";
  bool begun_ = false;
  TimePoint grown_{};
  TimePoint window_{};  ///< begins
  Duration worked_{};   ///< before it
};

}  // namespace penstock::consumer
