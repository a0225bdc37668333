// SPDX-License-Identifier: Apache-2.0
#include "postgres/datastore_sql.hpp"

#include <stdexcept>

#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {

Literals& Literals::text(std::string_view name, const std::string& value) {
  values_.insert_or_assign(std::string{name}, tx_.quote(value));
  return *this;
}

Literals& Literals::text_or_null(std::string_view name, const std::string& value) {
  values_.insert_or_assign(std::string{name}, value.empty() ? "NULL" : tx_.quote(value));
  return *this;
}

Literals& Literals::bytes(std::string_view name, const std::optional<std::string>& value) {
  values_.insert_or_assign(std::string{name}, (value ? tx_.quote(to_hex(*value)) : std::string{"NULL"}) + "::bytea");
  return *this;
}

Literals& Literals::number(std::string_view name, std::int64_t value) {
  values_.insert_or_assign(std::string{name}, "(" + std::to_string(value) + ")");
  return *this;
}

Literals& Literals::boolean(std::string_view name, bool value) {
  values_.insert_or_assign(std::string{name}, value ? "true" : "false");
  return *this;
}

Literals& Literals::message(const std::string& group, const Message& message) {
  const Origin& origin = message.origin;
  text("group", group).text("backend", origin.backend).text("channel", origin.channel);
  number("partition", origin.partition).number("position", origin.position);
  number("deliveries", origin.deliveries).boolean("redelivered", origin.redelivered);
  if (message.defect.empty()) {
    text("source", message.event.source).text("id", message.id()).text("type", message.type());
    text("time", message.event.time);
    text_or_null("key", message.key());
    // Locks of Postgres are numbers: the hash of what is meant. Two that meet by chance wait for each other, and that is all.
    text("key_lock", schema_ + ".parked." + group + '.' + message.key());
  }
  return *this;
}

Literals& Literals::wire(const Message& message) {
  bytes("wire_key", message.wire.key).bytes("payload", message.wire.payload);
  return text("headers", headers_to_json(message.wire.headers));
}

Literals& Literals::attempt(const Message& message, const Attempt& attempt, std::string_view outcome) {
  number("number", attempt.number).number("duration", attempt.duration.count());
  text_or_null("error", attempt.error).text("at", attempt.at).text_or_null("host", attempt.host);
  text("outcome", std::string{outcome});
  text_or_null("correlation", message.event.correlation_id).text_or_null("causation", message.event.causation_id);
  return text_or_null("traceparent", message.event.traceparent);
}

std::string Literals::in(std::string_view sql) const {
  const std::string with_schema = in_schema(sql, schema_);
  std::string result;
  for (std::size_t at = 0;;) {
    const std::size_t open = with_schema.find('{', at);
    if (open == std::string::npos) {
      return result.append(with_schema, at);
    }
    result.append(with_schema, at, open - at);
    const std::size_t close = with_schema.find('}', open);
    const auto value = values_.find(std::string_view{with_schema}.substr(open + 1, close - open - 1));
    if (value == values_.end()) {
      throw std::logic_error{"no value for " + with_schema.substr(open, close - open + 1)};
    }
    result += value->second;
    at = close + 1;
  }
}

// A history keeps its first attempt and the latest 199, so that a policy of a million attempts stays affordable.
#define PENSTOCK_ATTEMPT                                                                                        \
  "jsonb_build_object('number', {number}, 'error', {error}::text, 'duration_ms', {duration}, 'at', {at}::text," \
  " 'host', {host}::text)"
#define PENSTOCK_HISTORY \
  "(CASE WHEN jsonb_array_length(attempts) >= 200 THEN attempts - 1 ELSE attempts END) || " PENSTOCK_ATTEMPT

#define PENSTOCK_AUDIT(condition)                                                                                         \
  "audited AS (INSERT INTO @schema@.audit(consumer_group, backend, channel, partition, position, source, event_id, type," \
  " key, correlation_id, causation_id, traceparent, outcome, attempt, duration_ms, error, host)"                          \
  " SELECT {group}, {backend}, {channel}, {partition}, {position}, {source}, {id}, {type}, {key}, {correlation},"         \
  " {causation}, {traceparent}, {outcome}, {number}, {duration}, {error}, {host} " condition ")"

// The row of this session, which no other one writes: nobody waits here.
#define PENSTOCK_CHECKPOINT(condition)                                                                              \
  "moved AS (INSERT INTO @schema@.checkpoints AS c (consumer_group, channel, partition, member, position, settled)" \
  " SELECT {group}, {channel}, {partition}, {member}, {position}, 1 WHERE true " condition                          \
  " ON CONFLICT (consumer_group, channel, partition, member) DO UPDATE SET settled = c.settled + 1,"                \
  " position = greatest(c.position, excluded.position), updated_at = clock_timestamp())"

