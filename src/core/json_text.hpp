// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// JSON as text: what is inside a value is never rebuilt, so numbers, order and escapes of a payload stay as they were written.
namespace penstock::json_text {

/// Whether the whole text is one JSON value, in UTF-8 and without a byte order mark.
[[nodiscard]] bool is_valid(std::string_view text);

/// Without the blanks of JSON at both ends.
[[nodiscard]] std::string_view trimmed(std::string_view text) noexcept;

/// A member of an object: its name, and its value as written.
struct Member {
  std::string name{};
  std::string_view value{};
};

/// The members of the object that a valid JSON text is; empty when it is no object. The values point into the text.
[[nodiscard]] std::optional<std::vector<Member>> members(std::string_view text);

/// The string that a valid JSON string literal stands for.
[[nodiscard]] std::string string_of(std::string_view literal);

/// Appends a string literal. The text is valid UTF-8.
void append_literal(std::string& out, std::string_view text);

}  // namespace penstock::json_text
