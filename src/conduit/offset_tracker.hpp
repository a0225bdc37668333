// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace penstock::conduit {

/// What was delivered of one partition and what of it is settled, so that the position to commit never passes a message that
/// is not. Messages settle in any order; offsets may have gaps (compaction, transaction markers).
///
/// Receipts rise with every delivery. A message that was sent back by `retry` listens to receipts given out after that only.
/// Thread safety: none. Lifetime: one assignment of the partition.
class OffsetTracker {
 public:
  /// A message is handed out, for the first time or again. False if it is settled already and must not be.
  bool deliver(std::int64_t offset, std::uint64_t receipt);
  /// The message is done with. False for one that is unknown, settled before, or no longer the receipt's.
  bool settle(std::int64_t offset, std::uint64_t receipt);
  /// The message is to be delivered again. False as above, and while it already waits for that.
  bool retry(std::int64_t offset, std::uint64_t receipt);

  /// Where a new owner has to start: the lowest message that is not settled, or after all that were delivered. Nothing if
  /// nothing was.
  [[nodiscard]] std::optional<std::int64_t> position() const noexcept { return position_; }
  /// How many are in somebody's hands: delivered, not settled, and not waiting to be delivered again.
  [[nodiscard]] std::size_t in_work() const noexcept { return in_work_; }
  /// How many are remembered: all from the lowest unsettled to the last delivered.
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

 private:
  enum class State : std::uint8_t { in_work, waiting, settled };
  struct Entry {
    std::int64_t offset = 0;
    std::uint64_t valid_from = 0;  ///< the oldest receipt that still speaks for it
    State state = State::in_work;
  };

  Entry* find(std::int64_t offset);
  void advance();

  std::deque<Entry> entries_;  ///< by offset; the first one is never settled
  std::optional<std::int64_t> position_;
  std::size_t in_work_ = 0;
};

}  // namespace penstock::conduit