// Under the key's lock.
#define PENSTOCK_RELEASE(state)                                                                                         \
  "gone AS (DELETE FROM @schema@.parked WHERE seq = {seq}),"                                                            \
  " marked AS (UPDATE @schema@.inbox SET state = " state                                                                \
  " WHERE consumer_group = {group} AND source = {source}"                                                               \
  " AND id = {id} AND @schema@.inbox_day(id) = @schema@.inbox_day({id})),"                                              \
  " released AS (UPDATE @schema@.parked SET behind = false, next_attempt_at = clock_timestamp() WHERE behind AND seq =" \
  " (SELECT min(seq) FROM @schema@.parked WHERE consumer_group = {group} AND key = {key} AND seq > {seq}))"

#define PENSTOCK_LETTER_COLUMNS                                                                                            \
  "INSERT INTO @schema@.dead_letters(side, consumer_group, backend, channel, partition, position, source, event_id, type," \
  " key, wire_key, headers, payload, reason, first_error, last_error, attempts) "

#define PENSTOCK_PARKED_COLUMNS                                                                                          \
  "INSERT INTO @schema@.parked(consumer_group, key, behind, next_attempt_at, attempt, attempts, source, event_id, type," \
  " backend, channel, partition, position, deliveries, redelivered, wire_key, headers, payload) "
#define PENSTOCK_PARKED_ORIGIN                                                                                                 \
  "{source}, {id}, {type}, {backend}, {channel}, {partition}, {position}, {deliveries}, {redelivered}, {wire_key}, {headers}," \
  " {payload}"

#define PENSTOCK_AT "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

