// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace penstock::lane {

/// Where RabbitMQ is and who we are there.
struct Address {
  std::string host{};
  int port = 5672;
  std::string user = "guest";
  std::string password = "guest";
  std::string vhost = "/";

  /// For logs and errors: without the password.
  [[nodiscard]] std::string shown() const;
};

/// Reads "amqp://user:password@host:port/vhost", percent-encoded. Throws std::invalid_argument, which says what is wrong with
/// which part and never repeats the password.
Address parse_url(std::string_view url);

}  // namespace penstock::lane
