// SPDX-License-Identifier: Apache-2.0
#include "core/breaker.hpp"

#include <algorithm>
#include <utility>

namespace penstock {

using std::chrono::milliseconds;

Breaker::Breaker(SystemicFailure limits, RetryPolicy pause, Clock& clock, Random& random)
    : limits_{limits}, pause_{std::move(pause)}, clock_{clock}, random_{random}, window_{limits} {}

milliseconds Breaker::left() {
  const Clock::TimePoint now = clock_.now();
  since_ = std::min(since_, now);  // a wall clock that is set back does not make it longer
  return std::max(milliseconds{0}, std::chrono::ceil<milliseconds>(for_ - (now - since_)));
}

Breaker::State Breaker::state() {
  if (!open_) {
    return State::closed;
  }
  const std::lock_guard guard{mutex_};
  if (!open_) {
    return State::closed;
  }
  return left() > milliseconds{0} ? State::open : State::half_open;
}

milliseconds Breaker::retry_in() {
  if (!open_) {
    return milliseconds{0};
  }
  const std::lock_guard guard{mutex_};
  return open_ ? left() : milliseconds{0};
}

Breaker::Change Breaker::judged(std::uint64_t sequence, const std::string& key, bool failed, bool again) {
  const std::lock_guard guard{mutex_};
  if (open_) {
    return left() > milliseconds{0} ? Change::none : decide(failed);
  }
  window_.judged(sequence, key, failed, again);
  const bool systemic = failed && window_.systemic();
  window_.trim();
  quiet_ = window_.rejected() == 0;
  if (!systemic) {
    return Change::none;
  }
  open();
  return Change::opened;
}

Breaker::Change Breaker::decide(bool failed) {
  if (failed) {
    open();
    return Change::opened_again;
  }
  open_ = false;
  opened_ = 0;
  window_ = FailureWindow{limits_};
  quiet_ = true;
  return Change::closed;
}

void Breaker::open() {
  open_ = true;
  quiet_ = false;
  ++opened_;
  since_ = clock_.now();
  // A pause that ends after some times goes on with nothing less than a second.
  for_ = std::max(milliseconds{1}, pause_.delay(opened_, ErrorClass::transient, random_).value_or(std::chrono::seconds{1}));
}

}  // namespace penstock
