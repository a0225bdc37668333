// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "penstock/replay.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// The conditions of a filter on a letter `l`, as SQL with the parameters $1 to $8, and their values.
extern const char* const letter_conditions;
std::vector<std::optional<std::string>> condition_values(const LetterFilter& filter);

struct ReplayStep {
  bool ended = false;
  std::chrono::milliseconds wait{0};  ///< until the rate allows the next step
};

/// One batch of a job, in one transaction of the connection's: locks the job, takes up the next letters, and moves on. With
/// `refusal` they are all refused for it. Throws std::invalid_argument when there is no such job, and libpqxx's exceptions;
/// then nothing was done.
ReplayStep replay_step(pqxx::connection& connection, const std::string& schema, std::int64_t job, std::size_t most,
                       const std::string& refusal);

/// One row of the audit trail for a letter.
void audit_letters(pqxx::transaction_base& tx, const std::string& schema, const std::string& ids, const std::string& outcome,
                   const std::string& who, const std::string& why);

}  // namespace penstock::postgres
