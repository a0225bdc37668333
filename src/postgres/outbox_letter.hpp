// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "penstock/event.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// An event that was not published, and why.
struct OutboxLetter {
  const Event* event = nullptr;
  std::int64_t outbox_id = 0;
  std::string error{};                 ///< empty: none
  int attempts = 0;                    ///< 0: none
  bool dead = true;                    ///< else it waits in state 'behind' …
  bool holds = false;                  ///< a dead one: its key waits
  std::chrono::milliseconds delay{0};  ///< … and is tried again after that, if it was attempted
};

/// Records letters of the outbox's side for a cursor, "<backend>:<channel>", in their order, and each row of the outbox once: a
/// repeat after a crash changes nothing.
void insert_outbox_letters(pqxx::transaction_base& tx, const std::string& schema, const std::string& cursor,
                           const std::string& channel, std::span<const OutboxLetter> letters);

/// The `attempts` of such a letter as SQL, from the SQL of their number and of the last error.
std::string letter_attempts(const std::string& number, const std::string& error);

/// The attributes and headers of an event under the names of the Kafka binding, without a look at whether they are valid: a
/// dead letter is kept whatever is wrong with it.
Headers letter_headers(const Event& event);

}  // namespace penstock::postgres
