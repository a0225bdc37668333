// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "penstock/publisher.hpp"
#include "penstock/relay.hpp"

namespace penstock::bench {

/// A broker that has stored what it is given the moment it is given it.
class InstantSink final : public Publisher {
 public:
  [[nodiscard]] std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override;

  [[nodiscard]] std::size_t count() const { return count_.load(); }
  /// Seconds on the steady clock at which the first call came and the latest ended, and the events of that first call.
  [[nodiscard]] double first() const { return first_.load(); }
  [[nodiscard]] double last() const { return last_.load(); }
  [[nodiscard]] std::size_t first_batch() const { return first_batch_.load(); }

 private:
  std::atomic<std::size_t> count_{0}, first_batch_{0};
  std::atomic<double> first_{0}, last_{0};
};

/// Passes events on and takes the time at which their outcomes come in.
class TimedPublisher final : public Publisher {
 public:
  using OnConfirmed = std::function<void(const Event& event, std::chrono::steady_clock::time_point at)>;
  TimedPublisher(std::shared_ptr<Publisher> inner, OnConfirmed on_confirmed);
  ~TimedPublisher() override;

  [[nodiscard]] std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override;

 private:
  struct Waiting {
    std::vector<Event> events{};
    std::future<Outcomes> inner{};
    std::promise<Outcomes> outer{};
  };
  void loop();

  std::shared_ptr<Publisher> inner_;
  OnConfirmed on_confirmed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  bool ended_ = false;
  std::jthread thread_;
};

double steady_seconds();

/// A relay in a thread of its own, from construction to destruction.
class RunningRelay {
 public:
  RunningRelay(EventLog& log, Channel channel, RelayOptions options = {});
  ~RunningRelay();
  RunningRelay(const RunningRelay&) = delete;
  RunningRelay& operator=(const RunningRelay&) = delete;

  /// Waits until so many events are confirmed. Throws when there is no progress for 30 s.
  void await_published(std::size_t count);

 private:
  Relay relay_;
  std::jthread thread_;
};

}  // namespace penstock::bench
