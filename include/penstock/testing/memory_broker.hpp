// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"

namespace penstock::testing {

struct MemoryBrokerOptions {
  std::uint64_t seed = 42;  ///< of every choice the broker makes: interleaving of partitions, of redeliveries, of faults
  Clock* clock = &Clock::system();                      ///< a ManualClock makes delays virtual
  std::size_t largest_message = std::size_t{1} << 20U;  ///< payload bytes; a larger one is `rejected`
};

struct MemorySourceOptions {
  std::size_t prefetch = 256;  ///< most messages delivered and not settled, per member
};

/// A broker inside the process, for unit tests and the embedded mode of examples: channels with partitions, consumer groups
/// with rebalance, redelivery of what was not settled, prefetch, delays by an injected clock, and faults on demand. It passes
/// the same contract suite as Kafka, RabbitMQ and NATS.
///
///     MemoryBroker broker{{.seed = 42}};
///     broker.declare("order-events", 4);
///     ... run a Consumer on broker.source("order-events") ...
///     broker.published("notifications");   // the events, in the order they were stored
///
/// Thread safety: any thread. Lifetime: channels and sources keep the broker's state alive and may outlive it.
class PENSTOCK_EXPORT MemoryBroker {
 public:
  explicit MemoryBroker(MemoryBrokerOptions options = {});
  ~MemoryBroker();
  MemoryBroker(MemoryBroker&&) noexcept;
  MemoryBroker& operator=(MemoryBroker&&) noexcept;

  /// Creates a channel. Publishing to one that was not declared is `rejected`.
  void declare(const std::string& channel, int partitions = 1);
  [[nodiscard]] Channel channel(const std::string& name);
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& channel, MemorySourceOptions options = {});

  /// The events stored on a channel, oldest first; of one key in their order.
  [[nodiscard]] std::vector<Event> published(const std::string& channel) const;
  /// The events on every channel whose name ends in ".dead".
  [[nodiscard]] std::vector<Event> dead_letters() const;
  /// Messages of a channel that a group has not settled yet.
  [[nodiscard]] std::size_t pending(const std::string& channel, const std::string& group) const;

  // Faults. Each takes effect at once and says so in outcomes or redeliveries, as the real brokers do.

  /// Stops or restarts the broker: while it is down publishing is `retryable`, sources are silent, settlements are lost. What
  /// was delivered and not settled is delivered again afterwards.
  void set_down(bool down);
  /// The outcome of the next `count` events published to a channel. `unknown` stores every second one.
  void fail_next(const std::string& channel, std::size_t count, Outcome::Status status);
  /// Loses the next `count` acknowledgements of a channel and cuts its members' connections, so they are delivered again.
  void lose_acks(const std::string& channel, std::size_t count);
  /// Makes the members of a group share a channel's partitions anew, as when one joins: what was not settled is redelivered.
  void rebalance(const std::string& channel, const std::string& group);

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::testing
