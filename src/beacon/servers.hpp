// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "penstock/beacon.hpp"

namespace penstock::beacon {

/// The servers of a URL list, who we are there, and how to name them in a log.
struct Servers {
  std::vector<std::string> urls{};
  std::vector<std::string> hosts{};  ///< of the URLs, in their order
  std::string user{};  ///< of the first URL that has one: for servers that a cluster announces without credentials
  Secret password{};
  Secret token{};
  std::string credentials_file{};
  std::string nkey{};
  std::string nkey_seed_file{};
  std::optional<TlsOptions> tls{};
  std::string label{};  ///< the list without credentials
};

/// Reads "nats://[user[:password]@]host[:port]", several separated by commas. Throws std::invalid_argument naming the part
/// without its credentials.
Servers parse_servers(const std::string& list);

/// The same with everything else that options say of a connection. Throws std::invalid_argument, naming the option.
Servers servers_of(const BeaconOptions& options);

}  // namespace penstock::beacon
