// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/event.hpp"

namespace penstock::postgres {

/// Bytes as the text form of a bytea ("\x0aff…") and back. `from_hex` throws std::invalid_argument for anything else.
std::string to_hex(std::string_view bytes);
std::string from_hex(std::string_view text);
void from_hex(std::string_view text, std::string& bytes);  ///< the same into a string that may have room already

/// Headers as JSON text, [[name, value], …]: a value is a text, null, or {"base64": …} where the bytes are no text that JSON
/// can hold; so may the name be. Any headers survive.
std::string headers_to_json(const Headers& headers);
Headers headers_from_json(std::string_view json);

/// Extensions as JSON text: {"name": text | number | boolean | {"base64": …}}.
std::string extensions_to_json(const std::map<std::string, ExtensionValue>& extensions);
std::map<std::string, ExtensionValue> extensions_from_json(std::string_view json);

/// A text parameter for one SQL array, element by element.
class ArrayLiteral {
 public:
  void add(std::string_view element);
  void add_null();
  /// The literal, or nothing when every element was NULL; `unnest` of several arrays fills up with NULLs.
  [[nodiscard]] std::optional<std::string> take();

 private:
  void separate();

  std::string text_{"{"};
  bool any_ = false;
};

/// The same array in Postgres's binary format, which neither side has to quote or to parse.
class BinaryArray {
 public:
  enum class Type : std::uint32_t { bytea = 17, text = 25, jsonb = 3802 };
  explicit BinaryArray(Type type);
  void add(std::string_view element);
  void add_null();
  /// The parameter: an empty array when every element was NULL.
  [[nodiscard]] std::string take();

 private:
  Type type_;
  std::uint32_t elements_ = 0;
  bool any_ = false;
  std::string bytes_{};
};

/// A route pattern as a LIKE pattern: `*` becomes `%`, what LIKE would read otherwise is escaped.
std::string like_pattern(std::string_view pattern);

}  // namespace penstock::postgres
