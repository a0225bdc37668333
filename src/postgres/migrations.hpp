// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace penstock::postgres {

/// The SQL that takes the schema from version `number - 1` to `number` (from 1 on), with "@schema@" and "@wake@" to be
/// replaced. Once released, a migration is never edited: what comes later is a further one.
std::string_view migration(int number) noexcept;

/// The number of the last migration.
int last_migration() noexcept;

}  // namespace penstock::postgres
