// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/datastore.hpp"
#include "penstock/event_log.hpp"

namespace penstock::testing::memory {

/// What a MemoryDatastore holds; one mutex guards all of it, and a transaction is one critical section at its end.
struct StoreState {
  using TimePoint = Clock::TimePoint;
  using Identity = std::pair<std::string, std::string>;  ///< source, id

  enum class Mark : std::uint8_t { open, done, parked, dead };
  struct Parked {
    Message message{};
    bool behind = false;
    bool scheduled = false;  ///< an event to be emitted: it stands in no key's line
    bool in_work = false;
    TimePoint due{};
    std::vector<Attempt> attempts{};
    TimePoint first{};                   ///< when the first attempt began
    std::chrono::milliseconds delay{0};  ///< after the last
  };
  struct Group {
    std::map<Identity, Mark> inbox;
    std::map<std::uint64_t, Parked> parked;  ///< in the order they were parked in
    std::map<std::string, std::set<std::uint64_t>> keys;
    std::set<std::pair<TimePoint, std::uint64_t>> due;  ///< those that wait for a time, not behind another
  };
  struct Appended {
    Event event{};
    std::string route{};
    TimePoint at{};
  };
  struct Place {
    std::uint64_t token = 0;
    std::size_t settled = 0;  ///< entries of the log
    bool owned = false;
    TimePoint lease_until{};
  };

  /// What a cursor parked, and the keys that dead letters hold.
  struct Held {
    struct Follower {
      Event event{};
      int failures = 0;  ///< not 0: it is tried again …
      TimePoint due{};   ///< … at this time
      bool out = false;  ///< a relay has it again
    };
    std::set<std::string> dead;
    std::map<std::uint64_t, Follower> followers;  ///< in order
  };

  explicit StoreState(Clock& time) : clock{time} {}

  Clock& clock;
  std::mutex mutex;
  std::condition_variable_any appended;
  bool away = false;
  std::uint64_t next_sequence = 1;
  std::map<std::string, Group> groups;
  std::vector<Appended> log;
  std::map<std::string, Place> cursors;
  std::map<std::string, Held> held;  ///< by cursor
  std::vector<DeadLetter> letters;

  /// Under the mutex. Fills in `time`.
  void append(Event event, std::string route);
};

std::unique_ptr<Datastore::Session> make_session(std::shared_ptr<StoreState> state, const std::string& group);
std::unique_ptr<EventLog::Cursor> make_cursor(std::shared_ptr<StoreState> state, const std::string& name,
                                              const std::vector<std::string>& patterns);

}  // namespace penstock::testing::memory
