// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "penstock/event.hpp"
#include "penstock/event_log.hpp"
#include "penstock/logger.hpp"

namespace pqxx {
class transaction_base;
}

namespace penstock {

struct OutboxOptions {
  std::string schema = "penstock";  ///< made by `migrate`; [a-z_][a-z0-9_]*, at most 50
  std::string source{};             ///< required unless every event sets its own: CloudEvents `source`, as "/shop/orders-api"
  std::string content_type = "application/json";  ///< of events with data that name none
  std::chrono::milliseconds lease{4'000};         ///< how long a relay that has died keeps its cursors from others
  /// Relays work through the log in segments and truncate each when every cursor has settled all of it. A segment is closed at
  /// this size or age; what is in it then stays for `retention` after it was appended, unless there are more closed segments
  /// than `retention_bytes` (0: no bound). Nothing is truncated while there is no cursor.
  std::int64_t segment_bytes = std::int64_t{64} << 20U;
  std::chrono::seconds segment_age{3'600};
  std::chrono::seconds retention{0};
  std::int64_t retention_bytes = 0;
  /// Whether relays LISTEN for appends. Set it to false where `url` leads to a pooler in transaction mode: then they poll
  /// alone, and leave no setting behind on the pooler's connections.
  bool listen = true;
  std::shared_ptr<Logger> logger{};
};

/// Puts events into the transaction that changes the state, so that both commit or neither does:
///
///     pqxx::work tx{connection};
///     tx.exec_params("INSERT INTO orders(id, customer) VALUES ($1, $2)", order.id, order.customer);
///     outbox.append(tx, {.type = "shop.order.placed.v1", .key = order.id, .data = to_json(order)});
///     tx.commit();
///
/// Order: the events of a key are relayed in the order of the appends if same-key writers take the aggregate's row lock (or
/// another lock of their own) before they append. An append without such a lock, or before it, orders by luck. `append_locked`
/// takes the lock for you.
///
/// It is also the log that a Relay reads; for that, and only for that, it connects to `url` by itself.
///
/// Thread safety: any thread, each with its own transaction. Lifetime: must outlive the relays that read it.
class PENSTOCK_EXPORT Outbox final : public EventLog {
 public:
  /// Does not connect. Throws std::invalid_argument, naming the option, for a bad schema name or source.
  Outbox(std::string url, OutboxOptions options);
  ~Outbox() override;
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  /// Appends in the caller's transaction, one round trip; returns the event's id (UUIDv7 unless set). Fills in what is not
  /// set: id, source, time (the transaction's), content type. Throws InvalidEvent before anything is sent, and libpqxx's own
  /// exceptions unchanged: the transaction is the caller's.
  std::string append(pqxx::transaction_base& tx, Event event);
  /// Appends all in their order with one statement; with one for every 32 MiB or so, if they are more than that.
  std::vector<std::string> append(pqxx::transaction_base& tx, std::span<const Event> events);
  /// As `append`, after taking a transaction-level advisory lock on the key: for callers who hold no lock of their own.
  std::string append_locked(pqxx::transaction_base& tx, Event event);

  /// Tells the relays of this process that something was committed, for the shortest way to the broker. Optional.
  void signal() noexcept;

  std::unique_ptr<Cursor> cursor(const std::string& name, const std::vector<std::string>& patterns) override;

  /// Forgets the place of a destination ("<backend>:<channel>") that no relay serves any more, and which would keep the log
  /// from being truncated. A relay that asks for it again starts at the beginning of what the log still holds. False when there
  /// is none; throws std::runtime_error while a relay holds it, and libpqxx's exceptions.
  bool drop_cursor(const std::string& name);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
