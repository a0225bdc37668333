// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>

#include "penstock/clock.hpp"
#include "penstock/export.hpp"

namespace penstock {

namespace limits {
class Turns;
}
class SharedLimits;

struct RateLimitOptions {
  std::string name{};                         ///< required: of the provider, for errors
  double per_second = 0;                      ///< required: tokens that come in a second; 0.1 is one in ten
  double burst = 1;                           ///< most tokens that are saved up; at least 1
  std::chrono::milliseconds patience{1'000};  ///< longest wait for a turn
  Clock* clock = &Clock::system();
};

/// A token bucket: calls to a provider at no more than a rate, with a burst.
///
///     RateLimit geocoding{{.name = "geocoding", .per_second = 50, .burst = 10}};
///     ... in a handler:
///     geocoding.take(ctx.stop_token());
///
/// A worker that waits for its turn takes nothing else from the source, so the limit slows the intake down. Who would wait
/// longer than `patience` is refused, and told a time of its own, so that those who were refused come back one by one.
///
/// Its bucket is this process's own; SharedLimits makes one that all processes share.
///
/// Thread safety: any thread. Lifetime: a handle; copies share one bucket. The clock must outlive all of them.
class PENSTOCK_EXPORT RateLimit {
 public:
  /// Throws std::invalid_argument, naming the option, the value and the remedy.
  explicit RateLimit(RateLimitOptions options);

  /// Blocks until it is the caller's turn, at most for `patience`. Throws CallRefused, also when `stop` is requested.
  void take(const std::stop_token& stop = {});

 private:
  friend class SharedLimits;
  RateLimit(RateLimitOptions options, std::shared_ptr<limits::Turns> turns);
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock
