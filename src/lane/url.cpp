// SPDX-License-Identifier: Apache-2.0
#include "lane/url.hpp"

#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace penstock::lane {
namespace {

[[noreturn]] void refuse(const std::string& reason) {
  throw std::invalid_argument{
      "LaneOptions::url " + reason +
      "; write amqp://user:password@host:port/vhost, or amqps with TLS, with special characters percent-encoded"};
}

int hex(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

std::string decoded(std::string_view part, const char* name) {
  std::string out;
  out.reserve(part.size());
  for (std::size_t i = 0; i < part.size(); ++i) {
    if (part[i] != '%') {
      out += part[i];
      continue;
    }
    const int high = i + 1 < part.size() ? hex(part[i + 1]) : -1;
    const int low = i + 2 < part.size() ? hex(part[i + 2]) : -1;
    if (high < 0 || low < 0) refuse(std::string{"has a '%' without two hexadecimal digits in its "} + name);
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  // rabbitmq-c takes these as C strings: what follows a NUL would silently be cut off.
  if (out.find('\0') != std::string::npos) refuse(std::string{"has a NUL in its "} + name);
  return out;
}

}  // namespace

Address parse_url(std::string_view url) {
  constexpr std::string_view plain = "amqp://";
  constexpr std::string_view encrypted = "amqps://";
  if (url.empty()) refuse("is empty");
  Address address;
  if (url.starts_with(encrypted)) {
    address.tls.emplace();
    address.port = 5671;
    url.remove_prefix(encrypted.size());
  } else if (url.starts_with(plain)) {
    url.remove_prefix(plain.size());
  } else {
    refuse("begins neither with amqp:// nor with amqps://");
  }
  if (url.find_first_of("?#") != std::string_view::npos) {
    refuse("carries options ('?' or '#'), which belong in LaneOptions");
  }

  std::string_view authority = url.substr(0, url.find('/'));
  const std::string_view path = url.substr(authority.size());
  if (path.find('/', 1) != std::string_view::npos) refuse("has a '/' inside the vhost, to be written %2F");
  // Else what was meant for a password with a '/' would be shown as a vhost.
  if (path.find('@') != std::string_view::npos)
    refuse("has a '@' behind its first '/'; write %40, and %2F for a '/' before it");
  if (path.size() > 1) address.vhost = decoded(path.substr(1), "vhost");

  if (const auto at = authority.rfind('@'); at != std::string_view::npos) {
    const std::string_view login = authority.substr(0, at);
    const auto colon = login.find(':');
    address.user = decoded(login.substr(0, colon), "user");
    address.password = colon == std::string_view::npos ? std::string{} : decoded(login.substr(colon + 1), "password");
    authority.remove_prefix(at + 1);
  }

  std::string_view port;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) refuse("has a '[' without ']' in its host");
    address.host = authority.substr(1, end - 1);
    port = authority.substr(end + 1);
  } else {
    const auto colon = authority.find(':');
    address.host = decoded(authority.substr(0, colon), "host");
    port = colon == std::string_view::npos ? std::string_view{} : authority.substr(colon);
  }
  if (address.host.empty()) refuse("names no host");
  if (!port.empty()) {
    const char* end = port.data() + port.size();
    const auto [rest, error] = std::from_chars(port.data() + 1, end, address.port);
    if (port.front() != ':' || error != std::errc{} || rest != end || address.port < 1 || address.port > 65'535) {
      refuse("has a port that is no number from 1 to 65535");
    }
  }
  return address;
}

std::string Address::shown() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (tls ? "amqps://" : "amqp://") + user + "@" + (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port) +
         " vhost '" + vhost + "'";
}

}  // namespace penstock::lane
