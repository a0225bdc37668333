// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/event_log.hpp"
#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/random.hpp"
#include "penstock/retry_policy.hpp"

namespace penstock {

/// Events whose route matches the pattern go to the channel. An event may match several routes and goes to each channel once.
struct Route {
  std::string pattern{};  ///< "shop.order.*", or `dead_letters_of("fulfillment-jobs")`
  Channel channel{};
};

struct RelayOptions {
  std::size_t batch = 500;       ///< most events handed to a publisher in one call
  std::size_t in_flight = 4000;  ///< most events read and not settled, per channel
  std::chrono::milliseconds publish_timeout{30'000};
  std::chrono::milliseconds drain_timeout{10'000};
  std::chrono::milliseconds idle_wait{1'000};  ///< longest sleep between polls when no hint arrives
  RetryPolicy retry = RetryPolicy::exponential(std::chrono::milliseconds{100})
                          .cap(std::chrono::seconds{10})
                          .attempts(1'000'000)
                          .jitter(Jitter::equal);  ///< for `retryable` and `unknown`; the event is never given up
  int rejections = 3;  ///< how often a `rejected` event is tried before it is buried and its key goes on
  Clock* clock = &Clock::system();
  Random* random = &Random::system();
  std::shared_ptr<Logger> logger{};
};

struct RelayStatus {
  struct PerChannel {
    std::string channel{};
    bool owner = false;           ///< this relay holds the lease of the channel's cursor
    std::uint64_t published = 0;  ///< confirmed since construction
    std::uint64_t buried = 0;     ///< rejected for good and recorded as dead letters
    std::size_t in_flight = 0;
    std::size_t fenced_keys = 0;  ///< keys that wait behind a failed event
    std::string last_error{};
  };
  std::vector<PerChannel> channels{};
};

/// Carries committed events from a log to their channels: nothing is lost, and the events of one key arrive in their order.
///
/// Each channel has a cursor and a thread of its own, so a broker that is away holds up only its own. An event that fails
/// fences its key: later events of that key wait, other keys flow. The checkpoint never passes an event that is not settled, so
/// a crash at any moment means repeats with the same id, never a gap. Relays in several processes share the work by cursors and
/// take over from each other when a lease ends. No database transaction is open while a broker is waited for.
///
/// Thread safety: `run` once, from one thread; `status` from any. Lifetime: log, clock and random must outlive it; its threads
/// live inside `run`; it shares ownership of the channels' publishers.
class PENSTOCK_EXPORT Relay {
 public:
  /// Throws std::invalid_argument, naming the route or option, the value and the remedy.
  Relay(EventLog& log, std::vector<Route> routes, RelayOptions options = {});
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  /// Blocks until `stop` is requested, then drains: reading stops, what is in flight is confirmed and checkpointed, leases are
  /// given up. True when that took no longer than `drain_timeout`.
  bool run(std::stop_token stop);

  [[nodiscard]] RelayStatus status() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
