// SPDX-License-Identifier: Apache-2.0
#include "postgres/fill_in.hpp"

#include <algorithm>
#include <cstddef>

namespace penstock::postgres {

std::string filled_in(const pqxx::transaction_base& tx, std::string_view sql, const Parameters& parameters) {
  std::string result;
  for (std::size_t at = 0; at < sql.size();) {
    if (sql[at] != '$') {
      const std::size_t end = std::min(sql.find('$', at), sql.size());
      result += sql.substr(at, end - at);
      at = end;
      continue;
    }
    std::size_t number = 0;
    for (++at; at < sql.size() && sql[at] >= '0' && sql[at] <= '9'; ++at) {
      number = number * 10 + static_cast<std::size_t>(sql[at] - '0');
    }
    const auto& parameter = parameters.at(number - 1);
    result += parameter ? tx.quote(*parameter) : "NULL";
  }
  return result;
}

}  // namespace penstock::postgres
