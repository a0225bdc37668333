// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/datastore.hpp"
#include "penstock/event_log.hpp"

namespace penstock::testing {

/// Inbox, parked messages, dead letters and outbox in memory, with the semantics of PostgresDatastore but no SQL: for unit
/// tests of handlers whose effect is emitted events or calls to a fake. `Context::tx()` throws. It is also the log that a Relay
/// reads what was emitted from.
///
/// Thread safety: any thread. Lifetime: must outlive consumers and relays that use it.
class PENSTOCK_EXPORT MemoryDatastore final : public Datastore, public EventLog {
 public:
  explicit MemoryDatastore(Clock& clock = Clock::system());
  ~MemoryDatastore() override;

  /// As Outbox::append with an immediate commit.
  void append(Event event);

  [[nodiscard]] std::vector<Event> emitted() const;  ///< every event appended or emitted, in order
  [[nodiscard]] std::vector<DeadLetter> dead_letters() const;
  /// As an operator would: forgets the dead letters of a key, and events that a relay parked behind them are free to go.
  void discard_dead_letters(const std::string& key);
  [[nodiscard]] std::size_t parked(const std::string& group) const;
  /// While away, every call throws DatastoreUnavailable (LogUnavailable for cursors).
  void set_away(bool away);

  std::unique_ptr<Datastore::Session> session(const std::string& group) override;
  std::unique_ptr<EventLog::Cursor> cursor(const std::string& name, const std::vector<std::string>& patterns) override;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::testing
