// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "penstock/event.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/id_floor.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/snapshot.hpp"

namespace penstock::postgres {

/// A place in the log: everything visible in `prev` is before it; and, where there is a `cur`, so is what is visible in `cur`
/// and has an id up to `place`.
struct LogPosition {
  std::string prev{};
  std::string cur{};  ///< empty: none
  std::int64_t place = 0;
  std::int64_t floor = 0;  ///< transactions that had no number at `prev` append above this id
  friend bool operator==(const LogPosition&, const LogPosition&) = default;
};

/// The two snapshots that bound a window, and the floor at the first.
struct Window {
  Snapshot prev{};
  Snapshot cur{};
  std::int64_t floor = 0;
};

struct LogRow {
  std::int64_t id = 0;
  Event event{};
  std::string defect{};  ///< why its headers or extensions are missing
};

struct ReaderLimits {
  std::size_t small_window = 1000;               ///< rows of a window that is read at once
  std::int64_t bytes = std::int64_t{16} << 20U;  ///< of payload held at a time
  std::int64_t chunk = 100'000;                  ///< ids that one statement may walk over
  std::int64_t measured = 10'000;                ///< rows of a window whose ids are looked at before it is read
};

/// A window that is read in parts, and how far that is.
struct OpenWindow {
  std::shared_ptr<const Window> window{};
  std::vector<std::uint64_t> late{};  // were in flight at prev, are complete in cur
  std::int64_t place = 0;             // ids up to here have been taken
  bool measured = false;
  std::optional<std::int64_t> smallest{};  // of those that were not late, or less
  std::int64_t largest = 0;
};

/// Reads the log window by window, each in the order of its ids, with a bounded amount of work in every statement.
///
/// Why this order is right: who wrote an event of a key later had the key's lock only after the earlier one had committed. So a
/// snapshot that sees the later event sees the earlier one, and in one window their ids, drawn under that lock, are in order.
///
/// Thread safety: one thread. Lifetime: a value; the connection is given to each call.
class WindowReader {
 public:
  WindowReader(const std::string& schema, const std::vector<std::string>& patterns, ReaderLimits limits);

  /// To be called for each new connection that `step` will be given. On one that is ours alone the session is set up for these
  /// reads and the statements are prepared, so that a read plans nothing. Throws libpqxx's exceptions.
  void use(pqxx::connection& connection, bool shared_by_pooler);

  /// Goes to a place; what was buffered is forgotten. Throws std::invalid_argument for a snapshot that is none.
  void seek(const LogPosition& position);

  enum class Step : std::uint8_t {
    rows,  ///< rows are buffered
    more,  ///< some of a large window was walked over without a row for us: step again
    end    ///< nothing more is committed now
  };
  /// One bounded statement's (sometimes two statements') work towards the next rows. When it throws, nothing has moved.
  Step step(pqxx::connection& connection);

  [[nodiscard]] bool buffered() const { return !buffer_.empty(); }
  /// A large window is being read in parts.
  [[nodiscard]] bool in_window() const { return open_.has_value(); }
  /// All that is buffered, and the window it belongs to.
  struct Taken {
    std::vector<LogRow> rows{};
    std::shared_ptr<const Window> window{};
  };
  Taken take();
  /// Events whose memory is to be used again.
  void recycle(std::vector<Event> events);

  /// LIKE patterns of the routes that are read, as an array literal; none for all.
  [[nodiscard]] const std::optional<std::string>& patterns() const { return patterns_; }
  /// They are the routes that are not read.
  [[nodiscard]] bool complement() const { return complement_; }

  /// When nothing is buffered and no window is open: everything visible in this has been taken.
  [[nodiscard]] std::optional<LogPosition> closed_at() const;
  /// A transaction was given this number just now, on the connection that is read by. Spares later searches.
  void mark(std::uint64_t txid) { floor_.mark(txid); }

 private:
  struct Statement {
    std::string name{};  // when it is prepared
    std::string sql{};
  };

  pqxx::result read(pqxx::transaction_base& tx, const Statement& statement, const Parameters& parameters) const;
  Step poll(pqxx::connection& connection);
  Step measure(pqxx::connection& connection);
  Step walk(pqxx::connection& connection);
  void advance(Snapshot to);
  Step close();
  using Index = pqxx::result::size_type;
  Step fill(const pqxx::result& rows, Index end, std::int64_t to);
  void decode(const pqxx::result& rows, Index first, Index end);
  [[nodiscard]] std::int64_t small_bytes() const;
  LogRow read_row(const pqxx::row& row);

  std::optional<std::string> patterns_;
  bool complement_ = false;
  ReaderLimits limits_;
  Statement poll_;
  Statement extent_;
  Statement ends_;
  Statement late_extent_;
  Statement late_rows_;
  Statement range_rows_;
  Statement small_rows_;
  bool prepared_ = false;

  Snapshot prev_ = Snapshot::beginning();
  std::int64_t prev_floor_ = 0;
  IdFloor floor_{};
  std::optional<OpenWindow> open_{};
  bool payloads_are_small_ = true;  // of late
  std::vector<LogRow> buffer_{};
  std::vector<Event> spare_{};
  std::shared_ptr<const Window> buffer_window_{};
};

}  // namespace penstock::postgres
