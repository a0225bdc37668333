// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "penstock/publisher.hpp"

namespace penstock::conduit {

/// Which batch waits for which message inside librdkafka, so that every event gets exactly one outcome, in time.
///
/// A message whose batch has run out of time stays in librdkafka's queue, in its place. If its event is submitted again, the
/// new batch `adopt`s that message instead of queueing a second copy behind later events of the key.
///
/// Thread safety: none. Lifetime: a Slot lives until it is reported or discarded, a Batch until it is complete and all its
/// slots are reported.
class Ledger {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Batch;

  /// One message inside librdkafka, which carries its address.
  struct Slot {
    Batch* owner = nullptr;   ///< the batch it was made for
    Batch* waiter = nullptr;  ///< the batch that waits for it now, if any
    std::size_t index = 0;    ///< its event's place in the waiting batch
    bool alone = false;       ///< nothing else was inside librdkafka while it was
    std::string identity{};
  };

  struct Batch {
    std::promise<Outcomes> promise{};
    Outcomes outcomes{};
    std::vector<Slot*> waits{};  ///< by event; null when it has its outcome
    std::deque<Slot> slots{};
    std::size_t open = 0;        ///< events without outcome
    std::size_t unreported = 0;  ///< own slots still inside librdkafka
    TimePoint deadline{};
    bool any_failed = false;  ///< an outcome is there that is not `confirmed`
    bool sealed = false;
    bool complete = false;
  };

  /// A batch whose outcomes are all there; to be fulfilled without holding a lock.
  struct Completed {
    std::promise<Outcomes> promise{};
    Outcomes outcomes{};
  };

  Batch& open(std::size_t events, TimePoint deadline);
  /// The outcome of an event that is not, or no longer, inside librdkafka.
  void settle(Batch& batch, std::size_t index, Outcome outcome);
  /// A message about to be handed to librdkafka. `discard` it if librdkafka does not take it.
  Slot& place(Batch& batch, std::size_t index, std::string identity);
  void discard(Slot& slot);
  /// Waits for the message that is still there from an earlier batch; false if there is none.
  bool adopt(Batch& batch, std::size_t index, const std::string& identity);
  /// No more events will be placed in this batch, which may be gone on return.
  void seal(Batch& batch);

  /// librdkafka has let go of the message.
  void report(Slot& slot, const Outcome& outcome);
  /// Gives up waiting where time has run out: `unknown`.
  void sweep(TimePoint now, const std::string& trouble = {});
  /// All that is inside librdkafka has that outcome; no slot is reported after this.
  void report_all(const Outcome& outcome);

  [[nodiscard]] std::vector<Completed> take_completed() { return std::exchange(completed_, {}); }
  [[nodiscard]] std::size_t unreported() const noexcept { return unreported_; }
  [[nodiscard]] std::size_t batches() const noexcept { return batches_.size(); }

 private:
  void finish(Batch& batch);

  std::unordered_map<Batch*, std::unique_ptr<Batch>> batches_;
  std::multimap<TimePoint, Batch*> deadlines_;
  std::unordered_map<std::string, Slot*> late_;  ///< nobody waits for these
  std::vector<Completed> completed_;
  Slot* alone_ = nullptr;
  std::size_t unreported_ = 0;
};

}  // namespace penstock::conduit
