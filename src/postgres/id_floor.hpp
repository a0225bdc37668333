// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>

#include "postgres/snapshot.hpp"

namespace penstock::postgres {

/// From which id on a window has to be searched.
///
/// A transaction has its number before its first event has an id. So whoever saw an event and was given a number afterwards
/// knows: later numbers have later ids. Each checkpoint is such a number. (The sequence's value at a snapshot is no such
/// bound: transactions that had their numbers already, and their ids, may be in no list of that snapshot.)
///
/// Thread safety: one thread. Lifetime: a value.
class IdFloor {
 public:
  /// What is known of a place that was stored. What was seen before counts no more: the server may have lost it.
  void reset(std::int64_t floor);
  void saw(std::int64_t id);
  /// A transaction was given this number after everything that was seen.
  void mark(std::uint64_t txid);
  /// All events of the transactions that had no number at this snapshot have ids above this. For snapshots that never go back.
  std::int64_t at(const Snapshot& prev);

 private:
  struct Mark {
    std::uint64_t txid = 0;
    std::int64_t id = 0;
  };
  std::int64_t known_ = 0;
  std::int64_t seen_ = 0;
  std::deque<Mark> marks_{};
};

}  // namespace penstock::postgres
