// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/dead_letter.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// Named literals for statements: "{name}" stands for the value, quoted, "@schema@" for the schema. As literals, several
/// statements go in one round trip, and no server keeps state for them.
///
/// Thread safety: none. Lifetime: must not outlive the transaction, whose connection knows how to quote.
class Literals {
 public:
  Literals(const pqxx::transaction_base& tx, const std::string& schema) : tx_{tx}, schema_{schema} {}

  Literals& text(std::string_view name, const std::string& value);
  Literals& text_or_null(std::string_view name, const std::string& value);  ///< NULL for an empty one
  Literals& bytes(std::string_view name, const std::optional<std::string>& value);
  Literals& number(std::string_view name, std::int64_t value);
  Literals& boolean(std::string_view name, bool value);

  /// {group} {source} {id} {key} and where the message came from.
  Literals& message(const std::string& group, const Message& message);
  /// What else a row must hold to give the message back exactly: {wire_key} {headers} {payload}.
  Literals& wire(const Message& message);
  /// {number} {error} {duration} {at} {host} {outcome}, and the story for the audit row.
  Literals& attempt(const Message& message, const Attempt& attempt, std::string_view outcome);

  [[nodiscard]] std::string in(std::string_view sql) const;

 private:
  const pqxx::transaction_base& tx_;
  const std::string& schema_;
  std::map<std::string, std::string, std::less<>> values_;
};

/// Statements, and parts of them, in the order a message meets them.
namespace sql {

extern const std::string_view mark_refused;    ///< the mark just made says 'dead'
extern const std::string_view begun;           ///< ($1 group, $2 sources, $3 ids): a row (number, times, known) of each
extern const std::string_view note_begun;      ///< the same parameters
extern const std::string_view settle_notes;    ///< the same parameters; they are begun no more
extern const std::string_view settle_note;     ///< it is begun no more
extern const std::string_view lock_key;        ///< the key's lock, until the transaction ends
extern const std::string_view park_behind;     ///< a row if an earlier one of the key is parked
extern const std::string_view claim_due;       ///< the next due one, locked
extern const std::string_view reclaim;         ///< locks it again; a row if it is as it was
extern const std::string_view count_due;       ///< at most {limit}
extern const std::string_view schedule;        ///< an event to be emitted after {delay}
extern const std::string_view complete_due;    ///< audit row; gone from `parked`, its successor due
extern const std::string_view park;            ///< inbox mark and parked row; a row if the mark was free
extern const std::string_view park_again;      ///< the next attempt's time and the history
extern const std::string_view bury;            ///< inbox mark, dead letter, audit row, checkpoint; a row if the mark was free
extern const std::string_view bury_marked;     ///< the same for a message that is marked
extern const std::string_view history;         ///< of a parked message, a row each
extern const std::string_view bury_due;        ///< dead letter with history, audit row; gone from `parked`, its successor due
extern const std::string_view mark_malformed;  ///< a row if the mark was free
extern const std::string_view bury_malformed;  ///< dead letter and checkpoint
extern const std::string_view settled;         ///< a row if the inbox holds the message

}  // namespace sql

}  // namespace penstock::postgres
