// SPDX-License-Identifier: Apache-2.0
#include "postgres/text_codec.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

namespace penstock::postgres {
namespace {

using nlohmann::json;

int nibble(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  throw std::invalid_argument("bytes in hex hold another character");
}

/// Four bytes from eight digits as Postgres writes them, worked on as the bytes of one word; false for anything else.
bool four_from_hex(const char* digits, char* bytes) {
  constexpr std::uint64_t ones = 0x0101010101010101U;
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 8; ++i) {
    word |= std::uint64_t{static_cast<unsigned char>(digits[i])} << (8 * i);
  }
  const std::uint64_t nibbles = (word & 15 * ones) + ((word >> 6U) & ones) * 9;
  const std::uint64_t letters = ((nibbles + 6 * ones) >> 4U) & ones;
  if (((nibbles >> 4U) & 15 * ones) != 0 || nibbles + '0' * ones + letters * ('a' - '0' - 10) != word) {
    return false;
  }
  for (unsigned i = 0; i < 4; ++i) {
    const std::uint64_t pair = nibbles >> (16 * i);
    bytes[i] = static_cast<char>(static_cast<unsigned char>((pair << 4U & 0xF0U) | (pair >> 8U & 0xFU)));
  }
  return true;
}

// Well-formed UTF-8 (Unicode 15, table 3-7) without NUL, which is what Postgres takes as text.
bool is_text(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto at = [&](std::size_t k) { return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0U; };
    const unsigned lead = at(i);
    if (lead == 0) return false;
    if (lead < 0x80U) {
      ++i;
      continue;
    }
    std::size_t rest = 0;
    unsigned low = 0x80U;
    unsigned high = 0xBFU;
    if (lead >= 0xC2U && lead <= 0xDFU) {
      rest = 1;
    } else if (lead >= 0xE0U && lead <= 0xEFU) {
      rest = 2;
      low = lead == 0xE0U ? 0xA0U : low;
      high = lead == 0xEDU ? 0x9FU : high;
    } else if (lead >= 0xF0U && lead <= 0xF4U) {
      rest = 3;
      low = lead == 0xF0U ? 0x90U : low;
      high = lead == 0xF4U ? 0x8FU : high;
    } else {
      return false;
    }
    if (at(i + 1) < low || at(i + 1) > high) return false;
    for (std::size_t k = 2; k <= rest; ++k) {
      if (at(i + k) < 0x80U || at(i + k) > 0xBFU) return false;
    }
    i += rest + 1;
  }
  return true;
}

json to_json(std::string_view bytes) {
  if (is_text(bytes)) {
    return std::string{bytes};
  }
  return json{{"base64", ExtensionValue::binary(bytes).text()}};
}

std::string decode_base64(const std::string& text) {
  auto bytes = ExtensionValue{text}.as_binary();
  if (!bytes) {
    throw std::invalid_argument("a stored header or extension holds broken base64");
  }
  return std::move(*bytes);
}

std::string to_bytes(const json& value) {
  return value.is_object() ? decode_base64(value.at("base64").get<std::string>()) : value.get<std::string>();
}

// In network byte order.
void put(std::string& bytes, std::uint32_t number) {
  for (const unsigned shift : {24U, 16U, 8U, 0U}) {
    bytes += static_cast<char>(static_cast<unsigned char>(number >> shift));
  }
}

}  // namespace

std::string to_hex(std::string_view bytes) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.resize(2 + bytes.size() * 2);
  text[0] = '\\';
  text[1] = 'x';
  std::size_t at = 2;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text[at++] = digits[byte >> 4U];
    text[at++] = digits[byte & 0xFU];
  }
  return text;
}

std::string from_hex(std::string_view text) {
  std::string bytes;
  from_hex(text, bytes);
  return bytes;
}

void from_hex(std::string_view text, std::string& bytes) {
  if (text.size() < 2 || text[0] != '\\' || text[1] != 'x' || text.size() % 2 != 0) {
    throw std::invalid_argument("bytes are not in hex");
  }
  bytes.resize(text.size() / 2 - 1);
  const char* digits = text.data() + 2;
  for (std::size_t i = 0; i < bytes.size();) {
    if (bytes.size() - i >= 4 && four_from_hex(digits + 2 * i, bytes.data() + i)) {
      i += 4;
      continue;
    }
    bytes[i] = static_cast<char>(static_cast<unsigned char>((nibble(digits[2 * i]) << 4) | nibble(digits[2 * i + 1])));
    ++i;
  }
}

