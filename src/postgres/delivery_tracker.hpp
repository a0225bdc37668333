// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "postgres/window_reader.hpp"

namespace penstock::postgres {

/// Remembers for each entry that was handed out where in the log it is, in eight bytes, until it is settled.
/// Thread safety: one thread. Lifetime: a value.
class DeliveryTracker {
 public:
  /// Starts over at a place; sequences start from 1.
  void reset(LogPosition position);

  /// The next entry was handed out; returns its sequence.
  std::uint64_t delivered(std::int64_t id, const std::shared_ptr<const Window>& window);
  /// An entry was handed out that has no place in the log; returns its sequence. Settling it moves the place no further.
  std::uint64_t delivered_beside();
  /// Everything up to this place, which is in no window, has been handed out.
  void closed(LogPosition position);
  /// Everything up to and including `sequence` is settled. Throws std::logic_error for one that was not handed out.
  void settle(std::uint64_t sequence);

  /// The id of an entry that is not settled. Throws std::logic_error for any other.
  [[nodiscard]] std::int64_t id_of(std::uint64_t sequence) const;
  /// The last settled sequence; 0 for none.
  [[nodiscard]] std::uint64_t settled() const { return settled_; }
  /// The place up to which everything is settled.
  [[nodiscard]] LogPosition position() const;

 private:
  struct Mark {
    std::uint64_t first = 0;  // sequence
    std::shared_ptr<const Window> window{};
    std::optional<LogPosition> closed{};  // after the last entry of the window, everything up to here has been handed out
  };

  std::deque<std::int64_t> ids_{};  // of the entries that are not settled
  std::deque<Mark> marks_{};        // the windows they belong to, and perhaps the one before
  std::uint64_t settled_ = 0;
  LogPosition base_{};                      // the place, when `window_` is not set
  std::shared_ptr<const Window> window_{};  // else the place is in this window, at `id_`
  std::int64_t id_ = 0;
};

}  // namespace penstock::postgres
