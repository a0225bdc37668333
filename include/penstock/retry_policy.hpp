// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "penstock/export.hpp"

namespace penstock {

class Random;

/// How a delay is spread, so that what failed together does not come back together.
enum class Jitter : std::uint8_t {
  none,  ///< the delay itself
  full,  ///< uniform in [0, delay]
  equal  ///< delay/2 + uniform in [0, delay/2]
};

enum class ErrorClass : std::uint8_t { transient, permanent };

/// When a failed message is tried again, and when that ends. A value and a pure function:
///
///     auto policy = RetryPolicy::exponential(200ms).cap(30s).attempts(8).jitter(Jitter::full);
///     policy.delay(1, ErrorClass::transient, random);   // after the first failure: 0..200 ms
///     policy.delay(8, ErrorClass::transient, random);   // nullopt: eight attempts are used up
///
/// Attempts count from 1 and include the first. Delays never overflow. Without `cap`, the cap is one hour, or the longest delay
/// given if that is more; without `attempts`, eight. Thread safety: a value; const calls from any thread, given a Random that
/// allows it.
class PENSTOCK_EXPORT RetryPolicy {
 public:
  using Duration = std::chrono::milliseconds;

  static RetryPolicy none();  ///< one attempt
  static RetryPolicy fixed(Duration delay);
  static RetryPolicy exponential(Duration base, double factor = 2.0);  ///< base · factor^(failures - 1)
  static RetryPolicy schedule(std::vector<Duration> delays);           ///< one entry per retry; attempts = entries + 1

  /// Each throws std::invalid_argument, naming the value, for a negative time or fewer than one attempt.
  RetryPolicy& cap(Duration longest);
  RetryPolicy& attempts(int most);
  RetryPolicy& jitter(Jitter kind);

  /// The delay after failure number `attempt` (from 1); empty when it was the last or the error is permanent.
  [[nodiscard]] std::optional<Duration> delay(int attempt, ErrorClass error, Random& random) const;
  [[nodiscard]] int max_attempts() const noexcept { return attempts_; }

 private:
  RetryPolicy(std::vector<Duration> delays, double factor, int attempts);

  std::vector<Duration> delays_;
  double factor_;
  int attempts_;
  Duration cap_;
  Jitter jitter_ = Jitter::none;
};

}  // namespace penstock
