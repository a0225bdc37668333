// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace penstock::postgres {

/// The SQL that takes the schema from version `number - 1` to `number` (from 1 on), with "@schema@" and "@wake@" to be
/// replaced. Once released, a migration is never edited: what comes later is a further one.
std::string_view migration(int number) noexcept;

/// The number of the last migration.
int last_migration() noexcept;

// Their texts, each in a file of its own.
extern const std::string_view kFirst;       ///< the log, the relays' state, and what consumers keep
extern const std::string_view kReplay;      ///< jobs that bring dead letters back, and the letters' counters
extern const std::string_view kPartitions;  ///< inbox and audit trail by time, and their retention
extern const std::string_view kConsumer;    ///< what a consumer does for its messages, as routines
extern const std::string_view kLimits;      ///< rate limits that processes share
extern const std::string_view kLongKeys;    ///< dead letters with keys and ids of any length
extern const std::string_view kAside;       ///< events that keep failing, tried again from where they are parked

}  // namespace penstock::postgres
