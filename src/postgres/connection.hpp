// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

struct ConnectOptions {
  std::chrono::milliseconds connect_timeout{5'000};
  std::chrono::milliseconds statement_timeout{0};  ///< 0: none
  /// Then nothing is set on the session, which others use as well.
  bool shared_by_pooler = false;
};

/// The connection string with a connect timeout, keepalives and a name for the connection added, each unless it is there;
/// with `sslrootcert` and no `sslmode`, the server is verified.
std::string with_defaults(const std::string& url, std::chrono::milliseconds connect_timeout);

/// The text without the passwords of the connection string: libpq's complaints about one that it cannot read repeat parts of
/// it.
std::string without_secrets(std::string text, const std::string& url);

/// Opens a connection with our session settings: UTF-8, UTC, bytes as hex, deadlines. Throws libpqxx's exceptions.
///
/// Throw the connection away after any broken_connection: libpqxx 6 reconnects by itself and forgets the settings.
std::unique_ptr<pqxx::connection> connect(const std::string& url, const ConnectOptions& options);

}  // namespace penstock::postgres
