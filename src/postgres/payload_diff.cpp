// SPDX-License-Identifier: Apache-2.0
#include "postgres/payload_diff.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>

#include "postgres/text_codec.hpp"

namespace penstock::postgres {

std::string payload_diff(const std::string& before, const std::string& after) {
  const auto old_json = nlohmann::json::parse(before, nullptr, false);
  const auto new_json = nlohmann::json::parse(after, nullptr, false);
  if (!old_json.is_discarded() && !new_json.is_discarded()) {
    std::string patch = nlohmann::json::diff(old_json, new_json).dump();
    if (patch.find("\\u0000") == std::string::npos) {  // which jsonb cannot hold
      return patch;
    }
  }
  const auto shorter = std::min(before.size(), after.size());
  const auto begin = static_cast<std::size_t>(
      std::mismatch(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(shorter), after.begin()).first -
      before.begin());
  const auto end = static_cast<std::size_t>(
      std::mismatch(before.rbegin(), before.rbegin() + static_cast<std::ptrdiff_t>(shorter - begin), after.rbegin()).first -
      before.rbegin());
  return nlohmann::json{{"at", begin},
                        {"removed", to_hex(before.substr(begin, before.size() - begin - end))},
                        {"added", to_hex(after.substr(begin, after.size() - begin - end))}}
      .dump();
}

}  // namespace penstock::postgres
