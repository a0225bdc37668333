// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "penstock/event_log.hpp"
#include "penstock/logger.hpp"
#include "postgres/delivery_tracker.hpp"
#include "postgres/outbox_parked.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/wake.hpp"
#include "postgres/window_reader.hpp"

namespace penstock::postgres {

struct CursorSettings {
  std::string url{};
  std::string schema{};
  std::chrono::milliseconds lease{5'000};
  std::shared_ptr<Logger> logger{};
  std::shared_ptr<WakeHub> hub{};
  ReaderLimits limits{};
};

/// A row of `cursors`, and the reading that its lease allows.
///
/// After an error the connection is thrown away, and with it the place in memory: the server may have come back from a crash or
/// as a standby that lacks the last commits, and may use their transaction ids again. What is stored is always in keeping with
/// what the server has, so `acquire` goes on from there (at once, the owner being the same).
class PostgresCursor final : public EventLog::Cursor {
 public:
  PostgresCursor(CursorSettings settings, std::string name, const std::vector<std::string>& patterns);
  ~PostgresCursor() override;
  PostgresCursor(const PostgresCursor&) = delete;
  PostgresCursor& operator=(const PostgresCursor&) = delete;

  bool acquire() override;
  std::vector<EventLog::Entry> read(std::size_t max) override;
  void checkpoint(std::uint64_t sequence) override;
  void bury(const EventLog::Entry& entry, const std::string& channel, const std::string& error, int attempts) override;
  EventLog::Backlog backlog() override;
  void park(std::span<const EventLog::Entry> entries, const std::string& channel) override;
  std::vector<std::string> held_keys() override;
  std::vector<std::string> siblings() override;
  void wait(std::chrono::milliseconds most, std::stop_token stop) override;
  void release() noexcept override;

 private:
  using Steady = std::chrono::steady_clock;
  enum class Lease : std::uint8_t { renew, give_up };

  template <class Work>
  auto guarded(const char* what, Work work) -> decltype(work());
  void connect();
  void disconnect() noexcept;
  void require_lease() const;
  void recover_from_restore();
  bool take_lease(pqxx::transaction_base& tx);
  void write(pqxx::transaction_base& tx, Lease lease);
  void write_alone(Lease lease);
  bool announce_sleep(bool asleep);
  void note_closed();
  void log(LogLevel level, const std::string& message) const noexcept;

  CursorSettings settings_;
  std::string name_;
  std::string owner_;
  std::shared_ptr<Waker> waker_ = std::make_shared<Waker>();
  std::unique_ptr<pqxx::connection> connection_{};
  bool hinted_ = false;
  std::unique_ptr<Listener> listener_{};  // dies before the connection
  WindowReader reader_;
  DeliveryTracker tracker_{};
  ParkedEvents parked_;

  bool owned_ = false;
  std::int64_t token_ = 0;
  bool settled_more_ = false;  // since the last write
  Steady::time_point written_{};
  std::optional<Steady::time_point> announced_{};
  Steady::time_point slept_{};  // the last wait that was long enough to be called sleep
};

}  // namespace penstock::postgres
