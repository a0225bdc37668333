// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stop_token>
#include <thread>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/random.hpp"
#include "penstock/testing/manual_clock.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

TEST(Random, SeededRepeatsItselfAndNoOther) {
  const auto a = Random::seeded(42);
  const auto b = Random::seeded(42);
  const auto c = Random::seeded(43);
  int same = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto value = a->next();
    EXPECT_EQ(value, b->next());
    same += value == c->next() ? 1 : 0;
  }
  EXPECT_EQ(same, 0);
}

TEST(Random, SeededIsSplitMix64) {  // the published vector for seed 1234567
  const auto random = Random::seeded(1234567);
  EXPECT_EQ(random->next(), 6457827717110365317U);
  EXPECT_EQ(random->next(), 3203168211198807973U);
  EXPECT_EQ(random->next(), 9817491932198370423U);
}

TEST(Random, UnitIsInTheHalfOpenInterval) {
  class Edge final : public Random {
   public:
    explicit Edge(std::uint64_t bits) : bits_{bits} {}
    std::uint64_t next() override { return bits_; }

   private:
    std::uint64_t bits_;
  };
  EXPECT_EQ(Edge{0}.unit(), 0.0);
  EXPECT_LT(Edge{~std::uint64_t{0}}.unit(), 1.0);
  const auto random = Random::seeded(1);
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) sum += random->unit();
  EXPECT_NEAR(sum / 10'000, 0.5, 0.02);
}

TEST(Random, MayBeSharedByThreads) {
  const auto random = Random::seeded(5);
  std::vector<std::vector<std::uint64_t>> drawn(4);
  {
    std::vector<std::jthread> threads;
    for (auto& values : drawn) {
      threads.emplace_back([&values, &random] {
        for (int i = 0; i < 1000; ++i) values.push_back(random->next());
      });
    }
  }
  std::set<std::uint64_t> all;
  for (const auto& values : drawn) all.insert(values.begin(), values.end());
  EXPECT_EQ(all.size(), 4000U);
  const auto again = Random::seeded(5);
  for (int i = 0; i < 4000; ++i) EXPECT_TRUE(all.contains(again->next()));
}

TEST(Random, SystemIsOneAndDoesNotRepeat) {
  EXPECT_EQ(&Random::system(), &Random::system());
  std::set<std::uint64_t> all;
  for (int i = 0; i < 1000; ++i) all.insert(Random::system().next());
  EXPECT_EQ(all.size(), 1000U);
}

TEST(SystemClock, WaitEndsWithTheTime) {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock{mutex};
  Clock& clock = Clock::system();
  const auto until = clock.now() + 20ms;
  while (clock.now() < until) clock.wait_until(changed, lock, until, {});
  EXPECT_TRUE(lock.owns_lock());
  clock.wait_until(changed, lock, clock.now() - 1h, {});  // does not block
  EXPECT_TRUE(lock.owns_lock());
}

TEST(SystemClock, WaitEndsWithANotification) {
  std::mutex mutex;
  std::condition_variable_any changed;
  bool ready = false;
  std::jthread notifier{[&] {
    const std::lock_guard guard{mutex};
    ready = true;
    changed.notify_all();
  }};
  std::unique_lock lock{mutex};
  while (!ready) Clock::system().wait_until(changed, lock, Clock::TimePoint::max(), {});
  EXPECT_TRUE(ready);
}

TEST(SystemClock, WaitEndsWithAStop) {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::stop_source stop;
  std::jthread stopper{[&] { stop.request_stop(); }};
  std::unique_lock lock{mutex};
  while (!stop.stop_requested()) Clock::system().wait_until(changed, lock, Clock::TimePoint::max(), stop.get_token());
  EXPECT_TRUE(lock.owns_lock());
}

TEST(SystemClock, SleepTellsWhetherTheTimeHasPassed) {
  std::stop_source stop;
  EXPECT_TRUE(Clock::system().sleep_for(5ms, stop.get_token()));
  EXPECT_TRUE(Clock::system().sleep_for(0ms, stop.get_token()));
  EXPECT_TRUE(Clock::system().sleep_for(-1h, stop.get_token()));
  std::jthread stopper{[&] { stop.request_stop(); }};
  EXPECT_FALSE(Clock::system().sleep_for(Clock::Duration::max(), stop.get_token()));
  EXPECT_FALSE(Clock::system().sleep_for(1h, stop.get_token()));
}

TEST(ManualClock, SleepsInVirtualTime) {
  testing::ManualClock clock;
  std::stop_source stop;
  const auto until = clock.now() + 10h;
  std::atomic<bool> passed{false};
  std::jthread sleeper{[&] { passed = clock.sleep_for(10h, stop.get_token()); }};
  while (!passed) {
    clock.advance(1h);
    std::this_thread::yield();
  }
  EXPECT_GE(clock.now(), until);
}

TEST(ManualClock, SleepEndsWithAStop) {
  testing::ManualClock clock;
  std::stop_source stop;
  std::jthread stopper{[&] { stop.request_stop(); }};
  EXPECT_FALSE(clock.sleep_for(Clock::Duration::max(), stop.get_token()));
}

}  // namespace
}  // namespace penstock
