// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace penstock::postgres {

/// Throws std::invalid_argument unless the name can stand unescaped in SQL and leaves room for a notification channel's prefix:
/// [a-z_][a-z0-9_]*, at most 50 characters, not one of Postgres' own ("pg_…").
void check_schema_name(std::string_view schema);

/// The name in double quotes, so that a key word of SQL is a name too. For checked names only.
std::string quoted(std::string_view schema);

/// The NOTIFY channel on which appends wake the relays of a schema.
std::string wake_channel(std::string_view schema);

/// Replaces every "@schema@" in a statement by the quoted name, and "@wake@" by the wake channel.
std::string in_schema(std::string_view sql, std::string_view schema);

}  // namespace penstock::postgres
