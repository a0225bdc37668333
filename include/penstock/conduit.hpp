// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/secret.hpp"
#include "penstock/source.hpp"
#include "penstock/tls.hpp"

namespace penstock {

struct ConduitOptions {
  std::string bootstrap_servers{};  ///< required: "host:port,host:port"
  /// Any librdkafka property, passed through untouched, over penstock's own settings; an unknown one is an error that names it.
  std::map<std::string, std::string> properties{};
  std::map<std::string, Secret> secrets{};  ///< properties, too, as "sasl.password"
  std::optional<TlsOptions> tls{};          ///< security.protocol is then ssl; sasl_ssl where a property says sasl
  /// Before every name at the broker, as "staging.", so that environments share it and do not meet: topics and groups. Here
  /// names stay as they are.
  std::string prefix{};
  std::shared_ptr<Logger> logger{};
};

struct TopicSpec {
  std::string name{};
  int partitions = 8;
  int replication = 1;
  std::map<std::string, std::string> config{};  ///< topic settings, as "retention.ms"
};

struct ConduitSourceOptions {
  enum class Start : std::uint8_t { earliest, latest };
  Start start = Start::earliest;  ///< where a group without committed offsets begins
  /// … or at the first message that Kafka has of this time or later; for "2026-01-01T00:00Z": `parse_time`.
  std::optional<std::chrono::system_clock::time_point> start_time{};
  /// Reads what the topic holds when the source is first given partitions, and then has `finished`. A group's next source goes
  /// on behind that; a replay has a group of its own.
  bool until_end = false;
  std::map<std::string, std::string> properties{};   ///< librdkafka consumer properties, over ConduitOptions::properties
  std::chrono::milliseconds revoke_timeout{10'000};  ///< how long a rebalance waits for messages of the lost partitions in work
};

/// Kafka: a durable, ordered, replayable log.
///
/// Publishing is idempotent with acks=all, and an outcome is Kafka's delivery report. The key's partition is the Java client's
/// (murmur2). A source commits, per partition, only up to the lowest message not acknowledged; a rebalance waits for messages
/// in work. One message that waits for `retry` holds up its partition, as Kafka has no delay of its own.
///
/// Thread safety: any thread. Lifetime: channels and sources keep what they need alive and may outlive it.
class PENSTOCK_EXPORT Conduit {
 public:
  /// Does not wait for the broker. Throws std::invalid_argument for a property librdkafka does not know or a bad value, as the
  /// other calls do for a name that Kafka would not take, with the rule that it breaks.
  explicit Conduit(ConduitOptions options);
  ~Conduit();
  Conduit(Conduit&&) noexcept;
  Conduit& operator=(Conduit&&) noexcept;

  /// Creates the topic if it is missing. Throws std::runtime_error when it exists with another number of partitions, naming
  /// both, or when the broker does not answer in time. Changes nothing that exists.
  void declare(const TopicSpec& topic, std::chrono::milliseconds timeout = std::chrono::seconds{30});

  /// The topic as a destination. An unknown topic shows as `rejected`.
  [[nodiscard]] Channel channel(const std::string& topic);
  /// The topic as a source.
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& topic, ConduitSourceOptions options = {});

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock
