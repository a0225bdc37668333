// SPDX-License-Identifier: Apache-2.0
#include "postgres/segments.hpp"

#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "postgres/schema_name.hpp"

namespace penstock::postgres {
namespace {

constexpr unsigned kPatientEvery = 10;

// Whether the cursor `c` has rows of the segment before it: newer than its snapshot, or of a transaction that was in flight
// then.
constexpr std::string_view kHolds =
    "(EXISTS (SELECT FROM @schema@.outbox_@n@ o WHERE o.txid >= pg_snapshot_xmax(c.prev))"
    " OR EXISTS (SELECT FROM pg_snapshot_xip(c.prev) x CROSS JOIN LATERAL"
    "  (SELECT FROM @schema@.outbox_@n@ o WHERE o.txid = x LIMIT 1) r))";

std::string of_segment(std::string_view sql, std::size_t segment, const std::string& schema) {
  std::string text = in_schema(sql, schema);
  for (auto at = text.find("@n@"); at != std::string::npos; at = text.find("@n@", at)) {
    text.replace(at, 3, std::to_string(segment));
  }
  return text;
}

// Without statistics, and with a segment that was just filled, a plan that reads all of it must not be thought of.
constexpr const char* kSettings =
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;"
    " SET LOCAL jit = off; ";

}  // namespace

Segments::Segments(const std::string& schema, SegmentPolicy policy, std::shared_ptr<Logger> logger)
    : schema_{schema}, policy_{policy}, logger_{std::move(logger)} {}

bool Segments::due() {
  const std::lock_guard lock{mutex_};
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) {
    return false;
  }
  next_ = now + policy_.interval;
  return true;
}

void Segments::tend(pqxx::connection& connection) {
  try {
    look(connection);
  } catch (const pqxx::sql_error& error) {  // a privilege that is not granted, say: events flow all the same
    report("look", "the outbox '" + schema_ + "' cannot be kept small: " + error.what());
  }
}

void Segments::look(pqxx::connection& connection) {
  State found = state(connection);
  if (found.log_bytes >= policy_.fold_bytes) {
    fold(connection);
  }
  std::int64_t kept = 0;
  for (std::size_t i = 1; i < kRing; ++i) {
    kept += found.bytes.at((found.active + i) % kRing);
  }
  for (std::size_t i = 1; i < kRing; ++i) {  // the oldest first
    const std::size_t segment = (found.active + i) % kRing;
    if (found.rows_bytes.at(segment) == 0 || !closed_for_long(found.active, segment)) {
      continue;
    }
    const bool too_much = policy_.retention_bytes > 0 && kept > policy_.retention_bytes;
    if (truncate(connection, segment, too_much)) {
      found.rows_bytes.at(segment) = 0;
      kept -= found.bytes.at(segment);
    }
  }
  const bool full =
      found.rows_bytes.at(found.active) > 0 && (found.bytes.at(found.active) >= policy_.segment_bytes || found.old);
  if (full && found.rows_bytes.at((found.active + 1) % kRing) == 0) {
    advance(connection, found.active);
  }
}

bool Segments::closed_for_long(std::size_t active, std::size_t segment) {
  const std::lock_guard lock{mutex_};
  const auto now = std::chrono::steady_clock::now();
  closed_.at(active).reset();
  auto& since = closed_.at(segment);
  since = since.value_or(now);
  return now - *since >= policy_.grace;
}

Segments::State Segments::state(pqxx::connection& connection) {
  pqxx::nontransaction tx{connection};
  const auto row = tx.exec(kSettings + in_schema("SELECT pg_sequence_last_value('@schema@.outbox_segment'::regclass) AS active,"
                                                 " pg_relation_size('@schema@.outbox_0') AS rows_0,"
                                                 " pg_relation_size('@schema@.outbox_1') AS rows_1,"
                                                 " pg_relation_size('@schema@.outbox_2') AS rows_2,"
                                                 " pg_table_size('@schema@.outbox_0') AS bytes_0,"
                                                 " pg_table_size('@schema@.outbox_1') AS bytes_1,"
                                                 " pg_table_size('@schema@.outbox_2') AS bytes_2,"
                                                 " pg_relation_size('@schema@.cursor_log') AS log",
                                                 schema_))[0];
  State state{.active = row["active"].as<std::size_t>(), .log_bytes = row["log"].as<std::int64_t>()};
  for (std::size_t i = 0; i < kRing; ++i) {
    state.rows_bytes.at(i) = row["rows_" + std::to_string(i)].as<std::int64_t>();
    state.bytes.at(i) = row["bytes_" + std::to_string(i)].as<std::int64_t>();
  }
  if (state.rows_bytes.at(state.active) > 0 && state.bytes.at(state.active) < policy_.segment_bytes) {
    const auto oldest = tx.exec(
        kSettings + of_segment("SELECT clock_timestamp() - appended_at > " + std::to_string(policy_.segment_age.count()) +
                                   " * interval '1 second' FROM @schema@.outbox_@n@ ORDER BY id LIMIT 1",
                               state.active, schema_));
    state.old = !oldest.empty() && oldest[0][0].as<bool>();
  }
  return state;
}

bool Segments::may_truncate(pqxx::transaction_base& tx, std::size_t segment, bool whatever_age) {
  std::string sql = "SELECT EXISTS (SELECT FROM @schema@.cursors) AND NOT EXISTS (SELECT FROM @schema@.cursor_status c WHERE ";
  sql += kHolds;
  sql += ")";
  if (policy_.retention.count() > 0 && !whatever_age) {
    sql += " AND coalesce((SELECT clock_timestamp() - appended_at > " + std::to_string(policy_.retention.count()) +
           " * interval '1 second' FROM @schema@.outbox_@n@ ORDER BY id DESC LIMIT 1), true)";
  }
  return tx.exec(of_segment(sql, segment, schema_))[0][0].as<bool>();
}

