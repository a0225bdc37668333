// SPDX-License-Identifier: Apache-2.0
#include "core/syntax.hpp"

#include <array>
#include <cstddef>

#include "core/text.hpp"

namespace penstock::syntax {
namespace {

using text::hex_value;
using text::is_alpha;
using text::is_digit;

using ByteSet = std::array<bool, 256>;

/// ASCII letters, digits and these.
constexpr ByteSet letters_digits_and(std::string_view others) {
  ByteSet set{};
  for (unsigned c = 0; c < 0x80U; ++c) set[c] = is_alpha(static_cast<char>(c)) || is_digit(static_cast<char>(c));
  for (const char c : others) set[static_cast<unsigned char>(c)] = true;
  return set;
}

constexpr ByteSet token_chars = letters_digits_and("!#$%&'*+-.^_`|~");
constexpr ByteSet uri_chars = [] {
  ByteSet set = letters_digits_and("-._~:/?#[]@!$&'()*+,;=%");
  for (std::size_t c = 0x80U; c < set.size(); ++c) set[c] = true;
  return set;
}();

bool is_token_char(char c) noexcept { return token_chars[static_cast<unsigned char>(c)]; }
bool is_uri_char(char c) noexcept { return uri_chars[static_cast<unsigned char>(c)]; }

/// The length of the scheme before the first ':' that could end one, or npos when there is none.
std::size_t scheme_length(std::string_view uri) noexcept {
  for (std::size_t i = 0; i < uri.size(); ++i) {
    if (uri[i] == ':') return i;
    if (uri[i] == '/' || uri[i] == '?' || uri[i] == '#') break;
  }
  return std::string_view::npos;
}

/// Takes a token off the front of `rest`; empty when there is none.
std::string_view take_token(std::string_view& rest) noexcept {
  std::size_t length = 0;
  while (length < rest.size() && is_token_char(rest[length])) ++length;
  const std::string_view token = rest.substr(0, length);
  rest.remove_prefix(length);
  return token;
}

/// Takes a quoted string, which may hold escaped characters; false when it does not end.
bool take_quoted(std::string_view& rest) noexcept {
  for (std::size_t i = 1; i < rest.size(); ++i) {
    if (rest[i] == '\\') {
      ++i;
    } else if (rest[i] == '"') {
      rest.remove_prefix(i + 1);
      return true;
    }
  }
  return false;
}

std::string_view subtype_of(std::string_view media_type) noexcept {
  const std::string_view essence = text::trim(media_type.substr(0, media_type.find(';')));
  const std::size_t slash = essence.find('/');
  return slash == std::string_view::npos ? std::string_view{} : essence.substr(slash + 1);
}

bool has_format(std::string_view media_type, std::string_view format, std::string_view suffix) noexcept {
  const std::string_view subtype = subtype_of(media_type);
  return text::iequals(subtype, format) ||
         (subtype.size() > suffix.size() && text::iequals(subtype.substr(subtype.size() - suffix.size()), suffix));
}

}  // namespace

bool is_uri_reference(std::string_view uri) noexcept {
  if (uri.empty() || !text::is_ce_string(uri)) return false;
  bool fragment = false;
  for (std::size_t i = 0; i < uri.size(); ++i) {
    if (!is_uri_char(uri[i])) return false;
    if (uri[i] == '%' && (i + 2 >= uri.size() || hex_value(uri[i + 1]) < 0 || hex_value(uri[i + 2]) < 0)) return false;
    if (uri[i] == '#') {
      if (fragment) return false;
      fragment = true;
    }
  }
  const std::size_t scheme = scheme_length(uri);
  if (scheme == std::string_view::npos) return true;
  // A first segment with a colon is a scheme, or the reference is none.
  if (scheme == 0 || !is_alpha(uri[0])) return false;
  for (const char c : uri.substr(0, scheme)) {
    if (!is_alpha(c) && !is_digit(c) && c != '+' && c != '-' && c != '.') return false;
  }
  return true;
}

bool is_absolute_uri(std::string_view uri) noexcept {
  return is_uri_reference(uri) && scheme_length(uri) != std::string_view::npos;
}

bool is_media_type(std::string_view media_type) noexcept {
  if (!text::is_ce_string(media_type)) return false;
  std::string_view rest = media_type;
  if (take_token(rest).empty() || rest.empty() || rest.front() != '/') return false;
  rest.remove_prefix(1);
  if (take_token(rest).empty()) return false;
  for (rest = text::trim(rest); !rest.empty(); rest = text::trim(rest)) {
    if (rest.front() != ';') return false;
    rest = text::trim(rest.substr(1));
    if (rest.empty() || rest.front() == ';') continue;
    if (take_token(rest).empty() || rest.empty() || rest.front() != '=') return false;
    rest.remove_prefix(1);
    if (!rest.empty() && rest.front() == '"' ? !take_quoted(rest) : take_token(rest).empty()) return false;
  }
  return true;
}

bool is_json(std::string_view media_type) noexcept { return has_format(media_type, "json", "+json"); }

bool is_text(std::string_view media_type) noexcept {
  return text::istarts_with(media_type, "text/") || has_format(media_type, "xml", "+xml");
}

bool is_cloudevents(std::string_view media_type) noexcept {
  return text::istarts_with(text::trim(media_type), "application/cloudevents");
}

bool is_attribute_name(std::string_view name) noexcept {
  for (const char c : name) {
    if (!is_alpha(c) && !is_digit(c)) return false;
  }
  return !name.empty() && !text::iequals(name, "data");
}

}  // namespace penstock::syntax
