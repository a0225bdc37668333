// SPDX-License-Identifier: Apache-2.0
#include "postgres/window_sql.hpp"

#include <string_view>

#include "postgres/schema_name.hpp"

namespace penstock::postgres {
namespace {

constexpr std::string_view kAttributes =
    "id, event_id, source, type, subject, key, content_type, data_schema, time,"
    " CASE WHEN time IS NULL THEN (date_part('epoch', appended_at) * 1000000)::bigint END AS appended_us, correlation_id,"
    " causation_id, traceparent, tracestate, extensions, headers";
const std::string kColumns = std::string{kAttributes} + ", data";
constexpr std::string_view kRange =
    " FROM @schema@.outbox o WHERE o.id > $1::bigint AND o.id <= $2::bigint"
    " AND pg_visible_in_snapshot(o.txid, $4::pg_snapshot) AND NOT pg_visible_in_snapshot(o.txid, $3::pg_snapshot)"
    " AND ($7::text[] IS NULL OR o.route LIKE ANY ($7::text[])) ORDER BY o.id LIMIT $5::int";

// Cuts a run of rows off where their payloads exceed the limit, but never before the first row. The lengths are read without
// fetching the payloads.
std::string within_bytes(std::string_view rows, std::string_view bytes) {
  return "SELECT " + kColumns +
         " FROM (SELECT r.*, sum(coalesce(octet_length(r.data), 0)) OVER (ORDER BY r.id ROWS UNBOUNDED PRECEDING)"
         " - coalesce(octet_length(r.data), 0) AS before FROM (" +
         std::string{rows} + ") r) s WHERE before < " + std::string{bytes} + " ORDER BY id";
}

}  // namespace

// Under SERIALIZABLE our reads could make the appends of others fail.
std::string reader_settings() {
  return "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;"
         " SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off; SET LOCAL statement_timeout = '60s'; SET LOCAL "
         "bytea_output = 'hex'; ";
}

std::string reader_session_settings() {
  return "SET default_transaction_isolation = 'read committed'; SET enable_seqscan = off; SET enable_bitmapscan = off;"
         " SET max_parallel_workers_per_gather = 0; SET jit = off; SET statement_timeout = '60s'; SET bytea_output = 'hex';"
         " SET plan_cache_mode = force_generic_plan";
}

std::string poll_sql(const std::string& schema) {
  // `late` asks the present snapshot before it probes: an open transaction that appends millions would be walked over each
  // time.
  return in_schema(
      "WITH fresh AS MATERIALIZED (SELECT * FROM @schema@.outbox WHERE txid >= $1::xid8"
      "  AND txid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY txid, id LIMIT $3::int + 1),"
      " late AS MATERIALIZED (SELECT r.* FROM (SELECT t FROM unnest($2::xid8[]) t"
      "  WHERE pg_visible_in_snapshot(t, pg_current_snapshot()) OFFSET 0) l CROSS JOIN LATERAL"
      "  (SELECT * FROM @schema@.outbox o WHERE (o.txid, o.id) >= (l.t, 0) AND (o.txid, o.id) <= (l.t, 9223372036854775807)"
      "   ORDER BY o.txid, o.id LIMIT $3::int + 1) r),"
      " size AS MATERIALIZED (SELECT count(*) > $3::int OR coalesce(sum(bytes), 0) > $4::bigint AS large, max(id) AS largest "
      "FROM"
      "  (SELECT id, octet_length(data) AS bytes FROM fresh UNION ALL SELECT id, octet_length(data) FROM late) b)"
      " SELECT NULL::bigint AS id, NULL AS event_id, NULL AS source, NULL AS type, NULL AS subject, NULL AS key,"
      "  NULL AS content_type, NULL AS data_schema, NULL AS time, NULL::bigint AS appended_us, NULL AS correlation_id,"
      "  NULL AS causation_id, NULL AS traceparent, NULL AS tracestate, NULL::jsonb AS extensions, NULL::jsonb AS headers,"
      "  NULL::bytea AS data, pg_current_snapshot()::text AS cur, large, largest FROM size"
      " UNION ALL SELECT " +
          kColumns +
          ", NULL, NULL, NULL"
          " FROM (SELECT * FROM fresh UNION ALL SELECT * FROM late) w, size WHERE NOT large"
          "  AND ($5::text[] IS NULL OR route LIKE ANY ($5::text[]))"
          " ORDER BY id NULLS FIRST",
      schema);
}

std::string extent_sql(const std::string& schema) {
  return in_schema(
      "WITH pairs AS MATERIALIZED (SELECT txid, id FROM @schema@.outbox WHERE txid >= $1::xid8 AND txid < $2::xid8"
      "  ORDER BY txid, id LIMIT $4::int)"
      " SELECT count(*) AS pairs, min(id) FILTER (WHERE pg_visible_in_snapshot(txid, $3::pg_snapshot)) AS smallest,"
      "  max(id) FILTER (WHERE pg_visible_in_snapshot(txid, $3::pg_snapshot)) AS largest FROM pairs",
      schema);
}

std::string ends_sql(const std::string& schema) {
  return in_schema(
      "SELECT (SELECT id FROM @schema@.outbox ORDER BY id LIMIT 1) AS smallest,"
      " (SELECT id FROM @schema@.outbox ORDER BY id DESC LIMIT 1) AS largest",
      schema);
}

std::string late_extent_sql(const std::string& schema) {
  return in_schema(
      "SELECT min(f.id) AS smallest, max(e.id) AS largest FROM unnest($1::xid8[]) t"
      " LEFT JOIN LATERAL (SELECT o.id FROM @schema@.outbox o WHERE (o.txid, o.id) > (t, $2::bigint)"
      "  AND (o.txid, o.id) <= (t, 9223372036854775807) ORDER BY o.txid, o.id LIMIT 1) f ON true"
      " LEFT JOIN LATERAL (SELECT o.id FROM @schema@.outbox o WHERE (o.txid, o.id) > (t, $2::bigint)"
      "  AND (o.txid, o.id) <= (t, 9223372036854775807) ORDER BY o.txid DESC, o.id DESC LIMIT 1) e ON true",
      schema);
}

std::string late_rows_sql(const std::string& schema) {
  return in_schema(within_bytes("SELECT q.* FROM unnest($1::xid8[]) t CROSS JOIN LATERAL"
                                " (SELECT * FROM @schema@.outbox o WHERE (o.txid, o.id) > (t, $2::bigint)"
                                "  AND (o.txid, o.id) <= (t, $3::bigint)"
                                "  AND ($6::text[] IS NULL OR o.route LIKE ANY ($6::text[]))"
                                "  ORDER BY o.txid, o.id LIMIT $4::int) q ORDER BY q.id LIMIT $4::int",
                                "$5::bigint"),
                   schema);
}

std::string range_rows_sql(const std::string& schema) {
  return in_schema(within_bytes("SELECT *" + std::string{kRange}, "$6::bigint"), schema);
}

std::string small_rows_sql(const std::string& schema) {
  return in_schema("SELECT " + std::string{kAttributes} +
                       ", CASE WHEN octet_length(data) <= $6::bigint THEN data END AS data,"
                       " octet_length(data) > $6::bigint AS large" +
                       std::string{kRange},
                   schema);
}

std::string look_sql(const std::string& schema) {
  return in_schema(
      "WITH held AS MATERIALIZED (SELECT c.name, c.token, l.ms FROM @schema@.cursors c"
      "  JOIN unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS l(name, owner, token, ms)"
      "   ON c.name = l.name AND c.owner = l.owner AND c.token = l.token ORDER BY c.name FOR NO KEY UPDATE OF c),"
      " renewed AS (INSERT INTO @schema@.cursor_log(cursor, token, prev, cur, place, floor, lease_until)"
      "  SELECT h.name, h.token, s.prev, s.cur, s.place, s.floor, clock_timestamp() + h.ms * interval '1 millisecond'"
      "   FROM held h JOIN @schema@.cursor_status s ON s.name = h.name RETURNING cursor)"
      " SELECT pg_current_snapshot()::text AS cur,"
      "  $1::xid8 IS NOT NULL AND (EXISTS (SELECT FROM @schema@.outbox WHERE txid >= $1::xid8"
      "    AND txid < pg_snapshot_xmax(pg_current_snapshot()))"
      "   OR EXISTS (SELECT FROM (SELECT t FROM unnest($2::xid8[]) t WHERE pg_visible_in_snapshot(t, pg_current_snapshot())"
      "     OFFSET 0) l CROSS JOIN LATERAL (SELECT FROM @schema@.outbox o WHERE o.txid = l.t LIMIT 1) r)) AS news,"
      "  EXISTS (SELECT FROM @schema@.dead_letters WHERE state = 'behind') AS behind, NULL AS renewed"
      " UNION ALL SELECT NULL, NULL, NULL, cursor FROM renewed ORDER BY renewed NULLS FIRST",
      schema);
}

std::string routes_complemented(std::string sql) {
  constexpr std::string_view any = "route LIKE ANY";
  constexpr std::string_view none = "route NOT LIKE ALL";
  for (auto at = sql.find(any); at != std::string::npos; at = sql.find(any, at + none.size())) {
    sql.replace(at, any.size(), none);
  }
  return sql;
}

}  // namespace penstock::postgres
