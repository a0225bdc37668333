// SPDX-License-Identifier: Apache-2.0
#include "core/budget_meter.hpp"

#include <algorithm>
#include <cmath>

namespace penstock {

namespace {

constexpr double memory = 10;  // seconds over which first attempts are averaged

}  // namespace

BudgetMeter::BudgetMeter(RetryBudget budget, Clock& clock)
    : budget_{budget}, clock_{clock}, credit_{budget.burst}, last_{clock.now()} {}

void BudgetMeter::pass(Clock::TimePoint now) {
  const double seconds = std::max(0.0, std::chrono::duration<double>(now - last_).count());
  credit_ = std::min(budget_.burst, credit_ + seconds * budget_.per_second);
  firsts_ *= std::exp(-seconds / memory);
  observed_ += seconds;
  last_ = now;
}

void BudgetMeter::first_attempt() {
  const std::lock_guard guard{mutex_};
  pass(clock_.now());
  firsts_ += 1;
  credit_ = std::min(budget_.burst, credit_ + budget_.share);
}

std::chrono::milliseconds BudgetMeter::charge() {
  const std::lock_guard guard{mutex_};
  pass(clock_.now());
  credit_ -= 1;
  if (credit_ >= 0) {
    return std::chrono::milliseconds{0};
  }
  // When the debt will be paid, if first attempts go on to come as they do.
  constexpr double longest = 86'400;
  const double rate = firsts_ / (memory * (1 - std::exp(-std::max(observed_, 1.0) / memory)));
  const double seconds = std::min(longest, -credit_ / (budget_.per_second + budget_.share * rate));
  return std::chrono::milliseconds{static_cast<std::chrono::milliseconds::rep>(std::ceil(seconds * 1'000))};
}

}  // namespace penstock
