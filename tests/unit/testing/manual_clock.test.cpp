// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/manual_clock.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <vector>

namespace penstock::testing {
namespace {

using namespace std::chrono_literals;

TEST(ManualClock, StartsAtAFixedMoment) {
  const ManualClock clock;
  EXPECT_EQ(std::chrono::system_clock::to_time_t(clock.now()), 1'767'225'600);
}

TEST(ManualClock, MovesOnlyWhenTold) {
  ManualClock clock;
  const auto start = clock.now();
  EXPECT_EQ(clock.now(), start);
  clock.advance(36h);
  EXPECT_EQ(clock.now() - start, 36h);
  clock.advance(0s);
  EXPECT_EQ(clock.now() - start, 36h);
}

TEST(ManualClock, RefusesToGoBack) {
  ManualClock clock;
  EXPECT_THROW(clock.advance(-1ns), std::invalid_argument);
}

TEST(ManualClock, AWaitThatIsOverReturnsAtOnce) {
  ManualClock clock;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock{mutex};
  clock.wait_until(changed, lock, clock.now(), {});
  EXPECT_TRUE(lock.owns_lock());
}

TEST(ManualClock, WakesEveryWaitThatIsOver) {
  ManualClock clock;
  const auto start = clock.now();
  std::mutex mutex;
  std::condition_variable_any changed;
  std::atomic<int> over{0};
  std::vector<std::jthread> threads;
  for (int i = 1; i <= 4; ++i) {
    threads.emplace_back([&, i](const std::stop_token& stop) {
      std::unique_lock lock{mutex};
      const auto until = start + std::chrono::hours{i};
      while (clock.now() < until && !stop.stop_requested()) {
        clock.wait_until(changed, lock, until, stop);
      }
      ++over;
    });
  }
  for (int i = 1; i <= 4; ++i) {
    clock.advance(1h);
    while (over < i) {
      std::this_thread::yield();
    }
    EXPECT_EQ(over, i);
  }
}

TEST(ManualClock, NeverMissesAWaiterThatIsAboutToWait) {
  for (int round = 0; round < 500; ++round) {
    ManualClock clock;
    const auto until = clock.now() + 1s;
    std::jthread waiter{[&] {
      // Short-lived on purpose: the mutex dies as soon as the wait is over.
      std::mutex mutex;
      std::condition_variable_any changed;
      std::unique_lock lock{mutex};
      while (clock.now() < until) {
        clock.wait_until(changed, lock, until, {});
      }
    }};
    clock.advance(1s);
  }
}

TEST(ManualClock, EndsAWaitWhenAskedToStop) {
  ManualClock clock;
  std::mutex mutex;
  std::condition_variable_any changed;
  bool stopped = false;
  {
    std::jthread waiter{[&](const std::stop_token& stop) {
      std::unique_lock lock{mutex};
      while (!stop.stop_requested()) {
        clock.wait_until(changed, lock, clock.now() + 1h, stop);
      }
      stopped = true;
    }};
  }
  EXPECT_TRUE(stopped);
}

TEST(ManualClock, EndsAWaitOnNotification) {
  ManualClock clock;
  std::mutex mutex;
  std::condition_variable_any changed;
  bool flag = false;
  std::jthread waiter{[&] {
    std::unique_lock lock{mutex};
    while (!flag) {
      clock.wait_until(changed, lock, clock.now() + 1h, {});
    }
  }};
  {
    const std::lock_guard guard{mutex};
    flag = true;
  }
  changed.notify_all();
  waiter.join();
  EXPECT_TRUE(flag);
}

}  // namespace
}  // namespace penstock::testing