std::string headers_to_json(const Headers& headers) {
  json result = json::array();
  for (const Header& header : headers) {
    result.push_back(json::array({to_json(header.name), header.value ? to_json(*header.value) : json{}}));
  }
  return result.dump();
}

Headers headers_from_json(std::string_view text) {
  Headers headers;
  for (const json& entry : json::parse(text)) {
    Header header{.name = to_bytes(entry.at(0))};
    if (!entry.at(1).is_null()) {
      header.value = to_bytes(entry.at(1));
    }
    headers.push_back(std::move(header));
  }
  return headers;
}

std::string extensions_to_json(const std::map<std::string, ExtensionValue>& extensions) {
  json result = json::object();
  for (const auto& [name, value] : extensions) {
    switch (value.type()) {
      case ExtensionValue::Type::string: result[name] = to_json(value.text()); break;
      case ExtensionValue::Type::boolean: result[name] = value.text() == "true"; break;
      case ExtensionValue::Type::integer: result[name] = value.as_integer().value_or(0); break;
      case ExtensionValue::Type::binary: result[name] = json{{"base64", value.text()}}; break;
    }
  }
  return result.dump();
}

std::map<std::string, ExtensionValue> extensions_from_json(std::string_view text) {
  std::map<std::string, ExtensionValue> extensions;
  const json object = json::parse(text);
  if (!object.is_object()) {
    throw std::invalid_argument("the extensions are no object");
  }
  for (const auto& [name, value] : object.items()) {
    if (value.is_boolean()) {
      extensions.emplace(name, ExtensionValue{value.get<bool>()});
    } else if (value.is_number_integer()) {
      const auto integer = value.get<std::int64_t>();
      if (!std::in_range<std::int32_t>(integer)) {
        throw std::invalid_argument("an integer of an extension has 32 bits");
      }
      extensions.emplace(name, ExtensionValue{static_cast<std::int32_t>(integer)});
    } else if (value.is_object()) {
      extensions.emplace(name, ExtensionValue::binary(to_bytes(value)));
    } else {
      extensions.emplace(name, ExtensionValue{value.get<std::string>()});
    }
  }
  return extensions;
}

void ArrayLiteral::separate() {
  if (text_.size() > 1) {
    text_ += ',';
  }
}

void ArrayLiteral::add(std::string_view element) {
  separate();
  any_ = true;
  text_ += '"';
  for (const char c : element) {
    if (c == '"' || c == '\\') {
      text_ += '\\';
    }
    text_ += c;
  }
  text_ += '"';
}

void ArrayLiteral::add_null() {
  separate();
  text_ += "NULL";
}

std::optional<std::string> ArrayLiteral::take() {
  if (!any_) {
    return std::nullopt;
  }
  text_ += '}';
  return std::move(text_);
}

BinaryArray::BinaryArray(Type type) : type_{type} {
  put(bytes_, 1);  // dimensions
  put(bytes_, 1);  // there may be NULLs
  put(bytes_, static_cast<std::uint32_t>(type));
  put(bytes_, 0);  // elements
  put(bytes_, 1);  // the first one's number
}

void BinaryArray::add(std::string_view element) {
  ++elements_;
  any_ = true;
  const bool versioned = type_ == Type::jsonb;
  put(bytes_, static_cast<std::uint32_t>(element.size() + (versioned ? 1 : 0)));
  if (versioned) {
    bytes_ += '\1';
  }
  bytes_ += element;
}

void BinaryArray::add_null() {
  ++elements_;
  put(bytes_, ~std::uint32_t{0});
}

std::string BinaryArray::take() {
  if (!any_) {
    std::string none;
    put(none, 0);
    put(none, 0);
    put(none, static_cast<std::uint32_t>(type_));
    return none;
  }
  std::string count;
  put(count, elements_);
  bytes_.replace(12, count.size(), count);
  return std::move(bytes_);
}

std::string like_pattern(std::string_view pattern) {
  std::string like;
  for (const char c : pattern) {
    if (c == '*') {
      like += '%';
      continue;
    }
    if (c == '%' || c == '_' || c == '\\') {
      like += '\\';
    }
    like += c;
  }
  return like;
}

}  // namespace penstock::postgres
