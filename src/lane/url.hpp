// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "penstock/secret.hpp"
#include "penstock/tls.hpp"

namespace penstock::lane {

/// Where RabbitMQ is and who we are there.
struct Address {
  std::string host{};
  int port = 5672;
  std::string user = "guest";
  Secret password = "guest";
  std::string vhost = "/";
  std::optional<TlsOptions> tls{};  ///< without them the connection is not encrypted
  bool by_certificate = false;      ///< logs in as whoever the certificate of `tls` names

  /// For logs and errors: without the password.
  [[nodiscard]] std::string shown() const;
};

/// Reads "amqp://user:password@host:port/vhost", or amqps with TLS, percent-encoded. Throws std::invalid_argument, which says
/// what is wrong with which part and never repeats the password.
Address parse_url(std::string_view url);

}  // namespace penstock::lane
