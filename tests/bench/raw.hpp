// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

// The reference sides: what one would write by hand on the bare client library, with the same durability.
namespace penstock::bench {

/// Publishes the events of payload.hpp, with the headers that a CloudEvent carries on that broker.
/// Thread safety: one thread. Lifetime: of its own connection.
class RawPublisher {
 public:
  virtual ~RawPublisher() = default;
  /// Sends `count` events from number `first`, as many at once as the client or the window allows, and returns when the
  /// broker has acknowledged every one of them. Throws when it has not.
  virtual void publish(std::size_t first, std::size_t count) = 0;
};

/// A broker as its bare client shows it, also used to count what both sides have stored.
class RawBroker {
 public:
  virtual ~RawBroker() = default;
  virtual void create(const std::string& name) = 0;
  virtual void remove(const std::string& name) = 0;
  /// How many messages it holds there, by its own account.
  virtual std::size_t stored(const std::string& name) = 0;
  virtual std::unique_ptr<RawPublisher> publisher(const std::string& name) = 0;
  /// Reads `count` messages as a new group and acknowledges each. Returns the seconds from the first message to the last.
  virtual double consume(const std::string& name, const std::string& group, std::size_t count) = 0;
  /// How many messages that group has not acknowledged.
  virtual std::size_t unsettled(const std::string& name, const std::string& group) = 0;
};

constexpr int kKafkaPartitions = 8;

/// `bootstrap`: host:port. Topics of kKafkaPartitions partitions; idempotent producer, acks=all.
std::unique_ptr<RawBroker> raw_kafka(const std::string& bootstrap);
/// Durable quorum queues; persistent, mandatory, confirmed, at most `window` unconfirmed and `prefetch` unacknowledged.
std::unique_ptr<RawBroker> raw_rabbitmq(const std::string& url, std::size_t window, std::uint16_t prefetch);
/// Streams on file storage; PubAck, Nats-Msg-Id, at most `window` without an answer; `fetch` at most pulled at once.
std::unique_ptr<RawBroker> raw_nats(const std::string& url, std::size_t window, int fetch);

/// Reads a topic to its end as a new group, one message after the other, storing each offset after `each` and committing
/// them at the end. Returns the seconds from the first message to the last.
double raw_kafka_consume(const std::string& bootstrap, const std::string& topic, const std::string& group, std::size_t count,
                         const std::function<void()>& each);
/// The sum of a group's committed offsets on a topic.
std::size_t raw_kafka_committed(const std::string& bootstrap, const std::string& topic, const std::string& group);

}  // namespace penstock::bench
