// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/event.hpp"

namespace pqxx {
class transaction_base;
}

namespace penstock {

struct Message;

/// What a handler has beside its message: the transaction, a way to emit events, and its attempt.
///
/// Thread safety: belongs to the thread that runs the handler. Lifetime: ends with the handler's return.
class PENSTOCK_EXPORT Context {
 public:
  Context(const Message& message, std::string group, std::string source, int attempt, pqxx::transaction_base* tx,
          std::stop_token stop);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// The Postgres transaction that holds the inbox mark, this handler's SQL, the emitted events, the audit row and the
  /// checkpoint. The consumer commits it; a handler never does. Throws std::logic_error on a consumer without a Datastore.
  [[nodiscard]] pqxx::transaction_base& tx() const;

  /// Emits an event in this transaction: it exists if and only if the effect does. What is not set is filled in: `id` derived
  /// from the consumer, the message and the position, so that a repeat upstream dies downstream; `source`; `correlation_id`
  /// and `traceparent` from the message; `causation_id` its id; `time` is the
  /// datastore's to set. Throws InvalidEvent.
  void emit(Event event);

  /// Which attempt this is, from 1.
  [[nodiscard]] int attempt() const noexcept { return attempt_; }

  /// The same for every attempt at this message by this group, for calls to the outside that take an idempotency key.
  [[nodiscard]] const std::string& idempotency_key() const noexcept { return idempotency_key_; }

  /// Asked to stop: a long handler returns Verdict::retry soon, which then counts neither as success nor as an attempt.
  [[nodiscard]] std::stop_token stop_token() const noexcept { return stop_; }

  /// What was emitted so far. For the engine and for tests.
  [[nodiscard]] const std::vector<Event>& emitted() const noexcept { return emitted_; }

 private:
  const Message& message_;
  std::string group_;
  std::string source_;
  int attempt_;
  pqxx::transaction_base* tx_;
  std::stop_token stop_;
  std::string idempotency_key_;
  std::vector<Event> emitted_;
};

}  // namespace penstock
