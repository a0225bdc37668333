// SPDX-License-Identifier: Apache-2.0
#include "penstock/migrate.hpp"

#include <string>

#include "postgres/connection.hpp"
#include "postgres/migrations.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/schema_name.hpp"

namespace penstock {
namespace {

using postgres::in_schema;
using postgres::run;

int read_version(pqxx::transaction_base& tx, const std::string& schema) {
  const auto exists = run(tx, "SELECT to_regclass($1) IS NOT NULL", postgres::quoted(schema) + ".schema_version");
  if (!exists[0][0].as<bool>()) {
    return 0;
  }
  return run(tx, in_schema("SELECT coalesce(max(version), 0) FROM @schema@.schema_version", schema))[0][0].as<int>();
}

void check_not_newer(int version, const std::string& schema) {
  const int ours = postgres::last_migration();
  if (version > ours) {
    throw SchemaTooNew("schema '" + schema + "' has version " + std::to_string(version) + ", this library knows up to " +
                       std::to_string(ours) + ": upgrade penstock in this process");
  }
}

}  // namespace

int library_schema_version() noexcept { return postgres::last_migration(); }

int schema_version(const std::string& url, const std::string& schema) {
  postgres::check_schema_name(schema);
  const auto connection = postgres::connect(url, {});
  pqxx::nontransaction tx{*connection};
  return read_version(tx, schema);
}

void migrate(const std::string& url, const std::string& schema) {
  postgres::check_schema_name(schema);
  const auto connection = postgres::connect(url, {});
  pqxx::work tx{*connection};
  // Under a stricter isolation the version would be read by a snapshot from before the lock was granted.
  tx.exec("SET TRANSACTION ISOLATION LEVEL READ COMMITTED");
  const int before = read_version(tx, schema);
  check_not_newer(before, schema);
  if (before == postgres::last_migration()) {
    return;
  }
  run(tx, "SELECT pg_advisory_xact_lock(hashtextextended('penstock.migrate.' || $1, 0))", schema);
  if (run(tx, "SELECT FROM pg_namespace WHERE nspname = $1", schema).empty()) {
    tx.exec(in_schema("CREATE SCHEMA @schema@", schema));
  }
  tx.exec("SET LOCAL client_min_messages = warning");
  // `txid` is a canary for the numbering of transactions: it equals the row's xmin until the database is dumped and restored,
  // or replicated logically, into a cluster that numbers its transactions by itself. Each row has a number of its own: when all
  // are loaded by one transaction, it cannot have the numbers of all.
  tx.exec(
      in_schema("CREATE TABLE IF NOT EXISTS @schema@.schema_version ("
                "  version integer PRIMARY KEY,"
                "  applied_at timestamptz NOT NULL DEFAULT now(),"
                "  txid xid8 NOT NULL DEFAULT pg_current_xact_id())",
                schema));
  const int version = read_version(tx, schema);
  check_not_newer(version, schema);
  for (int next = version + 1; next <= postgres::last_migration(); ++next) {
    tx.exec(in_schema(postgres::migration(next), schema));
    tx.exec("SAVEPOINT penstock_canary");
    run(tx, in_schema("INSERT INTO @schema@.schema_version(version) VALUES ($1)", schema), next);
    run(tx, in_schema("UPDATE @schema@.schema_version SET txid = xmin::text::xid8 WHERE version = $1", schema), next);
    tx.exec("RELEASE SAVEPOINT penstock_canary");
  }
  tx.commit();
}

}  // namespace penstock
