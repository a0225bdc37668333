// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "core/failure_window.hpp"
#include "penstock/circuit_breaker.hpp"

namespace penstock {

/// The states of a circuit breaker, whatever is judged: the calls of a provider or the messages of a handler.
/// Thread safety: any thread. Lifetime: Clock and Random must outlive it.
class Breaker {
 public:
  using State = CircuitBreaker::State;
  enum class Change : std::uint8_t { none, opened, opened_again, closed };

  Breaker(SystemicFailure limits, RetryPolicy pause, Clock& clock, Random& random);

  [[nodiscard]] State state();
  /// Zero unless it is open.
  [[nodiscard]] std::chrono::milliseconds retry_in();

  /// The result of one piece of work; see FailureWindow::judged. While it is half open the first one decides, while it is open
  /// none counts.
  Change judged(std::uint64_t sequence, const std::string& key, bool failed, bool again);
  /// Closed, and nothing among the last has failed: a success changes nothing and need not be told.
  [[nodiscard]] bool quiet() const noexcept { return quiet_.load(std::memory_order_relaxed); }

 private:
  [[nodiscard]] std::chrono::milliseconds left();  // under the mutex
  void open();
  Change decide(bool failed);

  std::mutex mutex_;
  const SystemicFailure limits_;
  const RetryPolicy pause_;
  Clock& clock_;
  Random& random_;
  FailureWindow window_;
  std::atomic<bool> open_{false};  ///< or half open, when the pause is over; written under the mutex
  int opened_ = 0;                 ///< in a row
  Clock::TimePoint since_{};
  std::chrono::milliseconds for_{0};
  std::atomic<bool> quiet_{true};
};

}  // namespace penstock
