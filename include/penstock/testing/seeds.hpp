// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>

#include "penstock/export.hpp"

namespace penstock::testing {

/// An expectation that was not met. Any test framework reports what an exception says.
/// Thread safety and lifetime: a value.
class PENSTOCK_EXPORT Unexpected : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Calls `body` with `count` seeds, other ones in every run. When it throws, the seed is in the message of the Unexpected that
/// is thrown instead; with PENSTOCK_SEED=<that seed> in the environment, that one alone is run. Throws std::invalid_argument
/// when it is no number.
PENSTOCK_EXPORT void with_seeds(int count, const std::function<void(std::uint64_t seed)>& body);

}  // namespace penstock::testing
