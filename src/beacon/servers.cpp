// SPDX-License-Identifier: Apache-2.0
#include "beacon/servers.hpp"

#include <cstddef>
#include <stdexcept>
#include <string_view>

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

void read(std::string_view text, Servers& into) {
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
  const std::string shown = scheme + "://" + std::string{rest};
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
    if (into.user.empty()) {
      const auto colon = credentials.find(':');
      into.user = std::string{credentials.substr(0, colon)};
      if (colon != std::string_view::npos) into.password = std::string{credentials.substr(colon + 1)};
    }
  }
  into.urls.push_back(url + address);
  into.tls = into.tls || scheme == "tls";
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
    read(part, servers);
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return servers;
}

}  // namespace penstock::beacon
