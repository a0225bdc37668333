// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace penstock::text {

/// Well-formed UTF-8: no overlong forms, surrogates or code points above U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view bytes) noexcept;

/// A String of the CloudEvents type system: UTF-8 without control characters (U+0000-001F, U+007F-009F) and non-characters.
[[nodiscard]] bool is_ce_string(std::string_view bytes) noexcept;

[[nodiscard]] constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
[[nodiscard]] constexpr bool is_alpha(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
[[nodiscard]] inline char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// The value of a hexadecimal digit, or -1.
[[nodiscard]] inline int hex_value(char c) noexcept {
  if (is_digit(c)) return c - '0';
  const char l = lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

[[nodiscard]] bool istarts_with(std::string_view text, std::string_view prefix) noexcept;
[[nodiscard]] inline bool iequals(std::string_view a, std::string_view b) noexcept {
  return a == b || (a.size() == b.size() && istarts_with(a, b));
}
/// Without spaces and tabs at both ends.
[[nodiscard]] std::string_view trim(std::string_view text) noexcept;

/// Longest prefix of at most `most` bytes that does not cut a UTF-8 sequence.
[[nodiscard]] std::string_view prefix(std::string_view text, std::size_t most) noexcept;

/// One line of valid UTF-8 for messages and headers: control characters become spaces, broken bytes '?', cut at `most` bytes.
[[nodiscard]] std::string clean(std::string_view text, std::size_t most);

/// The value as error messages show it: quoted, cleaned and at most about 80 characters.
[[nodiscard]] std::string shown(std::string_view value);

}  // namespace penstock::text
