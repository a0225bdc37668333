// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

#include "penstock/export.hpp"

namespace penstock {

/// The schema in the database is newer than this library. `what()` names both versions and the remedy.
class PENSTOCK_EXPORT SchemaTooNew : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Brings the schema to this library's version: creates it, or applies the migrations that are missing, all in one transaction
/// under an advisory lock, so any number of processes may call it at once. Does nothing when up to date. Forward only.
/// Blocks; throws SchemaTooNew, std::invalid_argument for a bad schema name ([a-z_][a-z0-9_]*, at most 50), and libpqxx's
/// exceptions for a database that is away or refuses. Thread safety: any thread.
PENSTOCK_EXPORT void migrate(const std::string& url, const std::string& schema = "penstock");

/// The version of the schema in the database; 0 when there is none.
PENSTOCK_EXPORT int schema_version(const std::string& url, const std::string& schema = "penstock");

/// The version this library brings.
PENSTOCK_EXPORT int library_schema_version() noexcept;

}  // namespace penstock
