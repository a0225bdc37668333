// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <mutex>

#include "penstock/clock.hpp"
#include "penstock/retry_budget.hpp"

namespace penstock {

/// Keeps the account of a RetryBudget. Thread safety: any thread. Lifetime: the clock must outlive it.
class BudgetMeter {
 public:
  BudgetMeter(RetryBudget budget, Clock& clock);

  /// A message was handled for the first time.
  void first_attempt();
  /// Charges one retry; how long it has to wait at least.
  std::chrono::milliseconds charge();

 private:
  void pass(Clock::TimePoint now);

  std::mutex mutex_;
  const RetryBudget budget_;
  Clock& clock_;
  double credit_;        ///< below zero: retries that wait for their turn
  double firsts_ = 0;    ///< first attempts, fading over some ten seconds
  double observed_ = 0;  ///< seconds
  Clock::TimePoint last_;
};

}  // namespace penstock
