// SPDX-License-Identifier: Apache-2.0
#include "postgres/backlog.hpp"

#include <algorithm>
#include <cstdint>

#include "postgres/fill_in.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/snapshot.hpp"
#include "postgres/window_sql.hpp"

namespace penstock::postgres {
namespace {

constexpr std::int64_t kCounted = 1000;

}  // namespace

std::string backlog_sql(const std::string& schema) {
  // Between two transactions that are in flight everything is visible, so that no probe walks over the rows of an open one.
  return in_schema(
      "WITH gaps AS (SELECT t, lead(t) OVER (ORDER BY t) AS until FROM (SELECT $1::xid8 AS t"
      "  UNION ALL SELECT x FROM pg_snapshot_xip(pg_current_snapshot()) x WHERE x > $1::xid8"
      "  UNION ALL SELECT pg_snapshot_xmax(pg_current_snapshot())) b),"
      " fresh AS (SELECT r.* FROM (SELECT * FROM gaps WHERE until IS NOT NULL ORDER BY t) g CROSS JOIN LATERAL"
      "  (SELECT id, txid, route, appended_at FROM @schema@.outbox o"
      "   WHERE (o.txid, o.id) > (g.t, 9223372036854775807) AND o.txid < g.until ORDER BY o.txid, o.id LIMIT $6::int + 1) r"
      "  LIMIT $6::int + 1),"
      " late AS (SELECT r.* FROM (SELECT t FROM unnest($2::xid8[]) t"
      "  WHERE pg_visible_in_snapshot(t, pg_current_snapshot()) OFFSET 0) l CROSS JOIN LATERAL"
      "  (SELECT id, txid, route, appended_at FROM @schema@.outbox o"
      "   WHERE (o.txid, o.id) >= (l.t, 0) AND (o.txid, o.id) <= (l.t, 9223372036854775807)"
      "   ORDER BY o.txid, o.id LIMIT $6::int + 1) r LIMIT $6::int + 1),"
      " found AS MATERIALIZED (SELECT * FROM fresh UNION ALL SELECT * FROM late),"
      " ahead AS MATERIALIZED (SELECT * FROM found WHERE ($3::pg_snapshot IS NULL OR id > $4::bigint"
      "   OR NOT pg_visible_in_snapshot(txid, $3::pg_snapshot))"
      "  AND ($5::text[] IS NULL OR route LIKE ANY ($5::text[])))"
      " SELECT (SELECT count(*) FROM found) > $6::int AS full, (SELECT min(id) FROM found) AS lowest, count(*) AS ahead,"
      "  (SELECT last_value FROM @schema@.outbox_id_seq) AS last,"
      "  floor(extract(epoch FROM clock_timestamp() - coalesce(min(appended_at), CASE WHEN $3::pg_snapshot IS NOT NULL THEN"
      "   (SELECT appended_at FROM @schema@.outbox o WHERE o.id > $4::bigint ORDER BY o.id LIMIT 1) END)) * 1000)::bigint AS "
      "age"
      " FROM ahead",
      schema);
}

EventLog::Backlog measure_backlog(pqxx::transaction_base& tx, const std::string& schema, const LogPosition& position,
                                  const std::optional<std::string>& patterns, bool complement) {
  const Snapshot prev = Snapshot::parse(position.prev);
  const auto cur = position.cur.empty() ? std::nullopt : std::optional{position.cur};
  const std::string sql = complement ? routes_complemented(backlog_sql(schema)) : backlog_sql(schema);
  const auto row =
      tx.exec(reader_settings() + filled_in(tx, sql,
                                            {std::to_string(prev.xmax - 1), array_of(prev.in_flight), cur,
                                             std::to_string(position.place), patterns, std::to_string(kCounted)}))[0];
  EventLog::Backlog backlog{.position = position.prev};
  if (cur) {
    backlog.position += " then " + *cur + " up to " + std::to_string(position.place);
  }
  backlog.exact = !row["full"].as<bool>();
  if (backlog.exact) {
    backlog.events = row["ahead"].as<std::uint64_t>();
  } else {
    const auto settled = std::max(row["lowest"].as<std::int64_t>() - 1, position.place);
    backlog.events = static_cast<std::uint64_t>(std::max<std::int64_t>(row["last"].as<std::int64_t>() - settled, 1));
  }
  if (backlog.events > 0 && !row["age"].is_null()) {
    backlog.age = std::chrono::milliseconds{std::max<std::int64_t>(row["age"].as<std::int64_t>(), 0)};
  }
  return backlog;
}

}  // namespace penstock::postgres
