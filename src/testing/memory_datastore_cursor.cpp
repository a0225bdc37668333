// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include "testing/memory_datastore_state.hpp"

namespace penstock::testing::memory {

namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds lease{5};
constexpr std::size_t counted = 1000;  // entries of a backlog that are looked at one by one

class MemoryCursor final : public EventLog::Cursor {
 public:
  MemoryCursor(std::shared_ptr<StoreState> state, std::string name, std::vector<std::string> patterns)
      : state_{std::move(state)}, name_{std::move(name)}, patterns_{std::move(patterns)} {
    static_cast<void>(route_complement(patterns_));
  }
  // A relay that dies without `release` leaves its lease behind, here as in Postgres.
  ~MemoryCursor() override = default;

  bool acquire() override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    StoreState::Place& place = state_->cursors[name_];
    if (place.owned && place.token != token_ && state_->clock.now() < place.lease_until) {
      return false;
    }
    place.owned = true;
    token_ = ++place.token;
    renew(place);
    next_ = place.settled;
    positions_.clear();
    settled_ = 0;
    for (auto& [id, follower] : state_->held[name_].followers) {
      follower.out = false;
    }
    return true;
  }

  std::vector<EventLog::Entry> read(std::size_t max) override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    held();
    std::vector<EventLog::Entry> entries;
    // In turn, so that neither keeps the other waiting.
    const bool parked_first = !std::exchange(gave_parked_, false);
    if (parked_first) {
      read_parked(max, entries);
    }
    if (entries.empty()) {
      read_log(max, entries);
    }
    if (entries.empty() && !parked_first) {
      read_parked(max, entries);
    }
    return entries;
  }

  void checkpoint(std::uint64_t sequence) override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    StoreState::Place& place = held();
    while (settled_ < sequence && !positions_.empty()) {
      place.settled = std::max(place.settled, positions_.front().end);
      state_->held[name_].followers.erase(positions_.front().follower);
      positions_.pop_front();
      ++settled_;
    }
    renew(place);
  }

  void bury(const EventLog::Entry& entry, const std::string& channel, const std::string& error, int attempts,
            bool holds) override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    held();
    DeadLetter letter{.group = name_, .reason = error};
    letter.message.event = entry.event;
    try {
      letter.message.wire = encode(entry.event, Binding::kafka);
    } catch (const InvalidEvent&) {  // it was refused for this very reason
      letter.message.wire = {.payload = entry.event.data};
    }
    letter.message.origin.backend = "memory";
    letter.message.origin.channel = channel;
    letter.attempts.push_back({.number = attempts, .error = error, .at = format_time(state_->clock.now())});
    state_->letters.push_back(std::move(letter));
    StoreState::Held& waiting = state_->held[name_];
    waiting.followers.erase(std::exchange(position(entry).follower, 0));
    if (holds && !entry.event.key.empty()) {
      waiting.dead.insert(entry.event.key);
    }
  }

  void park(std::span<const EventLog::Parking> entries, const std::string& /*channel*/) override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    held();
    StoreState::Held& waiting = state_->held[name_];
    for (const EventLog::Parking& parking : entries) {
      const EventLog::Entry& entry = *parking.entry;
      const std::uint64_t id = entry.returned ? std::exchange(position(entry).follower, 0) : state_->next_sequence++;
      auto& follower = waiting.followers[id];
      follower.event = entry.event;
      follower.out = false;
      if (parking.failures > 0) {
        follower.failures = parking.failures;
        follower.due = state_->clock.now() + parking.delay;
      }
    }
  }

  std::vector<EventLog::HeldKey> held_keys() override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    const StoreState::Held& waiting = state_->held[name_];
    std::set<std::string> failing;
    std::set<std::string> keys = waiting.dead;
    for (const auto& [id, follower] : waiting.followers) {
      if (follower.failures > 0) {
        failing.insert(follower.event.key);
      }
      if (!follower.out) {
        keys.insert(follower.event.key);
      }
    }
    keys.erase("");
    std::vector<EventLog::HeldKey> held_keys;
    held_keys.reserve(keys.size());
    for (const std::string& key : keys) {
      held_keys.push_back({key, failing.count(key) != 0});
    }
    return held_keys;
  }

  std::vector<std::string> siblings() override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    std::vector<std::string> names;
    for (const auto& [name, place] : state_->cursors) {
      names.push_back(name);
    }
    return names;
  }

  EventLog::Backlog backlog() override {
    const std::lock_guard guard{state_->mutex};
    require_log();
    const std::size_t settled = state_->cursors[name_].settled;
    EventLog::Backlog backlog{.exact = true, .position = std::to_string(settled)};
    for (std::size_t i = settled; i < state_->log.size(); ++i) {
      if (i - settled == counted) {
        backlog.events += state_->log.size() - i;
        backlog.exact = false;
        break;
      }
      if (mine(state_->log[i]) && backlog.events++ == 0) {
        backlog.age = std::chrono::duration_cast<milliseconds>(state_->clock.now() - state_->log[i].at);
      }
    }
    return backlog;
  }

  void wait(milliseconds most, std::stop_token stop) override {
    std::unique_lock lock{state_->mutex};
    if (next_ >= state_->log.size()) {
      state_->clock.wait_until(state_->appended, lock, state_->clock.now() + std::min(most, milliseconds{86'400'000}),
                               std::move(stop));
    }
  }

  void release() noexcept override {
    const std::lock_guard guard{state_->mutex};
    const auto place = state_->cursors.find(name_);
    if (place != state_->cursors.end() && token_ != 0 && place->second.token == token_) {
      place->second.owned = false;
    }
    token_ = 0;
  }

 private:
  void read_parked(std::size_t max, std::vector<EventLog::Entry>& entries) {
    StoreState::Held& waiting = state_->held[name_];
    std::set<std::string> held = waiting.dead;
    for (auto& [id, follower] : waiting.followers) {
      const bool free = held.count(follower.event.key) == 0;
      if (follower.failures > 0 && !follower.event.key.empty()) {
        held.insert(follower.event.key);  // for those behind it
      }
      if (free && !follower.out && entries.size() < max && follower.due <= state_->clock.now()) {
        follower.out = true;
        positions_.push_back({.follower = id});
        entries.push_back({settled_ + positions_.size(), follower.event, true, follower.failures});
      }
    }
    gave_parked_ = !entries.empty();
  }

  void read_log(std::size_t max, std::vector<EventLog::Entry>& entries) {
    for (; next_ < state_->log.size() && entries.size() < max; ++next_) {
      const StoreState::Appended& appended = state_->log[next_];
      if (mine(appended)) {
        positions_.push_back({.end = next_ + 1});
        entries.push_back({settled_ + positions_.size(), appended.event});
      }
    }
  }

  void require_log() const {
    if (state_->away) {
      throw LogUnavailable{"the memory datastore is away"};
    }
  }

  [[nodiscard]] bool mine(const StoreState::Appended& appended) const { return route_covered(patterns_, appended.route); }

  struct Position {
    std::size_t end = 0;         ///< the log's entries up to it, when it is settled
    std::uint64_t follower = 0;  ///< or the parked event it is
  };
  Position& position(const EventLog::Entry& entry) { return positions_.at(entry.sequence - settled_ - 1); }

  StoreState::Place& held() {
    StoreState::Place& place = state_->cursors[name_];
    if (token_ == 0 || !place.owned || place.token != token_) {
      token_ = 0;
      throw LeaseLost{"the lease of cursor '" + name_ + "' is another relay's"};
    }
    return place;
  }

  void renew(StoreState::Place& place) const { place.lease_until = state_->clock.now() + lease; }

  std::shared_ptr<StoreState> state_;
  std::string name_;
  std::vector<std::string> patterns_;
  std::uint64_t token_ = 0;
  std::size_t next_ = 0;            ///< the log's entry to look at next
  bool gave_parked_ = false;        ///< the last read did
  std::deque<Position> positions_;  ///< of the entries read and not settled
  std::uint64_t settled_ = 0;       ///< entries of this ownership
};

}  // namespace

std::unique_ptr<EventLog::Cursor> make_cursor(std::shared_ptr<StoreState> state, const std::string& name,
                                              const std::vector<std::string>& patterns) {
  return std::make_unique<MemoryCursor>(std::move(state), name, patterns);
}

}  // namespace penstock::testing::memory
