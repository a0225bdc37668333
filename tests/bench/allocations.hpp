// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace penstock::bench {

/// How many times operator new was called, on all threads, between `begin` and `end`.
/// The C clients call malloc and are not in it.
class Allocations {
 public:
  static void begin() noexcept;
  static std::size_t end() noexcept;
};

}  // namespace penstock::bench
