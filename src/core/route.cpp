// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <string_view>

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

}  // namespace penstock
