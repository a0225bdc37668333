// SPDX-License-Identifier: Apache-2.0
#include "postgres/outbox_append.hpp"

#include <array>
#include <cstddef>
#include <optional>
#include <utility>

#include "postgres/fill_in.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {
namespace {

using Field = std::optional<std::string>;
constexpr std::size_t kFields = 16;
using Fields = std::array<Field, kFields>;

// A statement is cut off here; the server's limit on a parameter is 1 GB.
constexpr std::size_t kLargestStatement = std::size_t{32} << 20U;

Field unless_empty(const std::string& text) { return text.empty() ? Field{} : Field{text}; }

Fields fields_of(const OutboxRow& row) {
  const Event& event = *row.event;
  return {row.route.empty() ? event.type : row.route,
          event.id,
          event.source,
          event.type,
          unless_empty(event.subject),
          unless_empty(event.key),
          unless_empty(event.content_type),
          unless_empty(event.data_schema),
          unless_empty(event.time),
          unless_empty(event.correlation_id),
          unless_empty(event.causation_id),
          unless_empty(event.traceparent),
          unless_empty(event.tracestate),
          event.extensions.empty() ? Field{} : Field{extensions_to_json(event.extensions)},
          event.headers.empty() ? Field{} : Field{headers_to_json(event.headers)},
          event.data ? Field{to_hex(*event.data)} : Field{}};
}

constexpr std::string_view kInsert =
    "INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,"
    " causation_id, traceparent, tracestate, extensions, headers, data) ";
constexpr std::string_view kValues =
    "$1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, $10::text, $11::text, $12::text,"
    " $13::text, $14::jsonb, $15::jsonb, $16::bytea";
// NOTIFY takes a lock that is global to the server until commit, so it is sent only when a relay has said that it sleeps.
constexpr std::string_view kWake =
    ") SELECT pg_notify('@wake@', '') WHERE pg_sequence_last_value('@schema@.asleep_until'::regclass)"
    " > extract(epoch FROM clock_timestamp()) * 1000";

void execute(pqxx::transaction_base& tx, const std::string& sql, const Fields& f) {
  run(tx, sql, f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10], f[11], f[12], f[13], f[14], f[15]);
}

std::string text(std::initializer_list<std::string_view> parts, const std::string& schema) {
  std::string sql;
  for (const auto part : parts) {
    sql += part;
  }
  return in_schema(sql, schema);
}

/// Hands each statement and its parameters to `use`.
template <class Use>
void statements(const std::string& schema, std::span<const OutboxRow> rows, Use use) {
  if (rows.empty()) {
    return;
  }
  if (rows.size() == 1) {
    use(text({"WITH appended AS (", kInsert, "VALUES (", kValues, ")", kWake}, schema), fields_of(rows.front()));
    return;
  }
  const std::string sql = text({"WITH appended AS (", kInsert,
                                "SELECT r, i, s, t, u, k, c, d, m, o, a, p, e, x::jsonb, h::jsonb, b::bytea"
                                " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],"
                                " $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],"
                                " $14::text[], $15::text[], $16::text[]) WITH ORDINALITY"
                                " AS rows(r, i, s, t, u, k, c, d, m, o, a, p, e, x, h, b, n) ORDER BY n",
                                kWake},
                               schema);
  for (std::size_t next = 0; next < rows.size();) {
    std::array<ArrayLiteral, kFields> columns;
    std::size_t bytes = 0;
    for (; next < rows.size() && bytes < kLargestStatement; ++next) {
      const Fields fields = fields_of(rows[next]);
      for (std::size_t i = 0; i < kFields; ++i) {
        if (fields[i]) {
          columns[i].add(*fields[i]);
          bytes += fields[i]->size();
        } else {
          columns[i].add_null();
        }
      }
    }
    Fields literals;
    for (std::size_t i = 0; i < kFields; ++i) {
      literals[i] = columns[i].take();
    }
    use(sql, literals);
  }
}

}  // namespace

void append_rows(pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows) {
  statements(schema, rows, [&tx](const std::string& sql, const Fields& fields) { execute(tx, sql, fields); });
}

std::string append_text(const pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows) {
  std::string result;
  statements(schema, rows, [&](const std::string& sql, const Fields& fields) {
    result += filled_in(tx, sql, {fields.begin(), fields.end()}) + ";\n";
  });
  return result;
}

void append_row_locked(pqxx::transaction_base& tx, const std::string& schema, const OutboxRow& row) {
  if (row.event->key.empty()) {
    append_rows(tx, schema, {&row, 1});
    return;
  }
  // The id is drawn for the row that comes out of the lock, so after the lock is held.
  execute(tx,
          text({"WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('@wake@.' || $6::text, 0))),"
                " appended AS (",
                kInsert, "SELECT ", kValues, " FROM held", kWake},
               schema),
          fields_of(row));
}

}  // namespace penstock::postgres
