// SPDX-License-Identifier: Apache-2.0
#include "core/percent.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/text.hpp"

namespace penstock::percent {
namespace {

std::string unquote(std::string_view quoted) {
  std::string out;
  out.reserve(quoted.size());
  for (std::size_t i = 0; i < quoted.size(); ++i) {
    if (quoted[i] == '\\' && i + 1 < quoted.size()) ++i;
    out.push_back(quoted[i]);
  }
  return out;
}

/// Whether `text` is one whole quoted string: its last quote closes it and is not escaped.
bool is_quoted(std::string_view text) noexcept {
  if (text.size() < 2 || text.front() != '"') return false;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      return i + 1 == text.size();
    }
  }
  return false;
}

constexpr bool is_plain_char(char c) noexcept { return c > 0x20 && c < 0x7F && c != '"' && c != '%'; }

/// The same of each of eight.
bool are_plain(const char* eight) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101U;
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, eight, sizeof bytes);
  const auto has = [bytes](unsigned char c) { return ((bytes ^ (ones * c)) - ones) & ~(bytes ^ (ones * c)); };
  const std::uint64_t has_low = (bytes - ones * 0x21U) & ~bytes;
  return ((bytes | has_low | has(0x7F) | has('"') | has('%')) & (ones * 0x80U)) == 0;
}

}  // namespace

bool is_plain(std::string_view value) noexcept {
  for (; value.size() >= sizeof(std::uint64_t); value.remove_prefix(sizeof(std::uint64_t))) {
    if (!are_plain(value.data())) return false;
  }
  return std::all_of(value.begin(), value.end(), is_plain_char);
}

std::string encode(std::string_view value) {
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string out;
  out.reserve(value.size());
  for (const char c : value) {
    if (is_plain_char(c)) {
      out.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.push_back('%');
      out.push_back(hex[byte >> 4U]);
      out.push_back(hex[byte & 0x0FU]);
    }
  }
  return out;
}

std::optional<std::string> decode(std::string_view value) {
  const std::string unquoted = is_quoted(value) ? unquote(value.substr(1, value.size() - 2)) : std::string{value};
  std::string out;
  out.reserve(unquoted.size());
  for (std::size_t i = 0; i < unquoted.size(); ++i) {
    const int high = unquoted[i] == '%' && i + 2 < unquoted.size() ? text::hex_value(unquoted[i + 1]) : -1;
    const int low = high >= 0 ? text::hex_value(unquoted[i + 2]) : -1;
    if (low < 0) {
      out.push_back(unquoted[i]);
    } else {
      out.push_back(static_cast<char>(high * 16 + low));
      i += 2;
    }
  }
  if (!text::is_utf8(out)) return std::nullopt;
  return out;
}

}  // namespace penstock::percent
