// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace penstock {

/// How a connection is encrypted. Given to a Conduit, Lane or Beacon, even empty, it asks for TLS, and then the server must
/// prove by its certificate that it is the one named. Files are PEM and are read for each connection.
struct TlsOptions {
  std::string ca_file{};           ///< the authorities to trust; empty: the system's
  std::string certificate_file{};  ///< our own certificate, and those between it and its authority; empty: we show none
  std::string key_file{};          ///< the private key of that certificate, not encrypted
  std::string server_name{};       ///< the name in the server's certificate; empty: the host connected to. Not on Kafka
  bool verify = true;              ///< false: anybody may be the server, so somebody between can read and change everything
};

}  // namespace penstock
