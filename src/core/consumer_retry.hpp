// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "core/consumer_processor.hpp"

namespace penstock::consumer {

/// What becomes of a message that was not done: given up for `reason`, or parked for `delay`.
struct Decision {
  bool bury = false;
  std::chrono::milliseconds delay{0};
  std::string reason{};
};

/// Decides by verdict, policy, budget and by how the whole consumer fares. An attempt that does not count (postponed, or when
/// the system is to blame) gets the number of the one before. `past`: of the message, up to when the handler was called.
Decision decide(const Shared& shared, const Message& message, Handled& handled, const Past& past);

}  // namespace penstock::consumer
