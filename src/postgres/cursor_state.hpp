// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "postgres/pqxx_compat.hpp"
#include "postgres/window_reader.hpp"

namespace penstock::postgres {

/// What is stored of a cursor: its row in `cursors`, written when the lease changes hands, and what was checkpointed since then
/// in `cursor_log`. Every write names the token it is made under, and locks the row to be sure of it, which leaves no dead row.
///
/// Thread safety: one thread. Lifetime: a value; the connection is given to each call.
class CursorState {
 public:
  CursorState(std::string schema, std::string name, std::string owner);

  /// Takes the lease under the next token, and returns the stored place; nothing while another owner's lease holds.
  std::optional<LogPosition> take(pqxx::connection& connection, std::chrono::milliseconds lease);
  /// Stores a place under the token, renewing the lease for so long or giving it up; returns the number of the transaction.
  /// Throws LeaseLost.
  std::uint64_t write(pqxx::transaction_base& tx, const LogPosition& position,
                      std::optional<std::chrono::milliseconds> lease) const;
  /// The stored place, whoever's it is; the beginning of the log when there is none.
  LogPosition read(pqxx::connection& connection) const;

  [[nodiscard]] const std::string& owner() const { return owner_; }
  [[nodiscard]] std::int64_t token() const { return token_; }

 private:
  std::string schema_;
  std::string name_;
  std::string owner_;
  std::int64_t token_ = 0;
};

/// See Outbox::drop_cursor.
bool drop_cursor(pqxx::connection& connection, const std::string& schema, const std::string& name);

}  // namespace penstock::postgres
