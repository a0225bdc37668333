// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/datastore.hpp"
#include "penstock/testing/seeds.hpp"

namespace penstock::testing {

/// Rows as text, by table. Their order does not count.
using Tables = std::map<std::string, std::vector<std::string>>;

struct IdempotenceCheck {
  std::vector<Event> given{};  ///< required; of several keys, or nothing can be reordered
  /// Called before each run: empties what the handler writes, and makes the store of the run. Without it, one in memory.
  std::function<std::unique_ptr<Datastore>()> fresh{};
  /// What is compared after each run, beside what was emitted into a store in memory.
  std::function<Tables()> tables{};
  std::uint64_t seed = 42;  ///< of the order among keys
};

/// Proves by trial that a handler's effect is the same whatever happens to it. First it runs as it should: each event once, in
/// order. Then again from the start, with every event delivered twice; with the keys in another order; and for each commit with
/// a process that dies just before it, and just after. What it leaves in the tables is compared each time, and the first
/// difference is returned, with the run that made it; empty when there is none. A handler differs by what it does outside
/// `ctx.tx()`, by what it reads of other keys, and by clocks and random numbers that it stores.
///
///     EXPECT_EQ(check_idempotent(fulfil, {.given = orders, .fresh = empty_tables, .tables = [&] {
///                                           pqxx::work tx{connection};
///                                           return rows_of(tx, {"orders", "SELECT event_id, type FROM penstock.outbox"});
///                                         }}), "");
///
/// Blocks for as long as that takes: 3 + 2 · commits runs. Throws Unexpected when a run does not end, std::invalid_argument
/// without events. Thread safety: any thread; not twice at once on the same tables.
[[nodiscard]] PENSTOCK_EXPORT std::string check_idempotent(const Handler& handler, const IdempotenceCheck& check);

/// The rows of tables, or of queries that begin with SELECT, read in a transaction of libpqxx.
template <class Transaction>
Tables rows_of(Transaction& tx, const std::vector<std::string>& tables) {
  Tables all;
  for (const std::string& table : tables) {
    const std::string query = std::string_view{table}.substr(0, 6) == "SELECT" ? table : "TABLE " + table;
    std::vector<std::string>& rows = all[table];
    for (const auto& row : tx.exec("SELECT t::text FROM (" + query + ") AS t")) {
      rows.push_back(row[0].c_str());
    }
  }
  return all;
}

}  // namespace penstock::testing
