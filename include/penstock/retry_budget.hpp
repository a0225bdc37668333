// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace penstock {

/// How much of a consumer's work may be retries. A retry that is over the budget is not given up: it waits for its turn, and
/// its message holds up nothing but its key.
///
/// The share is of the messages that this process handles for the first time, so that the processes of a group need no common
/// count. A quiet consumer has `per_second` beside it, or a retry might never come.
/// Thread safety and lifetime: a value.
struct RetryBudget {
  double share = 0.2;      ///< 0.2: one retry for five first attempts; from 0 to 1
  double per_second = 10;  ///< retries a second beside that; more than 0
  double burst = 100;      ///< retries that may be saved up; at least 1
};

}  // namespace penstock
