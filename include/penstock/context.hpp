// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/event.hpp"

namespace pqxx {
class transaction_base;
}

namespace penstock {

struct Message;

/// An event that is to be emitted later.
struct ScheduledEvent {
  Event event{};
  std::chrono::milliseconds delay{0};  ///< from the commit of the effect, by the store's clock
};

/// What a handler has beside its message: the transaction, a way to emit events, and its attempt.
///
/// Thread safety: belongs to the thread that runs the handler. Lifetime: ends with the handler's return.
class PENSTOCK_EXPORT Context {
 public:
  Context(const Message& message, std::string group, std::string source, int attempt, pqxx::transaction_base* tx,
          std::stop_token stop, std::optional<Clock::TimePoint> deadline = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// The Postgres transaction that holds the inbox mark, this handler's SQL, the emitted events, the audit row and the
  /// checkpoint. The consumer commits it; a handler never does. It is a pqxx::nontransaction inside BEGIN and COMMIT: for a
  /// savepoint of its own a handler executes SAVEPOINT. Throws std::logic_error on a consumer without a Datastore.
  [[nodiscard]] pqxx::transaction_base& tx() const;

  /// Emits an event in this transaction: it exists if and only if the effect does. What is not set is filled in: `id` derived
  /// from the consumer, the message and the position, so that a repeat upstream dies downstream; `source`; `correlation_id`
  /// and `traceparent` from the message; `causation_id` its id; `time` is the
  /// datastore's to set. Throws InvalidEvent.
  void emit(Event event);
  /// As above, and the event is emitted no earlier than `delay` from now, by the store's clock: until then it is parked there,
  /// holds up no key, and a restart forgets nothing. Some consumer of the group must run then. Its place among other events of
  /// its key is that of its emission. Needs a Datastore: without one the handler has failed.
  void emit(Event event, std::chrono::milliseconds delay);

  /// Which attempt this is, from 1.
  [[nodiscard]] int attempt() const noexcept { return attempt_; }

  /// The same for every attempt at this message by this group, for calls to the outside that take an idempotency key.
  [[nodiscard]] const std::string& idempotency_key() const;

  /// Asked to stop, since the consumer stops or the deadline has passed: a long handler returns Verdict::retry soon. When the
  /// consumer stops, that counts neither as success nor as an attempt; after the deadline it is a failed attempt. What is done
  /// all the same is done. Statements are bounded by the datastore's statement_timeout.
  [[nodiscard]] std::stop_token stop_token() const noexcept { return stop_; }
  /// Until when the handler should have returned, by ConsumerOptions::handler_timeout; nothing without one.
  [[nodiscard]] std::optional<Clock::TimePoint> deadline() const noexcept { return deadline_; }

  /// What was emitted so far. For the engine and for tests.
  [[nodiscard]] const std::vector<Event>& emitted() const noexcept { return emitted_; }
  [[nodiscard]] const std::vector<ScheduledEvent>& scheduled() const noexcept { return scheduled_; }

 private:
  [[nodiscard]] Event completed(Event event) const;

  const Message& message_;
  std::string group_;
  std::string source_;
  int attempt_;
  pqxx::transaction_base* tx_;
  std::stop_token stop_;
  std::optional<Clock::TimePoint> deadline_;
  mutable std::string idempotency_key_;  ///< made when it is asked for
  std::vector<Event> emitted_;
  std::vector<ScheduledEvent> scheduled_;
};

}  // namespace penstock
