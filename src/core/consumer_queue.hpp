// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/dead_letter.hpp"
#include "penstock/source.hpp"

namespace penstock::consumer {

struct Entry;
using EntryPtr = std::shared_ptr<Entry>;

/// What a message went through before an attempt.
struct Past {
  std::chrono::milliseconds elapsed{0};                 ///< since its first attempt began
  std::optional<std::chrono::milliseconds> previous{};  ///< the delay before this attempt
};

/// What serializes entries: a key, or without one an identity. `held` entries are ready, delayed or in work; the others wait.
struct Lineup {
  EntryPtr first{};
  Entry* last = nullptr;
  std::size_t held = 0;
  const std::string* name = nullptr;
};

/// What is known of a message between two tries.
struct Tries {
  int conflicts = 0;                                    ///< how often in a row the store undid its transaction
  bool in_doubt = false;                                ///< a commit broke off; the inbox must be asked first
  bool noted = false;                                   ///< that it was begun, by this process
  int deaths = 0;                                       ///< of earlier processes while it was in work
  int attempts = 0;                                     ///< failures so far, without a Datastore only
  std::optional<Clock::TimePoint> first{};              ///< when the first of them began
  std::optional<std::chrono::milliseconds> previous{};  ///< the delay after the last of them
  std::vector<Attempt> history{};
  std::vector<Event> emitted{};        ///< handled, and these are still to be published before it is settled
  std::optional<DeadLetter> letter{};  ///< given up, and this is still to be published before it is settled
};

/// A message taken from the source and not settled.
struct Entry : Tries {
  /// For another message, when this one is done with: what is in it lends its memory.
  void renew() {
    static_cast<Tries&>(*this) = {};
    message.defect.clear();
  }

  Message message{};

  // The queue's.
  std::string order{};       ///< what it is serialized by
  Lineup* lineup = nullptr;  ///< null for a delivery that is no event
  EntryPtr next{};           ///< behind it, while it waits
  std::uint64_t number = 0;  ///< in the order of arrival
  std::size_t place = 0;
  std::size_t bytes = 0;
};

/// What is in flight, in the order it may be worked on: entries of one key in one hand at a time and as they arrived, others
/// free. A redelivery of a message that is still in flight waits for it, too.
///
/// Thread safety: none; the engine's mutex guards it.
class WorkQueue {
 public:
  using TimePoint = Clock::TimePoint;

  WorkQueue() = default;
  ~WorkQueue() { clear(); }
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  /// What a push needs to know of a message, found out before the mutex is taken.
  static void prepare(Entry& entry);
  void push(EntryPtr entry);
  void clear();

  /// Adds to `entries` what may be worked on next, at most so many: of each key its first, and behind it those that wait for
  /// it. They are held until each is given to one of the next three.
  void take(std::size_t most, std::vector<EntryPtr>& entries);
  [[nodiscard]] std::size_t ready() const noexcept { return ready_.size(); }
  /// Neither taken nor delayed.
  [[nodiscard]] std::size_t waiting() const noexcept { return in_flight_.size() - taken_ - delayed_.size(); }

  /// The entry is settled or given up: its key goes on.
  void finish(const EntryPtr& entry);
  /// To be taken again, before everything else; behind those of its key that came before it.
  void put_back(const EntryPtr& entry);
  /// To be taken again at `until`; its key stays held.
  void delay(EntryPtr entry, TimePoint until);
  /// Delayed entries whose time has come become ready.
  void ripen(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_delayed() const;

  /// Entries in flight: ready, waiting behind their key, delayed or in work.
  [[nodiscard]] std::size_t size() const noexcept { return in_flight_.size(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::vector<EntryPtr> in_flight() const { return in_flight_; }

 private:
  static EntryPtr next_of(Lineup& lineup);
  Lineup& lineup_of(const Entry& entry);
  void release(Lineup& lineup, bool first);

  std::deque<EntryPtr> ready_;
  std::multimap<TimePoint, EntryPtr> delayed_;
  std::unordered_map<std::string, Lineup> lineups_;  ///< whose addresses stay; some are of no entry any more
  std::size_t idle_ = 0;                             ///< lineups of no entry
  std::vector<EntryPtr> in_flight_;
  std::uint64_t arrived_ = 0;
  std::size_t taken_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace penstock::consumer
