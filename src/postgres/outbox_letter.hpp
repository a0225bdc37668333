// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "penstock/event.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// What is known of an event that could not be published.
struct OutboxLetter {
  std::string cursor{};  ///< "<backend>:<channel>"
  std::string channel{};
  std::int64_t outbox_id = 0;
  std::string error{};  ///< empty: none
  int attempts = 0;     ///< 0: none
  std::string state = "dead";
  std::string reason = "rejected by the channel";
};

/// Records a dead letter of the outbox's side, once for each row of the outbox: a repeat after a crash changes nothing.
void insert_outbox_letter(pqxx::transaction_base& tx, const std::string& schema, const OutboxLetter& letter,
                          const Event& event);

/// The `attempts` of such a letter as SQL, from the SQL of their number and of the last error.
std::string letter_attempts(const std::string& number, const std::string& error);

/// The attributes and headers of an event under the names of the Kafka binding, without a look at whether they are valid: a
/// dead letter is kept whatever is wrong with it.
Headers letter_headers(const Event& event);

}  // namespace penstock::postgres