namespace sql {

const std::string_view mark_refused =
    "UPDATE @schema@.inbox SET state = 'dead' WHERE consumer_group = {group} AND source = {source} AND id = {id}"
    " AND @schema@.inbox_day(id) = @schema@.inbox_day({id})";

const std::string_view begun =
    "SELECT w.n, coalesce((SELECT b.times FROM @schema@.begun b WHERE b.consumer_group = $1 AND b.source = w.source"
    " AND b.id = w.id), 0), coalesce((SELECT true FROM @schema@.inbox i WHERE i.consumer_group = $1 AND i.source = w.source"
    " AND i.id = w.id AND @schema@.inbox_day(i.id) = @schema@.inbox_day(w.id)), false) FROM ROWS FROM (unnest($2::text[]), "
    "unnest($3::text[])) WITH ORDINALITY AS w(source, id, n)";

const std::string_view note_begun =
    "INSERT INTO @schema@.begun AS b (consumer_group, source, id)"
    " SELECT $1, source, id FROM ROWS FROM (unnest($2::text[]), unnest($3::text[])) AS w(source, id) ORDER BY source, id"
    " ON CONFLICT (consumer_group, source, id) DO UPDATE SET times = b.times + 1, begun_at = clock_timestamp()";

const std::string_view settle_notes =
    "DELETE FROM @schema@.begun b USING ROWS FROM (unnest($2::text[]), unnest($3::text[])) AS w(source, id)"
    " WHERE b.consumer_group = $1 AND b.source = w.source AND b.id = w.id";

const std::string_view settle_note =
    "DELETE FROM @schema@.begun WHERE consumer_group = {group} AND source = {source} AND id = {id};\n";

const std::string_view lock_key = "SELECT pg_advisory_xact_lock(hashtextextended({key_lock}, 0));\n";

const std::string_view park_behind =
    "WITH head AS MATERIALIZED (SELECT 1 FROM @schema@.parked WHERE consumer_group = {group} AND key = {key} LIMIT 1),"
    " marked AS (UPDATE @schema@.inbox SET state = 'parked' WHERE consumer_group = {group} AND source = {source} AND id = {id}"
    " AND @schema@.inbox_day(id) = @schema@.inbox_day({id}) AND EXISTS (SELECT FROM head)), " PENSTOCK_CHECKPOINT(
        "AND EXISTS (SELECT FROM head)") " " PENSTOCK_PARKED_COLUMNS
                                         "SELECT {group}, {key}, true, clock_timestamp(), 1, '[]', " PENSTOCK_PARKED_ORIGIN
                                         " FROM head RETURNING seq";

const std::string_view claim_due =
    "SELECT seq, attempt, backend, channel, partition, position, deliveries, redelivered, wire_key, headers, payload,"
    " source, event_id, type, key,"
    " (extract(epoch FROM clock_timestamp() - (attempts->0->>'at')::timestamptz) * 1000)::bigint AS elapsed,"
    " (extract(epoch FROM next_attempt_at - (attempts->-1->>'at')::timestamptz) * 1000)::bigint"
    " - (attempts->-1->>'duration_ms')::bigint AS previous, " PENSTOCK_AT
    " AS at, next_attempt_at < now() - interval '1 second' AS late"
    " FROM @schema@.parked WHERE consumer_group = {group} AND NOT behind AND next_attempt_at <= now()"
    " ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED";

const std::string_view reclaim =
    "SELECT 1 FROM @schema@.parked WHERE seq = {seq} AND attempt = {attempt} FOR UPDATE SKIP LOCKED";

const std::string_view count_due =
    "SELECT count(*) FROM (SELECT FROM @schema@.parked WHERE consumer_group = {group} AND NOT behind"
    " AND next_attempt_at <= now() LIMIT {limit}) AS due";

// In no key's line: what it waits for is its time alone.
const std::string_view schedule = PENSTOCK_PARKED_COLUMNS
    "VALUES ({group}, NULL, false, clock_timestamp() + {delay} * interval '1 millisecond', 1, '[]', " PENSTOCK_PARKED_ORIGIN
    ");\n";

const std::string_view complete_due = "WITH " PENSTOCK_AUDIT("") ", " PENSTOCK_RELEASE("'done'") " SELECT 1";

// Another session may have parked an earlier message of the key meanwhile; then this one waits behind it.
const std::string_view park =
    "WITH mark AS (INSERT INTO @schema@.inbox(consumer_group, source, id, state) VALUES ({group}, {source}, {id}, 'parked')"
    " ON CONFLICT DO NOTHING RETURNING 1), " PENSTOCK_AUDIT("FROM mark") ", " PENSTOCK_CHECKPOINT(
        "AND EXISTS (SELECT FROM mark)") " " PENSTOCK_PARKED_COLUMNS
                                         "SELECT {group}, {key}, EXISTS (SELECT FROM @schema@.parked WHERE consumer_group = "
                                         "{group} AND key = {key}),"
                                         " clock_timestamp() + {delay} * interval '1 millisecond', {number} + 1, "
                                         "jsonb_build_array(" PENSTOCK_ATTEMPT "), " PENSTOCK_PARKED_ORIGIN
                                         " FROM mark RETURNING seq";

const std::string_view park_again =
    "WITH " PENSTOCK_AUDIT("") " UPDATE @schema@.parked SET attempt = {number} + 1, attempts = " PENSTOCK_HISTORY
                               ", next_attempt_at = clock_timestamp() + {delay} * interval '1 millisecond' WHERE seq = {seq}";

#define PENSTOCK_LETTER                                                                                                   \
  "SELECT 'consumer', {group}, {backend}, {channel}, {partition}, {position}, {source}, {id}, {type}, {key}, {wire_key}," \
  " {headers}, {payload}, {reason}, {error}, {error}, jsonb_build_array(" PENSTOCK_ATTEMPT ")"

// Without RETURNING of the letter: who may record one need not be allowed to read them.
const std::string_view bury =
    "WITH mark AS (INSERT INTO @schema@.inbox(consumer_group, source, id, state) VALUES ({group}, {source}, {id}, 'dead')"
    " ON CONFLICT DO NOTHING RETURNING 1), " PENSTOCK_AUDIT("FROM mark") ", " PENSTOCK_CHECKPOINT(
        "AND EXISTS (SELECT FROM mark)") ", letter AS (" PENSTOCK_LETTER_COLUMNS PENSTOCK_LETTER " FROM mark) SELECT FROM mark";

const std::string_view bury_marked =
    "WITH " PENSTOCK_AUDIT("") ", " PENSTOCK_CHECKPOINT("") " " PENSTOCK_LETTER_COLUMNS PENSTOCK_LETTER;

const std::string_view history =
    "SELECT (a->>'number')::int AS number, coalesce(a->>'error', '') AS error, (a->>'duration_ms')::bigint AS duration,"
    " coalesce(a->>'at', '') AS at, coalesce(a->>'host', '') AS host FROM @schema@.parked,"
    " jsonb_array_elements(attempts) WITH ORDINALITY AS entries(a, n) WHERE seq = {seq} ORDER BY n";

const std::string_view bury_due =
    "WITH old AS MATERIALIZED (SELECT attempts FROM @schema@.parked WHERE seq = {seq}), " PENSTOCK_AUDIT(
        "") ", " PENSTOCK_RELEASE("'dead'") " " PENSTOCK_LETTER_COLUMNS
                                            "SELECT 'consumer', {group}, {backend}, {channel}, {partition}, {position}, "
                                            "{source}, {id}, {type}, {key}, {wire_key},"
                                            " {headers}, {payload}, {reason}, coalesce(attempts->0->>'error', {error}), "
                                            "{error}, " PENSTOCK_HISTORY " FROM old";

const std::string_view mark_malformed =
    "INSERT INTO @schema@.inbox(consumer_group, source, id, state)"
    " VALUES ({group}, 'malformed:' || {channel} || '/' || {partition}, {position}::text, 'dead')"
    " ON CONFLICT DO NOTHING RETURNING 1";

const std::string_view bury_malformed = "WITH " PENSTOCK_CHECKPOINT(
    "") " " PENSTOCK_LETTER_COLUMNS
        "VALUES ('consumer', {group}, {backend}, {channel}, {partition}, {position}, NULL, NULL, NULL, NULL, {wire_key},"
        " {headers}, {payload}, {reason}, {reason}, {reason}, '[]')";

const std::string_view settled =
    "SELECT 1 FROM @schema@.inbox WHERE consumer_group = {group} AND source = {source} AND id = {id}"
    " AND @schema@.inbox_day(id) = @schema@.inbox_day({id})";

}  // namespace sql

}  // namespace penstock::postgres
