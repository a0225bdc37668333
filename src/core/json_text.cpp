// SPDX-License-Identifier: Apache-2.0
#include "core/json_text.hpp"

#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

namespace penstock::json_text {
namespace {

using nlohmann::json;

constexpr std::string_view blanks = " \t\r\n";

void skip_blanks(std::string_view text, std::size_t& at) noexcept {
  while (at < text.size() && blanks.find(text[at]) != std::string_view::npos) ++at;
}

/// Moves past the string literal that begins at `at`.
void skip_literal(std::string_view text, std::size_t& at) noexcept {
  for (++at; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] == '\\') ++at;
  }
  ++at;
}

/// Moves past the value that begins at `at`. Depth is counted, not recursed into.
void skip_value(std::string_view text, std::size_t& at) noexcept {
  std::size_t depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      skip_literal(text, at);
    } else if (c == '{' || c == '[') {
      ++depth;
      ++at;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return;
      --depth;
      ++at;
    } else if (depth == 0 && (c == ',' || blanks.find(c) != std::string_view::npos)) {
      return;
    } else {
      ++at;
      continue;
    }
    if (depth == 0) return;
  }
}

}  // namespace

bool is_valid(std::string_view text) {
  // The parser takes a NUL for the end of the text, and skips a byte order mark.
  if (text.find('\0') != std::string_view::npos || text.substr(0, 3) == "\xEF\xBB\xBF") return false;
  return json::accept(text.begin(), text.end());
}

std::string_view trimmed(std::string_view text) noexcept {
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::optional<std::vector<Member>> members(std::string_view text) {
  std::size_t at = 0;
  skip_blanks(text, at);
  if (at >= text.size() || text[at] != '{') return std::nullopt;
  std::vector<Member> found;
  ++at;
  for (skip_blanks(text, at); at < text.size() && text[at] == '"'; skip_blanks(text, at)) {
    Member member;
    std::size_t start = at;
    skip_literal(text, at);
    member.name = string_of(text.substr(start, at - start));
    skip_blanks(text, at);
    ++at;  // the colon
    skip_blanks(text, at);
    start = at;
    skip_value(text, at);
    member.value = text.substr(start, at - start);
    found.push_back(std::move(member));
    skip_blanks(text, at);
    if (at < text.size() && text[at] == ',') ++at;
  }
  return found;
}

std::string string_of(std::string_view literal) {
  if (literal.find('\\') == std::string_view::npos) return std::string{literal.substr(1, literal.size() - 2)};
  return json::parse(literal.begin(), literal.end()).get<std::string>();
}

void append_literal(std::string& out, std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  out.push_back('"');
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20U) {
      out += "\\u00";
      out.push_back(hex[static_cast<unsigned char>(c) >> 4U]);
      out.push_back(hex[static_cast<unsigned char>(c) & 0x0FU]);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

}  // namespace penstock::json_text
