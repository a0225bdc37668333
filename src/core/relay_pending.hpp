// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/event_log.hpp"

namespace penstock {

/// The events a relay has read and not settled, and who of them may go next: of each key only the first, and that only when it
/// is neither on its way nor waiting after a failure. So whatever fails in part, the events of a key arrive in their order.
/// Events without a key wait for nobody.
///
/// Thread safety: one thread. Lifetime: a value.
class RelayPending {
 public:
  struct Item {
    EventLog::Entry entry{};
    int failures = 0;     ///< `retryable` or `unknown`
    int rejections = 0;   ///< since the channel last failed for everybody
    int proven = 0;       ///< rejections by a channel that took others in the same batch
    bool judged = false;  ///< rejected at least once
    std::size_t bytes = 0;
    std::string error{};  ///< of the last failure
  };

  void clear();
  /// The next entry of the log: sequences ascend.
  void add(EventLog::Entry entry);
  /// An entry that is not settled.
  [[nodiscard]] Item& item(std::uint64_t sequence) { return items_.at(sequence).item; }

  /// Up to `max` that may go, oldest first; they count as on their way until one of the three below.
  std::vector<std::uint64_t> take(std::size_t max);
  /// The same also of those that wait after a failure, from the first above `after` on and around.
  std::vector<std::uint64_t> take_also_fenced(std::size_t max, std::uint64_t after);

  void settle(std::uint64_t sequence);                               ///< done with; the next of its key may go
  void fence(std::uint64_t sequence, Clock::TimePoint until);        ///< may go again at a time
  void hold(std::uint64_t sequence);                                 ///< waits until it is settled or fenced
  void withhold(std::uint64_t sequence) { ready_.erase(sequence); }  ///< one that never was on its way: until it is settled
  /// All that are not settled of a key, in order.
  [[nodiscard]] std::deque<std::uint64_t> of_key(const std::string& key) const;

  void forgive();  ///< counts rejections from zero again

  void release_due(Clock::TimePoint now);
  void release_all();
  [[nodiscard]] std::optional<Clock::TimePoint> next_due() const;

  [[nodiscard]] std::size_t size() const { return items_.size(); }
  /// The memory they take, about.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] bool any_ready() const { return !ready_.empty(); }
  [[nodiscard]] bool any_fenced() const { return !fenced_.empty(); }
  [[nodiscard]] std::size_t fenced_keys() const;
  /// Everything up to and including this is settled.
  [[nodiscard]] std::uint64_t settled_through() const { return items_.empty() ? last_ : items_.begin()->first - 1; }
  /// How far the log was read beyond that.
  [[nodiscard]] std::uint64_t span() const { return last_ - settled_through(); }

 private:
  struct Place {
    Item item{};
    std::optional<Clock::TimePoint> fenced_until{};
    bool held = false;
  };

  void unfence(std::uint64_t sequence, Place& place);

  std::map<std::uint64_t, Place> items_{};
  std::unordered_map<std::string, std::deque<std::uint64_t>> keys_{};  // in order; the front is the one that may go
  std::set<std::uint64_t> ready_{};
  std::set<std::pair<Clock::TimePoint, std::uint64_t>> fenced_{};
  std::size_t held_keys_ = 0;
  std::size_t bytes_ = 0;
  std::uint64_t last_ = 0;
};

}  // namespace penstock
