// SPDX-License-Identifier: Apache-2.0
#include "postgres/schema_name.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>

namespace penstock::postgres {
namespace {

constexpr std::size_t kLongest = 50;

void replace_all(std::string& text, std::string_view what, const std::string& with) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

}  // namespace

void check_schema_name(std::string_view schema) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; };
  const auto allowed = [&](char c) { return letter(c) || (c >= '0' && c <= '9'); };
  if (schema.empty() || schema.size() > kLongest || !letter(schema.front()) ||
      !std::all_of(schema.begin(), schema.end(), allowed) || schema.substr(0, 3) == "pg_") {
    throw std::invalid_argument("schema '" + std::string{schema} + "' is no usable name: use [a-z_][a-z0-9_]*, at most " +
                                std::to_string(kLongest) + " characters, not beginning with pg_");
  }
}

std::string quoted(std::string_view schema) { return '"' + std::string{schema} + '"'; }

std::string wake_channel(std::string_view schema) { return "penstock_" + std::string{schema}; }

std::string in_schema(std::string_view sql, std::string_view schema) {
  std::string text{sql};
  replace_all(text, "@schema@", quoted(schema));
  replace_all(text, "@wake@", wake_channel(schema));
  return text;
}

}  // namespace penstock::postgres
