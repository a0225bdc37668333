// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "postgres/pqxx_compat.hpp"
#include "postgres/snapshot.hpp"
#include "postgres/wake.hpp"

namespace penstock::postgres {

/// What the cursors of one process ask the database together while nothing happens: one statement a second looks for all of
/// them whether anything was committed, and renews the leases of those that rest.
///
/// Thread safety: any thread, each with its own connection; who asks while another is asking waits for its answer.
class Watch {
 public:
  using Steady = std::chrono::steady_clock;

  /// `shared_by_pooler`: the connections are not ours alone, so that settings are sent with every look.
  Watch(const std::string& schema, std::shared_ptr<WakeHub> hub, bool shared_by_pooler);

  /// Whether certainly nothing was committed after `since`, when a read of one's own began that found nothing, and before the
  /// last look, which is at most a second old and not older than the last word to be woken. A look that finds something
  /// signals all sleeping cursors. Throws libpqxx's exceptions.
  bool nothing_since(Steady::time_point since, pqxx::connection& connection);

  /// Whether the last look found events that wait for a cursor beside the log.
  bool any_behind();

  /// What was seen until now counts no more: the server may be another, with transaction ids of its own.
  void forget() noexcept;

  struct Lease {
    std::string owner{};
    std::int64_t token = 0;
    std::chrono::milliseconds lasts{0};
  };
  /// The cursor has nothing to do, and its stored place is the place it has: looks renew its lease from now on, for as long as
  /// it calls `renewed` before the lease would have ended.
  void rest(const std::string& cursor, const Lease& lease);
  /// When the lease was last renewed by a look, and not at all when it was taken over.
  std::optional<Steady::time_point> renewed(const std::string& cursor);
  /// The cursor does things by itself again. Waits for a look that is under way.
  void rise(const std::string& cursor) noexcept;

  /// Whether the cursor's lease is somebody else's, by an answer that is at most a tenth of a second old.
  bool is_held(const std::string& cursor, const std::string& owner, pqxx::connection& connection);

  /// Makes appends NOTIFY for at least `most` from now on. True when that was said after `since` and nobody has looked since
  /// then: what was committed before it must be looked for once more. Throws libpqxx's exceptions.
  bool announce_sleep(std::chrono::milliseconds most, Steady::time_point since, pqxx::connection& connection);

 private:
  struct Resting {
    Lease lease{};
    Steady::time_point renewed{};
    Steady::time_point seen{};
    bool lost = false;
  };

  void look(pqxx::connection& connection);

  const std::string schema_;
  const std::string look_sql_;
  const std::shared_ptr<WakeHub> hub_;
  std::mutex mutex_;
  std::optional<Snapshot> seen_{};   // at the last look
  Steady::time_point first_look_{};  // its end
  Steady::time_point last_look_{};   // its beginning
  Steady::time_point found_{};       // the end of the last look that found something
  bool behind_ = false;
  std::map<std::string, Resting> resting_;
  std::map<std::string, std::string> held_;  // cursor → owner
  Steady::time_point held_asked_{};
  Steady::time_point announced_{};  // the end of saying so
  Steady::time_point announced_until_{};
};

}  // namespace penstock::postgres
