// SPDX-License-Identifier: Apache-2.0
#include "postgres/outbox_parked.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "penstock/envelope.hpp"
#include "postgres/outbox_letter.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {
namespace {

using namespace std::chrono_literals;

constexpr auto kLook = 1s;
constexpr auto kLookForReplayed = 2s;

std::string text_of(const pqxx::field& field) { return {field.c_str(), static_cast<std::size_t>(field.size())}; }

}  // namespace

ParkedEvents::ParkedEvents(std::string schema, std::string cursor)
    : schema_{std::move(schema)}, cursor_{std::move(cursor)}, channel_{cursor_.substr(cursor_.find(':') + 1)} {}

void ParkedEvents::reset() {
  out_.clear();
  any_ = true;
  next_look_ = {};
}

std::string ParkedEvents::rows_out() const {
  std::string rows = "{";
  for (const auto& [sequence, row] : out_) {
    rows += (rows.size() > 1 ? "," : "") + std::to_string(row);
  }
  return rows + "}";
}

std::vector<ParkedEvents::Free> ParkedEvents::free(pqxx::transaction_base& tx, std::size_t max) {
  const auto start = Steady::now();
  // A row without an id also when none is free.
  const auto rows = run(
      tx,
      in_schema("SELECT NULL::bigint AS id, NULL::jsonb AS headers, NULL AS key, NULL::bytea AS payload, 0 AS failures WHERE"
                "  EXISTS (SELECT FROM @schema@.dead_letters WHERE channel = $2 AND state = 'behind'"
                "   AND side = 'outbox' AND consumer_group = $1)"
                " UNION ALL (SELECT id, headers, key, coalesce(edited, payload),"
                "   CASE WHEN next_attempt_at IS NULL THEN 0 ELSE (attempts -> -1 ->> 'number')::int END"
                "  FROM @schema@.dead_letters b"
                "  WHERE channel = $2 AND state = 'behind' AND side = 'outbox' AND consumer_group = $1"
                "   AND (next_attempt_at IS NULL OR next_attempt_at <= clock_timestamp())"
                "   AND NOT EXISTS (SELECT FROM @schema@.dead_letters d WHERE d.channel = $2 AND d.side = 'outbox'"
                "    AND (d.state = 'dead' OR d.next_attempt_at IS NOT NULL) AND (d.holds OR d.state <> 'dead')"
                "    AND d.consumer_group = $1 AND d.key = b.key AND d.id < b.id"
                "    AND hashtextextended(d.key, 0) = hashtextextended(b.key, 0))"
                "   AND id <> ALL ($3::bigint[])"
                "  ORDER BY id LIMIT $4::bigint)",
                schema_),
      cursor_, channel_, rows_out(), static_cast<std::int64_t>(max));
  any_ = !rows.empty();
  std::vector<Free> free;
  for (const auto& row : rows) {
    if (row["id"].is_null()) {
      continue;
    }
    Wire wire{.headers = headers_from_json(text_of(row["headers"]))};
    if (!row["key"].is_null()) {
      wire.key = text_of(row["key"]);
    }
    if (!row["payload"].is_null()) {
      wire.payload = from_hex(text_of(row["payload"]));
    }
    Free one{row["id"].as<std::int64_t>(), {}, row["failures"].as<int>()};
    try {
      one.event = decode(wire, Binding::kafka);
    } catch (const MalformedMessage&) {
      // What is no valid event goes out as far as it can be read; the channel will say what it thinks of it.
      one.event.data = wire.payload;
      for (const Header& header : wire.headers) {
        const std::string value = header.value.value_or("");
        if (header.name == "ce_id") one.event.id = value;
        if (header.name == "ce_source") one.event.source = value;
        if (header.name == "ce_type") one.event.type = value;
      }
    }
    one.event.key = wire.key.value_or("");
    free.push_back(std::move(one));
  }
  // A great many that are not free make a look expensive: then it is taken less often.
  next_look_ = free.size() == max
                   ? Steady::time_point{}
                   : start + std::max<Steady::duration>(any_ ? kLook : kLookForReplayed, (Steady::now() - start) * 20);
  return free;
}

void ParkedEvents::try_again(pqxx::transaction_base& tx, const EventLog::Parking& parking) {
  // The first attempt and the last ones are enough to read.
  run(tx,
      in_schema("UPDATE @schema@.dead_letters SET next_attempt_at = clock_timestamp() + $4::bigint * interval '1 ms',"
                " reason = 'is tried again', first_error = coalesce(first_error, $2), last_error = $2,"
                " attempts = CASE WHEN jsonb_array_length(attempts) < 20 THEN attempts ELSE attempts - 1 END || " +
                    letter_attempts("$3", "$2") + " WHERE id = $1::bigint AND state = 'behind'",
                schema_),
      out_.at(parking.entry->sequence), parking.error, parking.failures, static_cast<std::int64_t>(parking.delay.count()));
}

void ParkedEvents::parked() {
  any_ = true;
  next_look_ = std::min(next_look_, Steady::now() + kLook);
}

void ParkedEvents::bury(pqxx::transaction_base& tx, std::uint64_t sequence, const std::string& error, int attempts,
                        bool holds) {
  run(tx,
      in_schema("UPDATE @schema@.dead_letters SET state = 'dead', holds = $4, next_attempt_at = NULL,"
                " reason = 'rejected by the channel',"
                " first_error = coalesce(first_error, $2), last_error = $2, attempts = attempts || " +
                    letter_attempts("$3", "$2") + " WHERE id = $1::bigint",
                schema_),
      out_.at(sequence), error, attempts, holds);
}

void ParkedEvents::erase_settled(pqxx::transaction_base& tx, std::uint64_t sequence) {
  std::string rows = "{";
  for (auto one = out_.begin(); one != out_.upper_bound(sequence); ++one) {
    rows += (rows.size() > 1 ? "," : "") + std::to_string(one->second);
  }
  // What only waited is gone; a dead letter that was replayed is one all the same, and stays to be read.
  run(tx,
      in_schema("WITH gone AS (DELETE FROM @schema@.dead_letters WHERE id = ANY ($1::bigint[]) AND replays = 0)"
                " UPDATE @schema@.dead_letters SET state = 'replayed', next_attempt_at = NULL WHERE id = ANY ($1::bigint[]) "
                "AND replays > 0",
                schema_),
      rows + "}");
}

std::vector<EventLog::HeldKey> ParkedEvents::held_keys(pqxx::transaction_base& tx) const {
  const auto rows = run(tx,
                        in_schema("SELECT key, bool_or(next_attempt_at IS NOT NULL) FROM @schema@.dead_letters"
                                  " WHERE channel = $2 AND state IN ('dead', 'behind') AND (holds OR state = 'behind')"
                                  " AND side = 'outbox' AND consumer_group = $1 AND key IS NOT NULL"
                                  " GROUP BY key HAVING bool_or(id <> ALL ($3::bigint[]))",
                                  schema_),
                        cursor_, channel_, rows_out());
  std::vector<EventLog::HeldKey> keys;
  for (const auto& row : rows) {
    keys.push_back({text_of(row[0]), row[1].as<bool>()});
  }
  return keys;
}

}  // namespace penstock::postgres
