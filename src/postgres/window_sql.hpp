// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace penstock::postgres {

// The statements that read the log by snapshot windows: what is visible in `cur` and was not in `prev`, in the order of ids.
// Each has one index that can serve it, and never another plan worth considering, whatever the statistics say or do not say:
// conditions on the transaction are index conditions where the index on (txid, id) is meant, and function calls where the
// primary key is. `reader_settings` does the rest.

/// Settings of planner, isolation and patience, to be sent before one of these statements and together with it: they end with
/// its transaction, and so stay with us where connections are shared behind a pooler.
std::string reader_settings();
/// The same for a whole session, where the connection is nobody else's: then the statements are prepared, and planned once, for
/// whatever parameters.
std::string reader_session_settings();

/// The columns of an event's row, in this order, in all statements that give events. `appended_us`: microseconds since 1970,
/// where no time was set.
enum EventColumn : int {
  column_id,
  column_event_id,
  column_source,
  column_type,
  column_subject,
  column_key,
  column_content_type,
  column_data_schema,
  column_time,
  column_appended_us,
  column_correlation_id,
  column_causation_id,
  column_traceparent,
  column_tracestate,
  column_extensions,
  column_headers,
  column_data,
  column_large  // of small_rows_sql alone
};

/// The whole window since `prev` when it is small, else only word that it is not.
/// $1 xmax of prev, $2 transactions in flight at prev (array literal), $3 most rows, $4 most bytes of payload, $5 LIKE patterns
/// (array literal, or NULL for all). The first row has the present snapshot in `cur`, whether the window is `large`, and the
/// largest id that was looked at; the others are events.
std::string poll_sql(const std::string& schema);

/// Walks the (txid, id) pairs from prev's xmax to cur's to find the smallest and the largest id.
/// $1 xmax of prev, $2 xmax of cur, $3 cur, $4 most pairs. Gives pairs, smallest, largest.
std::string extent_sql(const std::string& schema);

/// The smallest and the largest id there are, without a walk.
std::string ends_sql(const std::string& schema);

/// The smallest id above $2 and the largest id of the transactions $1, each by one probe of the index on (txid, id).
std::string late_extent_sql(const std::string& schema);

/// Events of the transactions $1 with ids above $2 and up to $3. $4 most rows, $5 most bytes, $6 patterns.
std::string late_rows_sql(const std::string& schema);

/// Events with ids above $1 and up to $2 that are visible in $4 and not in $3. $5 most rows, $6 most bytes, $7 patterns.
std::string range_rows_sql(const std::string& schema);

/// The same of rows whose payloads are small, which takes the server a third less than to add up their lengths: one of more
/// than $6 bytes has `large` and no payload, and is to be read by the other.
std::string small_rows_sql(const std::string& schema);

/// Whether anything became visible since a snapshot, for whatever route; and leases renewed that nobody has taken over.
/// $1 the snapshot's xmax (NULL: only the present snapshot is asked for), $2 transactions in flight then, $3 to $6 cursors,
/// their owners, tokens and the leases' milliseconds. The first row has `cur` and `news`, the others each a cursor in
/// `renewed`.
std::string look_sql(const std::string& schema);

/// One of these statements for the events whose route matches none of the patterns.
std::string routes_complemented(std::string sql);

}  // namespace penstock::postgres
