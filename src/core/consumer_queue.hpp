// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/dead_letter.hpp"
#include "penstock/source.hpp"

namespace penstock::consumer {

/// A message taken from the source and not settled, and what is known of it between two tries.
struct Entry {
  explicit Entry(Message taken) : message{std::move(taken)} {}

  Message message;
  int conflicts = 0;      ///< how often in a row the store undid its transaction
  bool in_doubt = false;  ///< a commit broke off; the inbox must be asked first
  int attempts = 0;       ///< failures so far, without a Datastore only
  std::vector<Attempt> history{};
  std::vector<Event> emitted{};        ///< handled, and these are still to be published before it is settled
  std::optional<DeadLetter> letter{};  ///< given up, and this is still to be published before it is settled
};
using EntryPtr = std::shared_ptr<Entry>;

/// What is in flight, in the order it may be worked on: entries of one key one at a time and as they arrived, others free.
/// A redelivery of a message that is still in flight waits for it, too.
///
/// Thread safety: none; the engine's mutex guards it.
class WorkQueue {
 public:
  using TimePoint = Clock::TimePoint;

  void push(EntryPtr entry);

  /// The next entry that may be worked on, or null. Its key is held until `finish`.
  EntryPtr take();
  [[nodiscard]] std::size_t ready() const noexcept { return ready_.size(); }

  /// The entry is settled or given up: its key goes on.
  void finish(const EntryPtr& entry);
  /// To be taken again, before everything else.
  void put_back(EntryPtr entry);
  /// To be taken again at `until`; its key stays held.
  void delay(EntryPtr entry, TimePoint until);
  /// Delayed entries whose time has come become ready.
  void ripen(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_delayed() const;

  /// Entries in flight: ready, waiting behind their key, delayed or in work.
  [[nodiscard]] std::size_t size() const noexcept { return in_flight_.size(); }
  [[nodiscard]] std::vector<EntryPtr> in_flight() const;

 private:
  std::deque<EntryPtr> ready_;
  std::multimap<TimePoint, EntryPtr> delayed_;
  std::unordered_map<std::string, std::deque<EntryPtr>> keys_;  ///< held keys, and what waits behind each
  std::unordered_set<EntryPtr> in_flight_;
};

}  // namespace penstock::consumer
