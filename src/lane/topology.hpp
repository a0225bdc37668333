// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/connection.hpp"
#include "lane/message.hpp"
#include "penstock/lane.hpp"

namespace penstock::lane {

/// Throw std::invalid_argument for a name RabbitMQ would not take.
void check_queue_name(std::string_view name);
void check_exchange_name(std::string_view name);
void check_routing_key(std::string_view key);

/// Throws std::invalid_argument, naming the field, for what no queue can be.
void check_queue(const QueueSpec& queue);

/// The queue as RabbitMQ is told of it: names with the prefix, and every routing key said. Throws std::invalid_argument.
QueueSpec resolved(const QueueSpec& queue, const std::string& prefix);

class Topology;

/// An exchange is there, but not as it was wanted. `what()` shows both and the remedy.
class ExchangeDiffers : public AmqpError {
 public:
  using AmqpError::AmqpError;
};

/// Makes sure of a resolved durable queue and what belongs to it (exchanges, bindings, the queue of its dead letters) over an
/// open channel, which stays open. True when a queue was not there before: then messages are to be trusted to it after
/// `settling` only. Throws AmqpError; if that is `channel_only` and has a code, RabbitMQ closed the channel.
bool declare_queue(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology);

/// The same for a queue that is taken as it is when it is there.
bool make_if_missing(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology);

/// Over an open channel, which stays open. Throws AmqpError.
bool exchange_exists(Connection& connection, amqp_channel_t channel, std::string_view name);

/// The same for a delay queue. Declaring it again tells RabbitMQ that it is still in use.
bool declare_delay(Connection& connection, amqp_channel_t channel, const DelayQueue& queue);

/// RabbitMQ answers `queue.declare` before the queue is on disk. What it keeps in memory meanwhile is written within three
/// seconds (the write delay of the files it uses); a crash before that loses a classic queue, or leaves a quorum queue empty,
/// with everything it confirmed. Seen with 3.10.8: quorum up to 2.3 s after the declaration, classic up to 0.6 s. So for this
/// long nothing in a new queue counts as stored.
inline constexpr std::chrono::milliseconds settling{3'500};

/// The delay that is really waited: `delay` rounded up to one of a few steps, so that queues do not multiply.
std::chrono::milliseconds delay_step(std::chrono::milliseconds delay);

/// How often a delay queue in use is declared anew. It expires by itself a day after the last time plus its own delay, and
/// publishing alone does not count as use.
inline constexpr std::chrono::hours delay_renewal{1};

/// What this Lane was asked to declare, to be declared again after a reconnect. Thread safety: any thread.
class Topology {
 public:
  void remember(const QueueSpec& queue);
  [[nodiscard]] std::optional<QueueSpec> find(const std::string& name) const;

  /// A queue that was not asked for itself, but by others for their dead letters.
  [[nodiscard]] std::optional<QueueSpec> dead_letter_queue(const std::string& name) const;
  /// Those that are bound to an exchange.
  [[nodiscard]] std::vector<QueueSpec> bound_to(const std::string& exchange) const;

  /// One of our connections makes a queue: said before it is asked for, as messages may be in it before the answer is here.
  void making(const QueueSpec& queue);
  /// When what is in a queue counts as stored; long ago for one that was not made by us lately.
  [[nodiscard]] SteadyTime trusted(const std::string& name) const;
  /// The same for all queues that are bound to an exchange.
  [[nodiscard]] SteadyTime exchange_trusted(const std::string& exchange) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, QueueSpec> queues_;
  std::map<std::string, SteadyTime> trusted_;
  std::map<std::string, SteadyTime> exchanges_trusted_;
};

}  // namespace penstock::lane
