// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stop_token>

#include "penstock/clock.hpp"

/// What the limits of one process and those of many differ in.
namespace penstock::limits {

/// Where the turns of a rate limit come from. Thread safety: any thread.
class Turns {
 public:
  virtual ~Turns() = default;
  /// Takes a turn and returns how long it is until then. Throws CallRefused.
  virtual Clock::Duration turn() = 0;
};

/// Where the places of a bulkhead are. Thread safety: any thread.
class Places {
 public:
  virtual ~Places() = default;
  /// Takes one, waiting for it as the options say. Throws CallRefused.
  virtual void enter(const std::stop_token& stop) = 0;
  /// Gives one back. Throws nothing.
  virtual void leave() = 0;
};

}  // namespace penstock::limits
