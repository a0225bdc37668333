// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "core/consumer_processor.hpp"
#include "core/consumer_queue.hpp"

namespace penstock::consumer {

/// The threads of a running consumer: the caller's takes messages in, workers handle them, and with a Datastore one more looks
/// for parked messages that are due and for the store's return after it was away.
class Engine {
 public:
  /// `store`: null without a Datastore. `make_processor` is called once on each worker's thread.
  Engine(const Shared& shared, Datastore* store, std::function<std::unique_ptr<Processor>()> make_processor);

  bool run(const std::stop_token& stop);
  /// Fills in what is of the moment.
  void describe(ConsumerStatus& status) const;

 private:
  using TimePoint = Clock::TimePoint;

  struct Worker {
    bool prefers_due = false;  ///< took a fresh message last
    int failures = 0;          ///< tries in a row in which the store was away
    TimePoint not_before{};
    bool ended = false;
    std::jthread thread{};
  };
  struct Job {
    EntryPtr entry{};  ///< null: a parked message
  };

  /// The clock's time, or for the machine's clock the same without its steps.
  [[nodiscard]] TimePoint now() const;
  void wait(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
            const std::stop_token& stop) const;

  // The intake, on the caller's thread.
  void take_in(const std::stop_token& stop);
  void dispatch(std::vector<Message> messages);
  void keep_alive(const std::stop_token& stop);
  void touch();
  bool drain();
  /// Waits by the machine's clock: for what happens outside, time is not ours to move.
  template <class Condition>
  void rest(std::chrono::milliseconds most, const std::stop_token& stop, Condition condition);

  // Workers.
  void work(Worker& self, const std::stop_token& stop);
  std::optional<Job> pick(Worker& self, TimePoint now);  ///< under the mutex
  std::optional<Job> next_job(Worker& self, const std::stop_token& stop);
  void conclude(Worker& self, const Job& job, const std::optional<Fate>& fate);
  void grow();  ///< under the mutex
  void reap();

  // Parked messages and the store's absence.
  void watch(const std::stop_token& stop);
  void store_answered(std::size_t due);         ///< under the mutex
  void store_failed(const std::string& error);  ///< under the mutex

  [[nodiscard]] std::size_t room() const { return queue_.size() >= in_flight_ ? 0 : in_flight_ - queue_.size(); }
  [[nodiscard]] std::size_t quarter() const { return std::max<std::size_t>(1, in_flight_ / 4); }

  const Shared& shared_;
  const ConsumerOptions& options_;
  Clock& clock_;
  Datastore* const store_;
  const std::function<std::unique_ptr<Processor>()> make_processor_;
  const std::size_t in_flight_;
  const bool virtual_time_;
  const TimePoint started_;
  const std::chrono::steady_clock::time_point started_steady_ = std::chrono::steady_clock::now();
  const RetryPolicy store_backoff_;

  mutable std::mutex mutex_;
  std::condition_variable_any work_changed_;    ///< there may be something for a worker
  std::condition_variable_any watch_changed_;   ///< the store was found away
  std::condition_variable_any intake_changed_;  ///< there may be room, or a worker ended
  std::stop_token stop_;
  WorkQueue queue_;
  std::size_t due_ = 0;   ///< parked messages believed to be due
  bool suspect_ = false;  ///< a worker found the store away; nobody begins anything until it has answered
  bool away_ = false;     ///< it did not answer
  int running_ = 0;       ///< workers
  int busy_ = 0;          ///< of them, those with a job
  std::list<Worker> workers_;
  TimePoint touch_at_{};
  bool paused_ = false;  ///< the intake's own: what it told the source
};

}  // namespace penstock::consumer
