// SPDX-License-Identifier: Apache-2.0
#include "postgres/cursor_state.hpp"

#include <stdexcept>
#include <utility>

#include "penstock/event_log.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/snapshot.hpp"

namespace penstock::postgres {
namespace {

// Each statement must see what was committed before it had its locks, also where another isolation is the default.
constexpr const char* kSettings = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '60s'; ";

LogPosition position_of(const pqxx::row& row) {
  return {row["prev"].c_str(), row["cur"].is_null() ? "" : row["cur"].c_str(), row["place"].as<std::int64_t>(),
          row["floor"].as<std::int64_t>()};
}

}  // namespace

CursorState::CursorState(std::string schema, std::string name, std::string owner)
    : schema_{std::move(schema)}, name_{std::move(name)}, owner_{std::move(owner)} {}

std::optional<LogPosition> CursorState::take(pqxx::connection& connection, std::chrono::milliseconds lease) {
  pqxx::work tx{connection};
  tx.exec(kSettings);
  // Locks the log before the row, in the order of its folding.
  const auto found = run(tx,
                         in_schema("SELECT owner <> $2 AND lease_until > clock_timestamp() AS held"
                                   " FROM @schema@.cursor_status WHERE name = $1",
                                   schema_),
                         name_, owner_);
  if (!found.empty() && found[0]["held"].as<bool>()) {
    return std::nullopt;
  }
  if (found.empty()) {
    run(tx,
        in_schema("INSERT INTO @schema@.cursors(name, owner, token, lease_until) VALUES ($1, '', 0, '-infinity')"
                  " ON CONFLICT DO NOTHING",
                  schema_),
        name_);
  }
  // Another relay may have taken it since. Once we have the row's lock, the next statement sees all that was written under it.
  run(tx, in_schema("SELECT FROM @schema@.cursors WHERE name = $1 FOR NO KEY UPDATE", schema_), name_);
  const auto taken = run(
      tx,
      in_schema("UPDATE @schema@.cursors c SET owner = $2, token = c.token + 1, prev = s.prev, cur = s.cur,"
                "  place = s.place, floor = s.floor, lease_until = clock_timestamp() + $3::bigint * interval '1 millisecond',"
                "  updated_at = clock_timestamp()"
                " FROM @schema@.cursor_status s WHERE c.name = $1 AND s.name = $1"
                "  AND (s.owner = $2 OR s.lease_until <= clock_timestamp())"
                " RETURNING c.token, c.prev::text AS prev, c.cur::text AS cur, c.place, c.floor",
                schema_),
      name_, owner_, static_cast<std::int64_t>(lease.count()));
  tx.commit();
  if (taken.empty()) {
    return std::nullopt;
  }
  token_ = taken[0]["token"].as<std::int64_t>();
  return position_of(taken[0]);
}

std::uint64_t CursorState::write(pqxx::transaction_base& tx, const LogPosition& position,
                                 std::optional<std::chrono::milliseconds> lease) const {
  const auto written = tx.exec(
      kSettings +
      filled_in(tx,
                in_schema("WITH held AS MATERIALIZED (SELECT name, token FROM @schema@.cursors"
                          "  WHERE name = $1 AND owner = $2 AND token = $3::bigint FOR NO KEY UPDATE)"
                          " INSERT INTO @schema@.cursor_log(cursor, token, prev, cur, place, floor, lease_until)"
                          " SELECT name, token, $4::pg_snapshot, $5::pg_snapshot, $6::bigint, $7::bigint,"
                          "  coalesce(clock_timestamp() + $8::bigint * interval '1 millisecond', '-infinity') FROM held "
                          "RETURNING pg_current_xact_id()",
                          schema_),
                {name_, owner_, std::to_string(token_), position.prev,
                 position.cur.empty() ? std::nullopt : std::optional{position.cur}, std::to_string(position.place),
                 std::to_string(position.floor), lease ? std::optional{std::to_string(lease->count())} : std::nullopt}));
  if (written.affected_rows() == 0) {
    throw LeaseLost("cursor '" + name_ + "' was taken over by another relay");
  }
  return std::stoull(written[0][0].c_str());
}

LogPosition CursorState::read(pqxx::connection& connection) const {
  pqxx::nontransaction tx{connection};
  const auto stored = run(tx,
                          in_schema("SELECT prev::text AS prev, cur::text AS cur, place, floor FROM @schema@.cursor_status"
                                    " WHERE name = $1",
                                    schema_),
                          name_);
  return stored.empty() ? LogPosition{.prev = Snapshot::beginning().text} : position_of(stored[0]);
}

bool drop_cursor(pqxx::connection& connection, const std::string& schema, const std::string& name) {
  pqxx::work tx{connection};
  tx.exec(kSettings);
  run(tx, in_schema("SELECT FROM @schema@.cursor_status WHERE name = $1", schema), name);  // locks in the usual order
  run(tx, in_schema("SELECT FROM @schema@.cursors WHERE name = $1 FOR UPDATE", schema), name);
  const auto found = run(tx,
                         in_schema("SELECT owner, lease_until > clock_timestamp() AS held FROM @schema@.cursor_status"
                                   " WHERE name = $1",
                                   schema),
                         name);
  if (found.empty()) {
    return false;
  }
  if (found[0]["held"].as<bool>()) {
    throw std::runtime_error("cursor '" + name + "' of the outbox '" + schema + "' is held by the relay " +
                             found[0]["owner"].as<std::string>() + ": stop it first");
  }
  run(tx, in_schema("DELETE FROM @schema@.cursor_log WHERE cursor = $1", schema), name);
  run(tx, in_schema("DELETE FROM @schema@.cursors WHERE name = $1", schema), name);
  tx.commit();
  return true;
}

}  // namespace penstock::postgres
