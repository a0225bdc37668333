// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/event_log.hpp"

namespace penstock {

/// The events a relay has read and not settled, and who of them may go next: of each key only the first, and that only when
/// none of its key is on its way and it is not waiting after a failure. So whatever fails in part, the events of a key arrive
/// in their order. Where the publisher keeps the order within one call (`chained`), the first takes those behind it along,
/// unless it has failed before. Events without a key wait for nobody.
///
/// Thread safety: one thread. Lifetime: a value.
class RelayPending {
 public:
  struct Item {
    EventLog::Entry entry{};
    int failures = 0;                  ///< `retryable` or `unknown`
    Clock::TimePoint failing_since{};  ///< of the first of them
    int rejections = 0;                ///< since the channel last failed for everybody
    int proven = 0;                    ///< rejections by a channel that took others in the same batch
    bool judged = false;               ///< rejected at least once
    std::size_t bytes = 0;
    std::string error{};  ///< of the last failure
  };

  explicit RelayPending(bool chained = false) : chained_{chained} {}

  void clear() { *this = RelayPending{chained_}; }
  /// The next entry of the log: sequences count from 1, without gaps.
  void add(EventLog::Entry entry);
  /// An entry that is not settled.
  [[nodiscard]] Item& item(std::uint64_t sequence) { return place(sequence).item; }

  /// Up to `max` that may go, in their order; they count as on their way until one of the four below.
  std::vector<std::uint64_t> take(std::size_t max);
  /// The same also of those that wait after a failure, from the first above `after` on and around; never two of a key.
  std::vector<std::uint64_t> take_also_fenced(std::size_t max, std::uint64_t after);

  /// Done with; the next of its key may go. Returns the event, for whatever it is still good for.
  Event settle(std::uint64_t sequence);
  void fence(std::uint64_t sequence, Clock::TimePoint until);  ///< may go again at a time
  void put_back(std::uint64_t sequence);                       ///< went in vain behind an earlier one of its key
  void hold(std::uint64_t sequence);                           ///< waits until it is settled or fenced
  bool withhold(std::uint64_t sequence);                       ///< not to go before it is settled; false: that is so already
  /// Whether an earlier event of its key is not settled.
  [[nodiscard]] bool is_behind(std::uint64_t sequence) { return place(sequence).before != nullptr; }
  /// Whether there are any of the key that were never parked and may go.
  [[nodiscard]] bool any_fresh(const std::string& key) const;
  /// All that are not settled of a key, in order.
  [[nodiscard]] std::vector<std::uint64_t> of_key(const std::string& key) const;

  void forgive();  ///< counts rejections from zero again

  void release_due(Clock::TimePoint now);
  void release_all();
  [[nodiscard]] std::optional<Clock::TimePoint> next_due() const;

  [[nodiscard]] std::size_t size() const { return size_; }
  /// The memory they take, about.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] bool any_ready() const { return ready_count_ > 0; }
  [[nodiscard]] bool any_fenced() const { return !fenced_.empty(); }
  /// Those that wait after a failure.
  [[nodiscard]] std::vector<std::uint64_t> fenced() const;
  [[nodiscard]] std::size_t fenced_keys() const;
  /// Everything up to and including this is settled.
  [[nodiscard]] std::uint64_t settled_through() const { return first_ - 1; }
  /// How far the log was read beyond that.
  [[nodiscard]] std::uint64_t span() const { return places_.size(); }

 private:
  enum class State : std::uint8_t { waiting, ready, flying, fenced, held, withheld };
  struct Place;
  /// The events of a key that are not settled, in order.
  struct Key {
    Place* first = nullptr;
    Place* last = nullptr;
    std::size_t flying = 0;
    std::size_t fresh = 0;  // never parked, and not withheld
  };
  struct Place {
    Item item{};
    State state = State::waiting;
    Clock::TimePoint fenced_until{};
    Key* key = nullptr;  // null: it has none
    Place* before = nullptr;
    Place* behind = nullptr;
  };

  [[nodiscard]] Place& place(std::uint64_t sequence);
  [[nodiscard]] Key& key_of(const std::string& key);
  void enter(Place& place, State state);
  void promote(Key* key);

  bool chained_;
  std::deque<std::unique_ptr<Place>> places_{};  // from `first_` on; null: settled
  std::uint64_t first_ = 1;                      // the first that is not settled
  std::size_t size_ = 0;
  std::size_t bytes_ = 0;
  std::vector<std::unique_ptr<Place>> spare_{};
  std::unordered_map<std::string, Key> keys_{};  // also some that have no events now
  // Sequences; those whose state is another by now are passed over.
  std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> ready_{};
  std::size_t ready_count_ = 0;
  std::set<std::pair<Clock::TimePoint, std::uint64_t>> fenced_{};
  std::size_t held_keys_ = 0;
};

}  // namespace penstock
