// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "core/consumer_leash.hpp"
#include "core/consumer_processor.hpp"
#include "core/consumer_queue.hpp"
#include "core/consumer_scaling.hpp"

namespace penstock::consumer {

/// What a worker took from the queue in one go. It begins entries one after the other; those it has not come to are taken back
/// from it, and those it has done with are settled for it, when one of them takes long.
struct Hand {
  std::vector<EntryPtr> entries{};  ///< with `fates`, changed under the engine's mutex while nothing of the last hand is left
  std::vector<Fate> fates{};
  std::atomic<std::size_t> next{0};   ///< not begun
  std::atomic<std::size_t> done{0};   ///< before it all have a fate
  std::atomic<std::size_t> taken{0};  ///< before it the fates are, or are being, carried out
};

/// The threads of a running consumer: the caller's takes messages in, workers handle them, and with a Datastore one more looks
/// for parked messages that are due and for the store's return after it was away.
///
/// Messages are handed to workers several at a time, as many as take about 0.2 ms together, so that quick handlers do not spend
/// their time at the engine's mutex.
class Engine {
 public:
  /// `store`: null without a Datastore. `make_processor` is called once on each worker's thread.
  Engine(const Shared& shared, Datastore* store, std::function<std::unique_ptr<Processor>(Leash&)> make_processor);

  bool run(const std::stop_token& stop);
  /// Fills in what is of the moment.
  void describe(ConsumerStatus& status) const;

 private:
  using TimePoint = Clock::TimePoint;

  struct Worker {
    Worker(std::chrono::milliseconds timeout, std::function<TimePoint()> clock) : leash{timeout, std::move(clock)} {}

    bool prefers_due = false;  ///< took a fresh message last
    int failures = 0;          ///< tries in a row in which the store was away
    TimePoint not_before{};
    bool ended = false;
    bool busy = false;
    TimePoint since{};  ///< when it took what it has
    Hand hand{};        ///< empty: a parked message
    Leash leash;
    std::jthread thread{};
  };
  struct Concluded {
    EntryPtr entry{};
    Fate fate{};
  };

  /// The clock's time, or for the machine's clock the same without its steps.
  [[nodiscard]] TimePoint now() const;
  void wait(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
            const std::stop_token& stop) const;

  // The intake, on the caller's thread.
  void take_in(const std::stop_token& stop);
  void recycle();
  std::vector<EntryPtr> receive(std::size_t most, std::chrono::milliseconds wait);
  void dispatch(std::vector<EntryPtr> entries);
  void keep_alive(const std::stop_token& stop);
  void touch();
  bool drain();
  /// Waits by the machine's clock: for what happens outside, time is not ours to move.
  template <class Condition>
  void rest(std::chrono::milliseconds most, const std::stop_token& stop, Condition condition);

  // Workers: consumer_workers.cpp.
  void work(Worker& self, const std::stop_token& stop);
  bool pick(Worker& self, TimePoint now);  ///< under the mutex
  bool next_job(Worker& self, const std::stop_token& stop);
  [[nodiscard]] std::size_t share() const;  ///< under the mutex: how many at a time
  void work_off(Worker& self, Processor& processor, const std::stop_token& stop);
  void work_off_one_by_one(Worker& self, Processor& processor, const std::stop_token& stop);
  void carry_out(Worker& self);
  static std::vector<Concluded> take_done(Hand& hand);
  void acknowledge(const std::vector<Concluded>& concluded) const;
  void conclude(Worker& self, std::vector<Concluded>& concluded);    ///< under the mutex
  void conclude_due(Worker& self, const std::optional<Fate>& fate);  ///< under the mutex
  void note_away(Worker& self, const std::string& error);            ///< under the mutex
  void take_back(TimePoint now);                                     ///< from workers that are held up
  void scale();                                                      ///< under the mutex
  void grow(int workers);                                            ///< under the mutex
  void reap();
  void expire();

  // Parked messages and the store's absence.
  void watch(const std::stop_token& stop);
  void store_answered(std::size_t due);         ///< under the mutex
  void store_failed(const std::string& error);  ///< under the mutex

  [[nodiscard]] std::size_t room() const;
  [[nodiscard]] bool worth_a_poll() const;
  void mark_repeated(Origin& origin);
  [[nodiscard]] std::size_t next_poll(std::size_t space) const;
  [[nodiscard]] std::size_t quarter() const { return std::max<std::size_t>(1, in_flight_ / 4); }

  const Shared& shared_;
  const ConsumerOptions& options_;
  Clock& clock_;
  Datastore* const store_;
  const std::function<std::unique_ptr<Processor>(Leash&)> make_processor_;
  const std::size_t in_flight_;
  const bool batched_;
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
  std::size_t due_ = 0;            ///< parked messages believed to be due
  bool suspect_ = false;           ///< a worker found the store away; nobody begins anything until it has answered
  bool away_ = false;              ///< it did not answer
  int running_ = 0;                ///< workers
  int busy_ = 0;                   ///< of them, those with a job
  int wanted_ = 0;                 ///< of them; those there are more end when they are idle
  std::size_t message_bytes_ = 0;  ///< of one, in the last poll
  Scaling scaling_;
  Clock::Duration worked_{};
  Clock::Duration handler_time_{};  ///< of one message, a moving average; 0: none has ended yet
  std::list<Worker> workers_;
  bool intake_waits_ = false;
  struct FirstOnes {
    std::int64_t next = 0;
    std::size_t left = 0;
  };
  std::map<std::int32_t, FirstOnes> partitions_;  ///< the intake's own
  std::vector<EntryPtr> spent_;                   ///< settled
  std::vector<EntryPtr> settled_;                 ///< the intake's own: of those, while it looks at them
  std::vector<EntryPtr> blank_;                   ///< the intake's own: of those, for what comes
  TimePoint touch_at_{};
  bool paused_ = false;  ///< the intake's own: what it told the source
};

}  // namespace penstock::consumer
