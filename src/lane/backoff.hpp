// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

#include "penstock/random.hpp"

namespace penstock::lane {

/// Pauses between attempts to reach RabbitMQ: doubling from 100 ms to 5 s, each between half and all of it, so that what lost
/// its connection together does not come back together.
class Backoff {
 public:
  std::chrono::milliseconds next(Random& random) {
    const auto whole = std::min(longest, shortest * (1 << std::min(failures_, 10)));
    ++failures_;
    return std::chrono::milliseconds{
        static_cast<std::chrono::milliseconds::rep>(static_cast<double>(whole.count()) * (0.5 + random.unit() / 2))};
  }
  void reset() noexcept { failures_ = 0; }

  static constexpr std::chrono::milliseconds shortest{100};
  static constexpr std::chrono::milliseconds longest{5'000};

 private:
  int failures_ = 0;
};

}  // namespace penstock::lane
