// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "penstock/event.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// What goes into one row of the outbox. The event is complete: id and source are set.
struct OutboxRow {
  const Event* event = nullptr;
  std::string route{};  ///< empty: the event's type
};

/// Appends in the caller's transaction, in this order, with one statement (or several when the rows are many megabytes), and
/// wakes the relays that sleep. Does not validate. libpqxx's exceptions pass through.
void append_rows(pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows);

/// The text of those statements, to be sent together with others in one round trip. Without rows, empty.
std::string append_text(const pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows);

/// As `append_rows` for one row, after taking the transaction-level advisory lock of the event's key.
void append_row_locked(pqxx::transaction_base& tx, const std::string& schema, const OutboxRow& row);

}  // namespace penstock::postgres
