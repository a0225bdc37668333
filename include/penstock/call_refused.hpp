// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <stdexcept>
#include <string>

#include "penstock/export.hpp"

namespace penstock {

/// A call to a provider was not made: its circuit breaker is open, its rate limit used up or its bulkhead full. A handler lets
/// it pass: the message is then parked until it is worth coming again, as by Verdict::postpone, and no attempt is counted.
/// Thread safety and lifetime: a value.
class PENSTOCK_EXPORT CallRefused : public std::runtime_error {
 public:
  CallRefused(const std::string& what, std::chrono::milliseconds retry_in) : std::runtime_error{what}, retry_in_{retry_in} {}
  /// When to come again, from when it was thrown.
  [[nodiscard]] std::chrono::milliseconds retry_in() const noexcept { return retry_in_; }

 private:
  std::chrono::milliseconds retry_in_;
};

}  // namespace penstock
