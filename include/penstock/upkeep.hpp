// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "penstock/export.hpp"

namespace penstock {

struct UpkeepOptions {
  std::string schema = "penstock";  ///< made by `migrate`
  /// How long the inbox remembers, at least, that a message was handled; 0: for ever. A message of an older event is then
  /// refused or handled, by `PostgresDatastoreOptions::beyond_retention`.
  std::chrono::hours inbox_retention{24 * 14};
  /// How long the audit trail is kept, to the end of a month; 0: for ever.
  std::chrono::hours audit_retention{24 * 400};
  std::chrono::milliseconds statement_timeout{10'000};
};

struct UpkeepReport {
  std::vector<std::string> done{};  ///< what was created, emptied, dropped and deleted, in words
  bool busy = false;                ///< a lock was not to be had within 50 ms: call again later
};

/// Keeps the partitions of inbox and audit trail: makes those of the coming days and months, and drops what is older than the
/// retentions. To be called by any process, every hour or so; by several at once, one does it and the others find it busy.
/// Without it nothing fails and nothing is dropped, and rows gather in `inbox_other` and `audit_other`.
///
/// Blocks for many short transactions, one for each step; none waits longer than 50 ms for a lock, and so nobody waits longer
/// behind it. Dead letters, outbox and checkpoints are left alone. The role needs EXECUTE on the function `upkeep` of the
/// schema and no right on any table. Throws std::invalid_argument for a retention below a day, and libpqxx's exceptions. Thread
/// safety: any thread.
PENSTOCK_EXPORT UpkeepReport upkeep(const std::string& url, const UpkeepOptions& options = {});

}  // namespace penstock
