// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

using Parameters = std::vector<std::optional<std::string>>;

/// The statement with its parameters ($1, $2, …) in their places, as literals: several such statements go in one round trip,
/// and settings made before one of them by SET LOCAL end with it, so that the connection may be a pooler's.
std::string filled_in(const pqxx::transaction_base& tx, std::string_view sql, const Parameters& parameters);

}  // namespace penstock::postgres
