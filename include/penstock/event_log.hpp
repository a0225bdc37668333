// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/event.hpp"

namespace penstock {

/// Another relay has taken the cursor over; nothing more may be done under the old lease.
class PENSTOCK_EXPORT LeaseLost : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// The log's database cannot be reached. Nothing was decided.
class PENSTOCK_EXPORT LogUnavailable : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A log of committed events that a Relay reads: an Outbox, or testing::MemoryDatastore. Services append and never see this
/// class.
///
/// Thread safety: `cursor` from any thread. Lifetime: must outlive its cursors.
class PENSTOCK_EXPORT EventLog {
 public:
  struct Entry {
    std::uint64_t sequence = 0;  ///< counts the entries of one ownership of one cursor, from 1, without gaps
    Event event{};
    bool returned = false;  ///< was parked, and nothing holds its key any more
    int failures = 0;       ///< how often it had failed when it was parked; 0: it only waited
    std::string defect{};   ///< why not all of the event could be read: it is to be buried
  };

  /// An entry that is to be parked.
  struct Parking {
    const Entry* entry = nullptr;
    int failures = 0;                    ///< 0: it waits behind an earlier one of its key; else it is to be tried again …
    std::chrono::milliseconds delay{0};  ///< … not before that, by the log's clock
    std::string error{};                 ///< of the last failure
  };

  /// A key whose events wait in the log's keeping.
  struct HeldKey {
    std::string key{};
    bool failing = false;  ///< behind one that is to be tried again, and no dead letter
  };

  /// What a cursor has still to settle.
  struct Backlog {
    std::uint64_t events = 0;  ///< committed and not settled
    bool exact = false;        ///< else `events` is about right, and also counts what goes to others and was rolled back
    std::chrono::milliseconds age{0};  ///< since the oldest of them was appended
    std::string position{};            ///< up to where everything is settled, in the log's own terms: for people to read
  };

  /// One destination's place in the log, held under a lease with a fencing token.
  /// Every call may throw LogUnavailable (call again) or LeaseLost (start over with `acquire`).
  /// Thread safety: one thread at a time.
  class PENSTOCK_EXPORT Cursor {
   public:
    virtual ~Cursor() = default;
    /// Takes the lease, or finds another relay holding it (false). On success reading starts after the last checkpoint and
    /// sequences start again from 1.
    virtual bool acquire() = 0;
    /// The next entries, each once, per key in the order they were committed in; empty when nothing more is committed now, or
    /// when there was none for this cursor in what was looked at so far. Holds no transaction or lock on return.
    virtual std::vector<Entry> read(std::size_t max) = 0;
    /// Which of both an empty `read` meant: false when it is to be called again at once.
    [[nodiscard]] virtual bool at_end() const { return true; }
    /// Takes back events that are of no more use, so that `read` may fill them anew instead of making others.
    virtual void recycle(std::vector<Event>&& events) { static_cast<void>(events); }
    /// Everything up to and including `sequence` is settled. Cheap: it is written, under the token, at most a few times a
    /// second and on `release`. Also renews the lease, so it is to be called at least once a second, also when nothing moved.
    virtual void checkpoint(std::uint64_t sequence) = 0;
    /// Records an event that will never be published as a dead letter of the log's side, durably, before returning. If it
    /// `holds` its key, what is parked of the key waits until the dead letter was replayed or discarded.
    virtual void bury(const Entry& entry, const std::string& channel, const std::string& error, int attempts, bool holds) = 0;
    /// What is left to settle, by this owner's last `checkpoint`; without the lease, by what is stored. Costs the same whatever
    /// the backlog: a few statements' time, so ask about once a second.
    virtual Backlog backlog() = 0;
    /// Records events, durably, before returning, as waiting: they then count as settled. `read` gives them out again, in their
    /// order, when no dead letter holds their key, and one that has failed when its time has come; what is parked behind such a
    /// one waits until that is settled.
    virtual void park(std::span<const Parking> entries, const std::string& channel) = 0;
    /// The keys of this cursor that a dead letter holds, or with events that are parked and were not given out again.
    virtual std::vector<HeldKey> held_keys() = 0;
    /// The names of all cursors this log has had.
    virtual std::vector<std::string> siblings() = 0;
    /// Waits for a sign that something was committed, or for `most`. A hint only: it may be lost or be for nothing.
    virtual void wait(std::chrono::milliseconds most, std::stop_token stop) = 0;
    /// Writes the checkpoint and gives the lease up, so that another relay takes over at once. Does not throw.
    virtual void release() noexcept = 0;
  };

  virtual ~EventLog() = default;
  /// The cursor of that name (made at its first `acquire`), seeing only events whose route matches one of the patterns. A route
  /// is the event's type, or `dead_letters_of(channel)` for a dead letter; see `route_covered`.
  virtual std::unique_ptr<Cursor> cursor(const std::string& name, const std::vector<std::string>& patterns) = 0;
};

/// Whether a pattern such as "shop.order.*" covers a route: `*` stands for any run of characters, also dots and none.
PENSTOCK_EXPORT bool route_matches(std::string_view pattern, std::string_view route) noexcept;

/// Whether a cursor's patterns cover a route: one of them matches. When each begins with `!`, as "!shop.order.*", the cursor
/// is for the rest: none of them matches without the `!`.
PENSTOCK_EXPORT bool route_covered(const std::vector<std::string>& patterns, std::string_view route) noexcept;
/// Whether the patterns are those of a cursor for the rest. Throws std::invalid_argument when only some of them begin with `!`.
PENSTOCK_EXPORT bool route_complement(const std::vector<std::string>& patterns);

}  // namespace penstock
