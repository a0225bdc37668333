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

/// Faults by chance, from 0 (never) to 1 (always), drawn from the broker's seed: a run with the same seed and one thread
/// repeats itself.
struct MemoryFaults {
  double retryable = 0;  ///< a published event is not stored, and the publisher knows
  double unknown = 0;    ///< a published event is stored, or not, and the publisher does not know
  double lost_ack = 0;   ///< an acknowledgement is lost with its member's connection
  double cut = 0;        ///< a poll begins with a cut connection: what the member has not settled is delivered again
};

/// A broker inside the process, for unit tests and the embedded mode of examples: channels with partitions, consumer groups
/// with rebalance, redelivery of what was not settled, prefetch, delays by an injected clock, and faults on demand. It passes
/// the same contract suite as Kafka, RabbitMQ and NATS.
///
///     MemoryBroker broker{{.seed = 42}};
///     broker.declare("order-events", 4);
///     ... run a Consumer on broker.source("order-events") ...
///     broker.wait_settled("order-events", "shipping", 5s);
///     broker.published("notifications");   // the events, in the order they were stored
///
/// A key's partition depends on the key alone; a member chooses among its partitions by the seed. What a handler sees has
/// been encoded and decoded as on Kafka.
///
/// Thread safety: any thread. Lifetime: channels and sources keep the broker's state alive and may outlive it.
class PENSTOCK_EXPORT MemoryBroker {
 public:
  explicit MemoryBroker(MemoryBrokerOptions options = {});
  ~MemoryBroker();
  MemoryBroker(MemoryBroker&&) noexcept;
  MemoryBroker& operator=(MemoryBroker&&) noexcept;

  /// Creates a channel. Publishing to one that was not declared is `rejected`. Throws std::runtime_error when it exists with
  /// another number of partitions.
  void declare(const std::string& channel, int partitions = 1);
  [[nodiscard]] Channel channel(const std::string& name);
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& channel, MemorySourceOptions options = {});

  /// Publishes an event as a producer elsewhere would; what is not set of id, source, time and content type is filled in.
  Outcome publish(const std::string& channel, Event event);
  /// Stores a message as it is, whether it is an event or not. Throws std::logic_error for a channel not declared.
  void put(const std::string& channel, Wire wire);

  /// The events stored on a channel, oldest first; of one key in their order.
  [[nodiscard]] std::vector<Event> published(const std::string& channel) const;
  /// The events on every channel whose name ends in ".dead".
  [[nodiscard]] std::vector<Event> dead_letters() const;
  /// Messages of a channel that a group has not settled yet.
  [[nodiscard]] std::size_t pending(const std::string& channel, const std::string& group) const;
  /// Waits, by the machine's clock, until nothing is pending; false when `patience` ends first.
  [[nodiscard]] bool wait_settled(const std::string& channel, const std::string& group,
                                  std::chrono::milliseconds patience) const;
  /// A channel's partitions, groups and members in a few lines, for the message of a failed assertion.
  [[nodiscard]] std::string describe(const std::string& channel) const;

  // Faults. Each takes effect at once and says so in outcomes or redeliveries, as the real brokers do.

  /// Stops or restarts the broker: while it is down publishing is `retryable`, sources are silent, settlements are lost. What
  /// was delivered and not settled is delivered again afterwards.
  void set_down(bool down);
  /// The outcome of the next `count` events published to a channel; several calls make a script, in which `confirmed` lets
  /// events through. `unknown` stores the first of its events and then every second one.
  void fail_next(const std::string& channel, std::size_t count, Outcome::Status status);
  /// Loses the next `count` acknowledgements of a channel, each with its member's connection: what that member has not settled
  /// is delivered again.
  void lose_acks(const std::string& channel, std::size_t count);
  /// Faults by chance on a channel, from now on.
  void set_faults(const std::string& channel, const MemoryFaults& faults);
  /// Makes the members of a group share a channel's partitions anew, as when one joins: what was not settled is redelivered.
  void rebalance(const std::string& channel, const std::string& group);

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::testing
