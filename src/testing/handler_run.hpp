// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "penstock/consumer.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "testing/watched_datastore.hpp"

namespace penstock::testing {

/// A consumer that runs between a broker in memory and a store, by a clock that stands still.
/// Thread safety: one thread. Lifetime: clock and store must outlive it; its destructor stops the consumer.
class HandlerRun {
 public:
  /// Of the options, group, retry and the like count; clock, random and logger are its own. `partitions`: keys of one
  /// interleave with those of the others by the seed.
  HandlerRun(Handler handler, Datastore& store, ManualClock& clock, std::uint64_t seed, int partitions,
             ConsumerOptions options);
  ~HandlerRun();
  HandlerRun(const HandlerRun&) = delete;
  HandlerRun& operator=(const HandlerRun&) = delete;

  void publish(Event event);
  /// Before the first `settle`.
  void cut(WatchedDatastore::Cut how, int commit) { store_.cut(how, commit); }
  /// Runs, until nothing is left to be done at this time. What waits for a later one stays. Time moves by as many milliseconds
  /// as a look for due messages takes. Throws Unexpected when that does not come about in 30 s of real time.
  void settle();
  [[nodiscard]] int commits() const { return store_.commits(); }

 private:
  bool idle();

  ManualClock& clock_;
  std::unique_ptr<Random> random_;
  MemoryBroker broker_;
  WatchedDatastore store_;
  std::unique_ptr<Datastore::Session> looks_;
  std::unique_ptr<Consumer> consumer_;
  std::string group_;
  int events_ = 0;
  std::jthread thread_{};
};

}  // namespace penstock::testing
