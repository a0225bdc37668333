// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/event_log.hpp"

namespace penstock {

bool route_matches(std::string_view pattern, std::string_view route) noexcept {
  std::size_t p = 0;
  std::size_t r = 0;
  std::size_t star = std::string_view::npos;  // the last `*`, which takes one character more after each dead end
  std::size_t resume = 0;
  while (r < route.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = r;
    } else if (p < pattern.size() && pattern[p] == route[r]) {
      ++p;
      ++r;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      r = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

namespace {

bool excludes(std::string_view pattern) { return !pattern.empty() && pattern.front() == '!'; }

}  // namespace

bool route_covered(const std::vector<std::string>& patterns, std::string_view route) noexcept {
  if (!patterns.empty() && excludes(patterns.front())) {
    return std::none_of(patterns.begin(), patterns.end(), [route](std::string_view pattern) {
      return route_matches(excludes(pattern) ? pattern.substr(1) : pattern, route);
    });
  }
  return std::any_of(patterns.begin(), patterns.end(),
                     [route](std::string_view pattern) { return route_matches(pattern, route); });
}

bool route_complement(const std::vector<std::string>& patterns) {
  const auto count = std::count_if(patterns.begin(), patterns.end(), excludes);
  if (count != 0 && count != static_cast<std::ptrdiff_t>(patterns.size())) {
    throw std::invalid_argument("the patterns of a cursor begin with '!' either all or none");
  }
  return count != 0;
}

}  // namespace penstock
