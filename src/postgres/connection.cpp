// SPDX-License-Identifier: Apache-2.0
#include "postgres/connection.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock::postgres {
namespace {

constexpr std::size_t kShortest = 3;  ///< shorter pieces of a password say nothing, and would be found everywhere

bool is_uri(std::string_view url) { return url.rfind("postgresql://", 0) == 0 || url.rfind("postgres://", 0) == 0; }

std::string decoded(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    int byte = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      result += static_cast<char>(byte);
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

void add_pieces(std::string_view text, std::vector<std::string>& to) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("/?@:#&="), text.size());
    to.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

/// The password between user and host. Where '/', '?' or '@' stand in it unescaped, libpq reads pieces of it as something else
/// and says which: so every piece counts then.
void add_login(std::string_view url, std::vector<std::string>& to) {
  std::string_view rest = url.substr(url.find("://") + 3);
  const std::size_t at = rest.rfind('@');
  if (at == std::string_view::npos) return;
  rest = rest.substr(0, at);
  const std::size_t colon = rest.find(':');
  if (colon == std::string_view::npos) return;
  const std::string_view password = rest.substr(colon + 1);
  to.emplace_back(password);
  if (password.find_first_of("/?@#") != std::string_view::npos) add_pieces(password, to);
}

/// The values of `password` and `sslpassword`.
void add_settings(std::string_view url, std::vector<std::string>& to) {
  constexpr std::string_view name = "password=";
  for (std::size_t at = url.find(name); at != std::string_view::npos; at = url.find(name, at + 1)) {
    std::string_view value = url.substr(at + name.size());
    if (value.starts_with('\'')) {
      value.remove_prefix(1);
      to.emplace_back(value.substr(0, value.find('\'')));
    } else {
      to.emplace_back(value.substr(0, value.find_first_of(is_uri(url) ? "&" : " ")));
    }
  }
}

std::string explained(std::string said) {
  if (said.find("certificate verify failed") != std::string::npos) {
    said += "; see sslrootcert, which must hold the authority that signed the server's certificate; or that has expired";
  } else if (said.find("does not match host name") != std::string::npos) {
    said += "; see host: connect by a name that is in the certificate, with hostaddr for the address";
  }
  return said;
}

}  // namespace

std::string without_secrets(std::string text, const std::string& url) {
  std::vector<std::string> secrets;
  if (is_uri(url)) add_login(url, secrets);
  add_settings(url, secrets);
  for (std::size_t i = 0, count = secrets.size(); i < count; ++i) {
    if (std::string plain = decoded(secrets[i]); plain != secrets[i]) secrets.push_back(std::move(plain));
  }
  std::sort(secrets.begin(), secrets.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (const std::string& secret : secrets) {
    if (secret.size() < kShortest) continue;
    for (std::size_t at = text.find(secret); at != std::string::npos; at = text.find(secret, at + 3)) {
      text.replace(at, secret.size(), "***");
    }
  }
  return text;
}

std::string with_defaults(const std::string& url, std::chrono::milliseconds connect_timeout) {
  const bool uri = is_uri(url);
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
  // Who names an authority wants the server verified, and libpq's own default would go without.
  if (url.find("sslrootcert=") != std::string::npos || url.find("sslrootcert ") != std::string::npos)
    add("sslmode", "verify-full");
  return result;
}

std::unique_ptr<pqxx::connection> connect(const std::string& url, const ConnectOptions& options) {
  std::unique_ptr<pqxx::connection> connection;
  try {
    connection = std::make_unique<pqxx::connection>(with_defaults(url, options.connect_timeout));
  } catch (const pqxx::broken_connection& error) {
    throw pqxx::broken_connection{without_secrets(explained(error.what()), url)};
  }
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
