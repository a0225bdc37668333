// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "penstock/event_log.hpp"
#include "penstock/logger.hpp"
#include "postgres/cursor_state.hpp"
#include "postgres/delivery_tracker.hpp"
#include "postgres/outbox_parked.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/segments.hpp"
#include "postgres/wake.hpp"
#include "postgres/watch.hpp"
#include "postgres/window_reader.hpp"

namespace penstock::postgres {

struct CursorSettings {
  std::string url{};
  std::string schema{};
  std::chrono::milliseconds lease{5'000};
  std::shared_ptr<Logger> logger{};
  std::shared_ptr<WakeHub> hub{};
  std::shared_ptr<Segments> segments{};  ///< tended by whoever has a lease; null: by nobody
  std::shared_ptr<Watch> watch{};        ///< shared by the cursors of a process; null: one of its own
  bool listen = true;
  ReaderLimits limits{};
};

/// A row of `cursors`, and the reading that its lease allows.
///
/// After an error the connection is thrown away, and with it the place in memory: the server may have come back from a crash or
/// as a standby that lacks the last commits, and may use their transaction ids again. What is stored is always in keeping with
/// what the server has, so `acquire` goes on from there (at once, the owner being the same).
/// With a backlog it reads ahead, on a thread of its own for each piece.
class PostgresCursor final : public EventLog::Cursor {
 public:
  PostgresCursor(CursorSettings settings, std::string name, const std::vector<std::string>& patterns);
  ~PostgresCursor() override;
  PostgresCursor(const PostgresCursor&) = delete;
  PostgresCursor& operator=(const PostgresCursor&) = delete;

  bool acquire() override;
  std::vector<EventLog::Entry> read(std::size_t max) override;
  [[nodiscard]] bool at_end() const override { return at_end_; }
  void recycle(std::vector<Event>&& events) override { recycled_ = std::move(events); }
  void checkpoint(std::uint64_t sequence) override;
  void bury(const EventLog::Entry& entry, const std::string& channel, const std::string& error, int attempts,
            bool holds) override;
  EventLog::Backlog backlog() override;
  void park(std::span<const EventLog::Parking> entries, const std::string& channel) override;
  std::vector<EventLog::HeldKey> held_keys() override;
  std::vector<std::string> siblings() override;
  void wait(std::chrono::milliseconds most, std::stop_token stop) override;
  void release() noexcept override;

 private:
  using Steady = std::chrono::steady_clock;

  template <class Work>
  auto guarded(const char* what, Work work) -> decltype(work());
  void connect();
  void disconnect() noexcept;
  pqxx::connection& idle_connection() const;
  WindowReader::Step step();
  void read_ahead();
  void require_lease() const;
  void recover_from_restore();
  void write(pqxx::transaction_base& tx, bool keep_lease);
  void write_alone(bool keep_lease);
  bool nothing_new();
  void rise() noexcept;
  void note_closed();
  void log(LogLevel level, const std::string& message) const noexcept;

  CursorSettings settings_;
  std::string name_;
  std::shared_ptr<Waker> waker_ = std::make_shared<Waker>();
  std::unique_ptr<pqxx::connection> connection_{};
  bool hinted_ = false;
  std::unique_ptr<Listener> listener_{};  // dies before the connection
  WindowReader reader_;
  WindowReader::Taken chunk_{};  // what was read last, and …
  std::size_t handed_out_ = 0;   // … how much of it was handed out
  bool at_end_ = false;          // the last read found nothing because there was nothing
  std::vector<Event> recycled_{};
  std::future<WindowReader::Step> ahead_{};  // while it is not ready, reader and connection are its own
  DeliveryTracker tracker_{};
  ParkedEvents parked_;
  bool gave_parked_ = false;  // the last read did

  CursorState state_;
  bool owned_ = false;
  bool settled_more_ = false;  // since the last write
  Steady::time_point written_{};
  LogPosition stored_{};                          // as it was written last
  std::optional<Steady::time_point> empty_at_{};  // when a read began that found nothing, and no hint came since
  Steady::time_point answered_{};                 // when an announcement of sleep last made us look once more
  bool resting_ = false;                          // the watch renews our lease
  bool waiting_ = false;                          // the lease was somebody else's when we looked last
};

}  // namespace penstock::postgres
