// SPDX-License-Identifier: Apache-2.0
#include "core/tls.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <stdexcept>

namespace penstock::tls {
namespace {

void check_file(const std::string& file, const std::string& option) {
  if (file.empty()) return;
  std::ifstream in{file};
  if (in.peek() == std::ifstream::traits_type::eof()) {
    throw std::invalid_argument{option + ": the file '" + file + "' is empty or cannot be read; give a PEM file"};
  }
}

struct Hint {
  std::string_view words;   ///< in what was said
  std::string_view option;  ///< of TlsOptions; empty: none can help
  std::string_view remedy;
};

constexpr std::array hints{
    Hint{"certificate has expired", "", "renew the server's certificate, or correct this machine's clock"},
    Hint{"certificate is not yet valid", "", "correct this machine's clock, or the server's certificate"},
    Hint{"ostname mismatch", "server_name",
         "the server's certificate is for another name: give that one, if it is the right server"},
    Hint{"IP address mismatch", "server_name",
         "the server's certificate is not for this address: connect by a name that it has, or give one"},
    Hint{"self-signed certificate", "ca_file", "give the authority that signed the server's certificate"},
    Hint{"self signed certificate", "ca_file", "give the authority that signed the server's certificate"},
    Hint{"local issuer certificate", "ca_file", "give the authority that signed the server's certificate"},
    Hint{"verify the first certificate", "ca_file", "give the authority that signed the server's certificate"},
    Hint{"certificate signature failure", "ca_file", "give the authority that signed the server's certificate"},
    Hint{"certificate required", "certificate_file", "the server wants to see a certificate of ours"},
    Hint{"alert bad certificate", "certificate_file", "the server does not take our certificate, or wants to see one"},
    Hint{"alert unknown ca", "certificate_file", "the server does not trust the authority that signed our certificate"},
    Hint{"alert certificate expired", "certificate_file", "our own certificate has expired"},
    Hint{"wrong version number", "", "the server speaks no TLS at this port"},
    Hint{"packet length too long", "", "the server speaks no TLS at this port"},
};

}  // namespace

void check(const TlsOptions& options, const std::string& owner) {
  check_file(options.ca_file, owner + ".ca_file");
  check_file(options.certificate_file, owner + ".certificate_file");
  check_file(options.key_file, owner + ".key_file");
  if (options.certificate_file.empty() != options.key_file.empty()) {
    throw std::invalid_argument{owner + ": certificate_file and key_file belong together, and " +
                                (options.key_file.empty() ? "key_file" : "certificate_file") + " is empty"};
  }
  if (!options.verify && !options.server_name.empty()) {
    throw std::invalid_argument{owner + ".server_name is '" + options.server_name +
                                "', which nobody looks at while verify is false; take one of them away"};
  }
}

std::string explained(std::string said, const std::string& owner) {
  const auto* const hint =
      std::find_if(hints.begin(), hints.end(), [&](const Hint& each) { return said.find(each.words) != std::string::npos; });
  if (hint == hints.end()) return said;
  said += "; ";
  if (!hint->option.empty()) said += "see " + owner + "." + std::string{hint->option} + ": ";
  return said += hint->remedy;
}

}  // namespace penstock::tls