// One at a time, in whatever process, and never two who wait for each other.
bool Segments::enter(pqxx::transaction_base& tx) {
  tx.exec(kSettings + std::string{"SET LOCAL client_min_messages = warning; SET LOCAL statement_timeout = '10s'"});
  return run(tx, "SELECT pg_try_advisory_xact_lock(hashtextextended('penstock.segments.' || $1, 0))", schema_)[0][0].as<bool>();
}

bool Segments::truncate(pqxx::connection& connection, std::size_t segment, bool whatever_age) {
  {
    pqxx::work tx{connection};
    tx.exec(kSettings + std::string{"SET LOCAL statement_timeout = '10s'"});
    if (!may_truncate(tx, segment, whatever_age)) {
      tx.abort();
      report_abandoned(connection, segment);
      return false;
    }
    tx.commit();
  }
  bool patient = false;
  {
    const std::lock_guard lock{mutex_};
    patient = refused_.at(segment) % kPatientEvery == kPatientEvery - 1;
  }
  try {
    pqxx::work tx{connection};
    if (!enter(tx)) {
      return false;
    }
    tx.exec(of_segment(patient ? "SET LOCAL lock_timeout = '25ms'; LOCK TABLE @schema@.outbox_@n@ IN ACCESS EXCLUSIVE MODE"
                               : "LOCK TABLE @schema@.outbox_@n@ IN ACCESS EXCLUSIVE MODE NOWAIT",
                       segment, schema_));
    tx.exec("SET LOCAL statement_timeout = '50ms'");
    if (!may_truncate(tx, segment, whatever_age)) {
      return false;
    }
    tx.exec(of_segment("SET LOCAL statement_timeout = '2s'; TRUNCATE @schema@.outbox_@n@", segment, schema_));
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    // 55P03: somebody writes in it or reads; 57014: it took too long. The next look tries again.
    if (const auto state = sqlstate(error); state != "55P03" && state != "57014") {
      throw;
    }
    const std::lock_guard lock{mutex_};
    ++refused_.at(segment);
    return false;
  }
  const std::lock_guard lock{mutex_};
  refused_.at(segment) = 0;
  return true;
}

void Segments::advance(pqxx::connection& connection, std::size_t from) {
  pqxx::work tx{connection};
  if (!enter(tx)) {
    return;
  }
  // `setval` and not `nextval`, which would jump after a crash of the server. Whatever the sequence says, appends and readers
  // are right; a segment that is not empty would only have to wait longer until it is.
  const std::size_t next = (from + 1) % kRing;
  run(tx,
      of_segment("SELECT setval('@schema@.outbox_segment', @n@)"
                 " WHERE pg_sequence_last_value('@schema@.outbox_segment'::regclass) = $1::bigint"
                 "  AND pg_relation_size('@schema@.outbox_@n@') = 0",
                 next, schema_),
      static_cast<std::int64_t>(from));
  tx.commit();
}

void Segments::fold(pqxx::connection& connection) {
  try {
    pqxx::work tx{connection};
    if (!enter(tx)) {
      return;
    }
    tx.exec(
        in_schema("SET LOCAL lock_timeout = '40ms'; LOCK TABLE @schema@.cursor_log IN ACCESS EXCLUSIVE MODE NOWAIT", schema_));
    tx.exec(in_schema(
        "UPDATE @schema@.cursors c SET lease_until = l.lease_until, prev = l.prev, cur = l.cur, place = l.place,"
        " floor = l.floor, updated_at = l.updated_at FROM (SELECT DISTINCT ON (cursor, token) * FROM @schema@.cursor_log"
        "  ORDER BY cursor, token, seq DESC) l WHERE l.cursor = c.name AND l.token = c.token",
        schema_));
    tx.exec(in_schema("TRUNCATE @schema@.cursor_log", schema_));
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    if (const auto state = sqlstate(error); state != "55P03" && state != "57014") {
      throw;
    }
  }
}

void Segments::report_abandoned(pqxx::connection& connection, std::size_t segment) {
  if (!logger_) {
    return;
  }
  std::vector<std::pair<std::string, std::string>> names;
  {
    pqxx::nontransaction tx{connection};
    const auto rows = tx.exec(kSettings + of_segment("SELECT name, date_trunc('second', clock_timestamp() - updated_at)::text"
                                                     " FROM @schema@.cursor_status c WHERE lease_until < clock_timestamp()"
                                                     " AND updated_at < clock_timestamp() - " +
                                                         std::to_string(policy_.abandoned.count()) +
                                                         " * interval '1 second' AND " + std::string{kHolds},
                                                     segment, schema_));
    for (const auto& row : rows) {
      names.emplace_back(row[0].as<std::string>(), row[1].as<std::string>());
    }
  }
  for (const auto& [name, since] : names) {
    std::string message = "the outbox '" + schema_ + "' cannot be truncated: its cursor '";
    message.append(name).append("' is behind and has been served by no relay for ").append(since);
    message.append(". Run a relay with that channel, or drop the cursor (Outbox::drop_cursor)");
    report("cursor " + name, message);
  }
}

void Segments::report(const std::string& what, const std::string& message) noexcept {
  try {
    const std::lock_guard lock{mutex_};
    if (logger_ && reported_.insert(what).second) {
      logger_->log(LogLevel::error, message);
    }
  } catch (...) {  // a logger's own failure is nobody's
  }
}

}  // namespace penstock::postgres
