// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace penstock::beacon {

/// The servers of a URL list, and how to name them in a log.
struct Servers {
  std::vector<std::string> urls{};
  std::string user{};  ///< of the first URL that has one: for servers that a cluster announces without credentials
  std::string password{};
  bool tls = false;
  std::string label{};  ///< the list without credentials
};

/// Reads "nats://[user[:password]@]host[:port]", several separated by commas. Throws std::invalid_argument naming the part
/// without its credentials.
Servers parse_servers(const std::string& list);

}  // namespace penstock::beacon
