// SPDX-License-Identifier: Apache-2.0
#include "postgres/connection.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace penstock::postgres {

std::string with_defaults(const std::string& url, std::chrono::milliseconds connect_timeout) {
  const bool uri = url.rfind("postgresql://", 0) == 0 || url.rfind("postgres://", 0) == 0;
  std::string result = url;
  const auto add = [&](const std::string& name, const std::string& value) {
    if (url.find(name + "=") != std::string::npos || (!uri && url.find(name + " ") != std::string::npos)) {
      return;
    }
    if (uri) {
      result += result.find('?') == std::string::npos ? '?' : '&';
    } else if (!result.empty()) {
      result += ' ';
    }
    result += name + "=" + value;
  };
  if (connect_timeout.count() > 0) {
    // libpq counts whole seconds and takes less than two as two.
    add("connect_timeout", std::to_string(std::max<std::chrono::milliseconds::rep>(2, (connect_timeout.count() + 999) / 1000)));
  }
  // A server that vanished without a word is noticed after about fifteen seconds, also in the middle of a statement.
  add("keepalives_idle", "5");
  add("keepalives_interval", "3");
  add("keepalives_count", "3");
  add("tcp_user_timeout", "15000");
  add("application_name", "penstock");
  add("client_encoding", "UTF8");
  return result;
}

std::unique_ptr<pqxx::connection> connect(const std::string& url, const ConnectOptions& options) {
  auto connection = std::make_unique<pqxx::connection>(with_defaults(url, options.connect_timeout));
  if (options.shared_by_pooler) {
    return connection;
  }
  pqxx::nontransaction tx{*connection};
  tx.exec(
      "SELECT set_config('client_encoding', 'UTF8', false), set_config('TimeZone', 'UTC', false),"
      " set_config('bytea_output', 'hex', false), set_config('statement_timeout', '" +
      std::to_string(options.statement_timeout.count()) + "', false)");
  tx.commit();
  return connection;
}

}  // namespace penstock::postgres
