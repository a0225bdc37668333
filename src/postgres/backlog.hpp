// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "penstock/event_log.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/window_reader.hpp"

namespace penstock::postgres {

/// What is committed beyond a place in the log. Up to a thousand rows are counted; beyond that the number is the distance of
/// two ids. `patterns` as in window_sql.hpp.
EventLog::Backlog measure_backlog(pqxx::transaction_base& tx, const std::string& schema, const LogPosition& position,
                                  const std::optional<std::string>& patterns, bool complement = false);

/// $1 xmax of prev less one, $2 transactions in flight at prev (array literal), $3 cur or NULL, $4 place, $5 patterns, $6 most
/// rows. Gives counted, full (there are more than $6), matching, lowest id, last id drawn, age in milliseconds or NULL.
std::string backlog_sql(const std::string& schema);

}  // namespace penstock::postgres
