// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/manual_clock.hpp"

#include <list>
#include <stdexcept>
#include <utility>
#include <vector>

namespace penstock::testing {

namespace {

// 2026-01-01T00:00:00Z
constexpr std::chrono::seconds default_start{1'767'225'600};

/// One blocked `wait_until`. While `held` is not zero an `advance` is using the pointers, and the waiter must not return.
struct Waiter {
  std::condition_variable_any* changed;
  std::mutex* mutex;
  Clock::TimePoint until;
  int held = 0;
};

}  // namespace

class ManualClock::Impl {
 public:
  explicit Impl(TimePoint start) : now{start} {}

  std::mutex mutex;
  std::condition_variable unheld;
  TimePoint now;
  std::list<Waiter> waiters;
};

ManualClock::ManualClock() : ManualClock{TimePoint{std::chrono::duration_cast<Duration>(default_start)}} {}

ManualClock::ManualClock(TimePoint start) : impl_{std::make_unique<Impl>(start)} {}

ManualClock::~ManualClock() = default;

Clock::TimePoint ManualClock::now() const {
  const std::lock_guard guard{impl_->mutex};
  return impl_->now;
}

void ManualClock::wait_until(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
                             std::stop_token stop) {
  std::list<Waiter>::iterator self;
  {
    const std::lock_guard guard{impl_->mutex};
    if (impl_->now >= until) {
      return;
    }
    self = impl_->waiters.insert(impl_->waiters.end(), Waiter{&changed, lock.mutex(), until});
  }
  // The predicate is false once, so that any notification ends the wait.
  bool waited = false;
  changed.wait(lock, std::move(stop), [&waited] { return std::exchange(waited, true); });
  // `advance` may be waiting for the caller's mutex in order to notify: let it, then leave.
  lock.unlock();
  {
    std::unique_lock guard{impl_->mutex};
    impl_->unheld.wait(guard, [&self] { return self->held == 0; });
    impl_->waiters.erase(self);
  }
  lock.lock();
}

void ManualClock::advance(Duration by) {
  if (by < Duration::zero()) {
    throw std::invalid_argument{"ManualClock::advance: time does not go back; give a duration that is not negative"};
  }
  std::vector<std::list<Waiter>::iterator> due;
  {
    const std::lock_guard guard{impl_->mutex};
    impl_->now += by;
    for (auto waiter = impl_->waiters.begin(); waiter != impl_->waiters.end(); ++waiter) {
      if (waiter->until <= impl_->now) {
        ++waiter->held;
        due.push_back(waiter);
      }
    }
  }
  for (const auto& waiter : due) {
    {
      // Under the waiter's mutex: it has either begun to wait, or will look at the clock again before it does.
      const std::lock_guard guard{*waiter->mutex};
      waiter->changed->notify_all();
    }
    const std::lock_guard guard{impl_->mutex};
    --waiter->held;
    impl_->unheld.notify_all();
  }
}

}  // namespace penstock::testing
