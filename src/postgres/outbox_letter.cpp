// SPDX-License-Identifier: Apache-2.0
#include "postgres/outbox_letter.hpp"

#include <optional>

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

void insert_outbox_letter(pqxx::transaction_base& tx, const std::string& schema, const OutboxLetter& letter,
                          const Event& event) {
  const auto optional_text = [](const std::string& text) { return text.empty() ? std::nullopt : std::optional{text}; };
  const std::string backend = letter.cursor.substr(0, letter.cursor.find(':'));
  run(tx,
      in_schema("INSERT INTO @schema@.dead_letters(side, state, consumer_group, backend, channel, position, source, event_id, "
                "type, key,"
                " wire_key, headers, payload, reason, first_error, last_error, attempts)"
                " SELECT 'outbox', $13::text, $1::text, $2::text, $3::text, $4::bigint, $5::text, $6::text, $7::text, $8::text,"
                "  convert_to($8::text, 'UTF8'), $9::jsonb, $10::bytea, $14::text, $11::text, $11::text,"
                "  CASE WHEN $12::int > 0 THEN " +
                    letter_attempts("$12", "$11") +
                    " ELSE '[]' END"
                    " WHERE NOT EXISTS (SELECT FROM @schema@.dead_letters WHERE side = 'outbox' AND source = $5::text"
                    "  AND hashtextextended(event_id, 0) = hashtextextended($6::text, 0) AND event_id = $6::text"
                    "  AND consumer_group = $1::text AND position = $4::bigint)",
                schema),
      letter.cursor, backend, letter.channel, letter.outbox_id, event.source, event.id, event.type, optional_text(event.key),
      headers_to_json(letter_headers(event)), event.data ? std::optional{to_hex(*event.data)} : std::nullopt,
      optional_text(letter.error), letter.attempts, letter.state, letter.reason);
}

}  // namespace penstock::postgres
