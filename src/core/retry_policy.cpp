// SPDX-License-Identifier: Apache-2.0
#include "penstock/retry_policy.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "penstock/random.hpp"

namespace penstock {
namespace {

constexpr RetryPolicy::Duration default_cap = std::chrono::hours{1};
constexpr int default_attempts = 8;

RetryPolicy::Duration checked(const char* what, RetryPolicy::Duration time) {
  if (time.count() < 0) {
    throw std::invalid_argument("RetryPolicy: " + std::string{what} + " of " + std::to_string(time.count()) +
                                " ms is negative; give zero or more");
  }
  return time;
}

/// Uniform in [0, most].
std::int64_t uniform(std::int64_t most, Random& random) {
  const double drawn = std::floor(random.unit() * (static_cast<double>(most) + 1.0));
  return drawn >= static_cast<double>(most) ? most : static_cast<std::int64_t>(drawn);
}

}  // namespace

RetryPolicy::RetryPolicy(std::vector<Duration> delays, double factor, int attempts)
    : delays_{std::move(delays)}, factor_{factor}, attempts_{attempts}, cap_{default_cap} {
  for (const Duration delay : delays_) cap_ = std::max(cap_, checked("a delay", delay));
}

RetryPolicy RetryPolicy::none() { return {{}, 1.0, 1}; }

RetryPolicy RetryPolicy::fixed(Duration delay) { return {{delay}, 1.0, default_attempts}; }

RetryPolicy RetryPolicy::exponential(Duration base, double factor) {
  if (!std::isfinite(factor) || factor < 1.0) {
    throw std::invalid_argument("RetryPolicy: a factor of " + std::to_string(factor) + " makes delays shorter; give 1 or more");
  }
  return {{base}, factor, default_attempts};
}

RetryPolicy RetryPolicy::schedule(std::vector<Duration> delays) {
  if (delays.size() >= static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw std::invalid_argument("RetryPolicy: a schedule of " + std::to_string(delays.size()) + " delays is too long");
  }
  const int attempts = static_cast<int>(delays.size()) + 1;
  return {std::move(delays), 1.0, attempts};
}

RetryPolicy& RetryPolicy::cap(Duration longest) {
  cap_ = checked("a cap", longest);
  return *this;
}

RetryPolicy& RetryPolicy::attempts(int most) {
  if (most < 1) {
    throw std::invalid_argument("RetryPolicy: " + std::to_string(most) +
                                " attempts is less than one; the first try counts, so give 1 or more");
  }
  attempts_ = most;
  return *this;
}

RetryPolicy& RetryPolicy::jitter(Jitter kind) {
  jitter_ = kind;
  return *this;
}

std::optional<RetryPolicy::Duration> RetryPolicy::delay(int attempt, ErrorClass error, Random& random) const {
  if (error == ErrorClass::permanent || attempt >= attempts_) return std::nullopt;
  const std::size_t retry = attempt < 1 ? 0 : static_cast<std::size_t>(attempt) - 1;
  Duration wait{0};
  if (retry < delays_.size()) {
    wait = delays_[retry];
  } else if (!delays_.empty()) {
    // In floating point until it is known to be below the cap, so that nothing overflows.
    const double base = static_cast<double>(delays_.back().count());
    const double grown = base == 0.0 ? 0.0 : base * std::pow(factor_, static_cast<double>(retry - delays_.size() + 1));
    wait = grown < static_cast<double>(cap_.count()) ? Duration{static_cast<Duration::rep>(grown)} : cap_;
  }
  wait = std::min(wait, cap_);
  switch (jitter_) {
    case Jitter::none: break;
    case Jitter::full: wait = Duration{uniform(wait.count(), random)}; break;
    case Jitter::equal: wait = wait / 2 + Duration{uniform((wait - wait / 2).count(), random)}; break;
  }
  return wait;
}

}  // namespace penstock
