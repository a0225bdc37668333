// SPDX-License-Identifier: Apache-2.0
#include "penstock/rate_limit.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "core/limits.hpp"
#include "penstock/call_refused.hpp"

namespace penstock {

namespace {

using std::chrono::milliseconds;

RateLimitOptions checked(RateLimitOptions options) {
  const auto refuse = [](const std::string& option, const std::string& value, const std::string& remedy) {
    throw std::invalid_argument{"RateLimitOptions::" + option + " is " + value + ": " + remedy};
  };
  constexpr double one_in_a_day = 1.0 / 86'400;
  constexpr double most = 1e6;
  if (options.name.empty()) {
    refuse("name", "''", "give the provider's name");
  }
  if (!(options.per_second >= one_in_a_day && options.per_second <= most)) {
    refuse("per_second", std::to_string(options.per_second),
           "give a number from 1.0 / 86400, which is one a day, to a million");
  }
  if (!(options.burst >= 1 && options.burst <= most)) {
    refuse("burst", std::to_string(options.burst), "give a number from 1 to a million");
  }
  if (options.patience < milliseconds{0}) {
    refuse("patience", std::to_string(options.patience.count()) + " ms", "give a time that is not negative");
  }
  if (options.clock == nullptr) {
    refuse("clock", "null", "leave it out for the system's");
  }
  return options;
}

Clock::Duration seconds(double count) {
  return std::chrono::duration_cast<Clock::Duration>(std::chrono::duration<double>{count});
}

/// The bucket is one time: when it will be full again. It lies ahead by one interval for each token that is missing.
class Bucket final : public limits::Turns {
 public:
  explicit Bucket(RateLimitOptions given)
      : options{std::move(given)},
        interval{seconds(1.0 / options.per_second)},
        saved{seconds((options.burst - 1) / options.per_second)},
        full{options.clock->now()},
        promised{full} {}

  Clock::Duration turn() override {
    const std::lock_guard guard{mutex};
    const Clock::TimePoint now = options.clock->now();
    // Not further ahead than it can have come, should a wall clock have been set back.
    full = std::clamp(full, now, now + saved + interval + options.patience);
    const Clock::Duration wait = std::max(Clock::Duration{0}, full - saved - now);
    if (wait > options.patience) {
      promised = std::clamp(promised, full, now + std::chrono::hours{24}) + interval;
      const auto until = std::chrono::ceil<milliseconds>(promised - interval - saved - now);
      throw CallRefused{"the rate limit of " + options.name + " is used up; again in " + std::to_string(until.count()) + " ms",
                        until};
    }
    full += interval;
    return wait;
  }

 private:
  const RateLimitOptions options;
  const Clock::Duration interval;
  const Clock::Duration saved;  // what a full bucket allows at once, beside the first
  std::mutex mutex;
  Clock::TimePoint full;
  Clock::TimePoint promised;  // the last turn that was told to one who was refused, and an interval more
};

}  // namespace

class RateLimit::Impl {
 public:
  Impl(RateLimitOptions given, std::shared_ptr<limits::Turns> from)
      : options{checked(std::move(given))}, turns{from ? std::move(from) : std::make_shared<Bucket>(options)} {}
  const RateLimitOptions options;
  const std::shared_ptr<limits::Turns> turns;
};

RateLimit::RateLimit(RateLimitOptions options) : RateLimit{std::move(options), nullptr} {}
RateLimit::RateLimit(RateLimitOptions options, std::shared_ptr<limits::Turns> turns)
    : impl_{std::make_shared<Impl>(std::move(options), std::move(turns))} {}

void RateLimit::take(const std::stop_token& stop) {
  const Clock::Duration wait = impl_->turns->turn();
  if (wait > Clock::Duration{0} && !impl_->options.clock->sleep_for(wait, stop)) {
    throw CallRefused{"stopped while waiting for the rate limit of " + impl_->options.name, milliseconds{0}};
  }
}

}  // namespace penstock
