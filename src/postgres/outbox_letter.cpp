// SPDX-License-Identifier: Apache-2.0
#include "postgres/outbox_letter.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {

Headers letter_headers(const Event& event) {
  Headers headers;
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) {
      headers.push_back({name, value});
    }
  };
  add("ce_specversion", "1.0");
  add("ce_id", event.id);
  add("ce_source", event.source);
  add("ce_type", event.type);
  add("ce_subject", event.subject);
  add("ce_time", event.time);
  add("ce_dataschema", event.data_schema);
  add("ce_partitionkey", event.key);
  add("ce_correlationid", event.correlation_id);
  add("ce_causationid", event.causation_id);
  add("ce_traceparent", event.traceparent);
  add("ce_tracestate", event.tracestate);
  for (const auto& [name, value] : event.extensions) {
    headers.push_back({"ce_" + name, value.text()});
  }
  add("content-type", event.content_type);
  headers.insert(headers.end(), event.headers.begin(), event.headers.end());
  return headers;
}

std::string letter_attempts(const std::string& number, const std::string& error) {
  return "jsonb_build_array(jsonb_build_object('number', " + number + "::int, 'error', " + error +
         "::text, 'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))";
}

void insert_outbox_letters(pqxx::transaction_base& tx, const std::string& schema, const std::string& cursor,
                           const std::string& channel, std::span<const OutboxLetter> letters) {
  using Type = BinaryArray::Type;
  std::array texts{BinaryArray{Type::text}, BinaryArray{Type::text}, BinaryArray{Type::text}, BinaryArray{Type::text},
                   BinaryArray{Type::text}};
  auto& [sources, ids, types, keys, errors] = texts;
  BinaryArray headers{Type::jsonb};
  BinaryArray payloads{Type::bytea};
  std::string numbers = "{";  // four for each
  const auto add = [](BinaryArray& array, std::string_view text) { text.empty() ? array.add_null() : array.add(text); };
  for (const OutboxLetter& letter : letters) {
    const Event& event = *letter.event;
    sources.add(event.source);
    ids.add(event.id);
    types.add(event.type);
    add(keys, event.key);
    add(errors, letter.error);
    headers.add(headers_to_json(letter_headers(event)));
    event.data ? payloads.add(*event.data) : payloads.add_null();
    numbers += numbers.size() > 1 ? "," : "";
    numbers += std::to_string(letter.outbox_id) + ',' + std::to_string(letter.attempts) + ',' +
               (letter.dead ? (letter.holds ? '2' : '1') : '0') + ',' + std::to_string(letter.delay.count());
  }
  std::array<std::string, 5> taken;
  std::transform(texts.begin(), texts.end(), taken.begin(), [](BinaryArray& array) { return array.take(); });
  run(tx,
      in_schema(
          "INSERT INTO @schema@.dead_letters(side, state, holds, consumer_group, backend, channel, position, source, event_id,"
          " type, key, wire_key, headers, payload, reason, first_error, last_error, attempts, next_attempt_at)"
          " SELECT 'outbox', CASE WHEN kind > 0 THEN 'dead' ELSE 'behind' END, kind = 2, $1::text, $2::text, $3::text, "
          "position,"
          "  source, id, type, key, convert_to(key, 'UTF8'), headers, payload,"
          "  CASE WHEN kind > 0 AND tries = 0 THEN 'malformed: it cannot be read from the log'"
          "   WHEN kind > 0 THEN 'rejected by the channel' WHEN tries > 0 THEN 'is tried again'"
          "   ELSE 'waits behind an earlier event of its key' END, error, error,"
          "  CASE WHEN tries > 0 THEN " +
              letter_attempts("tries", "error") +
              " ELSE '[]' END, CASE WHEN kind = 0 AND tries > 0 THEN clock_timestamp() + delay * interval '1 ms' END"
              " FROM (SELECT n, source, id, type, key, error, headers, payload, numbers[n * 4 - 3] AS position,"
              "   numbers[n * 4 - 2] AS tries, numbers[n * 4 - 1] AS kind, numbers[n * 4] AS delay"
              "  FROM (SELECT $4::bigint[] AS numbers) a, unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::text[],"
              "   $10::jsonb[], $11::bytea[]) WITH ORDINALITY u(source, id, type, key, error, headers, payload, n)) l"
              " WHERE NOT EXISTS (SELECT FROM @schema@.dead_letters d WHERE d.side = 'outbox' AND d.source = l.source"
              "  AND hashtextextended(d.event_id, 0) = hashtextextended(l.id, 0) AND d.event_id = l.id"
              "  AND d.consumer_group = $1::text AND d.position = l.position) ORDER BY n",
          schema),
      cursor, cursor.substr(0, cursor.find(':')), channel, numbers + '}', Binary{taken[0]}, Binary{taken[1]}, Binary{taken[2]},
      Binary{taken[3]}, Binary{taken[4]}, Binary{headers.take()}, Binary{payloads.take()});
}

}  // namespace penstock::postgres
