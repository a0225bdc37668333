// SPDX-License-Identifier: Apache-2.0
#include "beacon/servers.hpp"

#include <cstddef>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "core/tls.hpp"

namespace penstock::beacon {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool port_ok(std::string_view port) {
  if (port.empty() || port.size() > 5) return false;
  int number = 0;
  for (const char c : port) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + (c - '0');
  }
  return number >= 1 && number <= 65535;
}

bool host_ok(std::string_view host) {
  if (host.empty()) return false;
  for (const char c : host) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == '?' || c == '#' || c == '"') return false;
  }
  return true;
}

[[noreturn]] void refuse(std::string_view shown, const std::string& why) {
  throw std::invalid_argument{"Beacon: the server \"" + std::string{shown} + "\" " + why +
                              "; expected nats://[user[:password]@]host[:port], several separated by commas"};
}

/// `any_login`: a comma may have been part of a password, and then a part without a login is a piece of it.
void read(std::string_view text, bool any_login, Servers& into) {
  std::string_view rest = text;
  std::string scheme = "nats";
  if (const auto end = rest.find("://"); end != std::string_view::npos) {
    scheme = std::string{rest.substr(0, end)};
    rest.remove_prefix(end + 3);
  }
  std::string_view credentials;
  if (const auto at = rest.rfind('@'); at != std::string_view::npos) {
    credentials = rest.substr(0, at);
    rest.remove_prefix(at + 1);
  }
  const std::string shown = scheme + "://" + (any_login && credentials.empty() ? "…" : std::string{rest});
  if (scheme != "nats" && scheme != "tls") refuse(shown, "has an unknown scheme");
  if (!rest.empty() && rest.back() == '/') rest.remove_suffix(1);

  std::string_view host = rest;
  std::string_view port = "4222";
  if (!rest.empty() && rest.front() == '[') {  // IPv6
    const auto end = rest.find(']');
    if (end == std::string_view::npos) refuse(shown, "has no ']' behind its IPv6 address");
    host = rest.substr(0, end + 1);
    if (end + 1 < rest.size()) {
      if (rest[end + 1] != ':') refuse(shown, "has a bad port");
      port = rest.substr(end + 2);
    }
    if (host.size() < 4) refuse(shown, "has no host");
  } else if (const auto colon = rest.find(':'); colon != std::string_view::npos) {
    host = rest.substr(0, colon);
    port = rest.substr(colon + 1);
  }
  if (!host_ok(host)) refuse(shown, "has no usable host");
  if (!port_ok(port)) refuse(shown, "has a bad port");

  const std::string address = std::string{host} + ':' + std::string{port};
  std::string url = scheme + "://";
  if (!credentials.empty()) {
    url += std::string{credentials} + '@';
    if (into.user.empty() && into.token.empty()) {
      const auto colon = credentials.find(':');
      const std::string first{credentials.substr(0, colon)};
      if (colon == std::string_view::npos) {
        into.token = first;
      } else {
        into.user = first;
        into.password = std::string{credentials.substr(colon + 1)};
      }
    }
  }
  into.urls.push_back(url + address);
  into.hosts.emplace_back(host.front() == '[' ? host.substr(1, host.size() - 2) : host);
  if (scheme == "tls" && !into.tls) into.tls.emplace();
  if (!into.label.empty()) into.label += ',';
  into.label += scheme + "://" + address;
}

}  // namespace

Servers parse_servers(const std::string& list) {
  Servers servers;
  std::string_view rest = list;
  while (true) {
    const auto comma = rest.find(',');
    const auto part = trim(rest.substr(0, comma));
    if (part.empty()) refuse("", "is empty");
    read(part, list.find('@') != std::string::npos, servers);
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return servers;
}

Servers servers_of(const BeaconOptions& options) {
  Servers servers = parse_servers(options.url);
  if (options.tls) {
    tls::check(*options.tls, "BeaconOptions::tls");
    servers.tls = options.tls;
  }
  if (options.nkey.empty() != options.nkey_seed_file.empty()) {
    throw std::invalid_argument{"BeaconOptions::nkey (the public key) and nkey_seed_file belong together, and one is empty"};
  }
  const auto check_file = [](const std::string& file, const char* option) {
    if (file.empty()) return;
    std::ifstream in{file};
    if (in.peek() != std::ifstream::traits_type::eof()) return;
    throw std::invalid_argument{std::string{option} + ": the file '" + file +
                                "' is empty or cannot be read; check its path and rights"};
  };
  check_file(options.credentials_file, "BeaconOptions::credentials_file");
  check_file(options.nkey_seed_file, "BeaconOptions::nkey_seed_file");

  const int ways = (options.password.empty() ? 0 : 1) + (options.token.empty() ? 0 : 1) +
                   (options.credentials_file.empty() ? 0 : 1) + (options.nkey.empty() ? 0 : 1);
  if (ways > 1) {
    throw std::invalid_argument{
        "BeaconOptions: password, token, credentials_file and nkey are four ways to say who we are; give one of them"};
  }
  if (ways == 0) return servers;
  // "nats://worker@host" is a token as NATS reads it, and a user where the password comes from elsewhere.
  const std::string user = servers.user.empty() ? servers.token.reveal() : servers.user;
  if (!options.password.empty() && user.empty()) {
    throw std::invalid_argument{"BeaconOptions::password is given, and no user; write the url as nats://user@host"};
  }
  for (std::string& url : servers.urls) {
    if (const auto at = url.rfind('@'); at != std::string::npos) url.erase(url.find("://") + 3, at - url.find("://") - 2);
  }
  servers.user = options.password.empty() ? std::string{} : user;
  servers.password = options.password;
  servers.token = options.token;
  servers.credentials_file = options.credentials_file;
  servers.nkey = options.nkey;
  servers.nkey_seed_file = options.nkey_seed_file;
  return servers;
}

}  // namespace penstock::beacon
