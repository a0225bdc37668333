// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "penstock/retry_policy.hpp"

namespace penstock {

struct RetryPolicy::Rule {
  std::string name{};
  Predicate matches{};  ///< empty: the failure's classes hold `name`
  RetryPolicy policy;
};

namespace retry {

/// "200ms", "30s", "5min", "1h", "2d": the largest unit that leaves nothing over.
[[nodiscard]] std::string to_text(RetryPolicy::Duration time);
/// The reverse; empty when it is no such text, or too long a time.
[[nodiscard]] std::optional<RetryPolicy::Duration> from_text(std::string_view text);

[[nodiscard]] const char* to_text(Jitter jitter) noexcept;

}  // namespace retry
}  // namespace penstock
