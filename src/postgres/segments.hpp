// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "penstock/logger.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

struct SegmentPolicy {
  std::int64_t segment_bytes = std::int64_t{64} << 20U;
  std::chrono::seconds segment_age{3'600};
  std::chrono::seconds retention{0};
  std::int64_t retention_bytes = 0;  ///< 0: no bound
  std::chrono::milliseconds interval{5'000};
  std::chrono::milliseconds grace{2'000};            ///< a segment is left alone for so long after it was seen to be closed
  std::chrono::seconds abandoned{600};               ///< a cursor without a lease for so long that holds a segment is reported
  std::int64_t fold_bytes = std::int64_t{2} << 20U;  ///< size of `cursor_log` at which it is folded into `cursors`
};

/// Keeps the log small: makes the next segment the one that takes the appends, truncates those that every cursor has behind
/// itself, and folds the log of checkpoints. One for all cursors of an outbox in a process; several processes may do it at
/// once.
///
/// Why a truncation loses nothing: it has the segment's lock to itself, so that nobody has rows in it that are not committed or
/// undone; then, in a statement with a snapshot of its own, it asks whether the stored place of every cursor sees every row.
/// Who chose the segment before and has not inserted yet waits for the lock, and inserts into the emptied segment, where
/// readers find the row by its transaction like any other.
///
/// Appends do not wait: they go to another segment. Only who chose this one and stood still through the `grace` would, for the
/// few milliseconds of a TRUNCATE; and readers do. The lock is asked for with NOWAIT, so that nothing queues behind the
/// question (with a deadline of 25 ms in every tenth attempt, for a log that is read all the time).
///
/// Thread safety: any thread, each with its own connection.
class Segments {
 public:
  Segments(const std::string& schema, SegmentPolicy policy, std::shared_ptr<Logger> logger);

  /// Whether it is time to look: true once in each interval.
  bool due();
  /// Does what is to be done. Throws only what a broken connection throws.
  void tend(pqxx::connection& connection);
  /// As above, but throws also what the server refuses.
  void look(pqxx::connection& connection);

 private:
  static constexpr std::size_t kRing = 3;
  struct State {
    std::size_t active = 0;
    std::array<std::int64_t, kRing> rows_bytes{};  // of the heap; 0: empty
    std::array<std::int64_t, kRing> bytes{};
    bool old = false;
    std::int64_t log_bytes = 0;
  };

  bool closed_for_long(std::size_t active, std::size_t segment);
  State state(pqxx::connection& connection);
  bool may_truncate(pqxx::transaction_base& tx, std::size_t segment, bool whatever_age);
  bool truncate(pqxx::connection& connection, std::size_t segment, bool whatever_age);
  void advance(pqxx::connection& connection, std::size_t from);
  void fold(pqxx::connection& connection);
  bool enter(pqxx::transaction_base& tx);
  void report(const std::string& what, const std::string& message) noexcept;  // once
  void report_abandoned(pqxx::connection& connection, std::size_t segment);

  std::string schema_;
  SegmentPolicy policy_;
  std::shared_ptr<Logger> logger_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_{};                                      // under the mutex, like what follows
  std::array<std::optional<std::chrono::steady_clock::time_point>, kRing> closed_{};  // first seen to be
  std::array<unsigned, kRing> refused_{};                                             // since a lock was had last
  std::set<std::string> reported_;
};

}  // namespace penstock::postgres
