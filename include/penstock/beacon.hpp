// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/secret.hpp"
#include "penstock/source.hpp"
#include "penstock/tls.hpp"

namespace penstock {

struct BeaconOptions {
  std::string url{};  ///< required: "nats://host:port", or tls://, several separated by commas; never shown with its password
  // Who we are, one of these, in place of what the url says:
  Secret password{};  ///< of the url's user
  Secret token{};
  std::string credentials_file{};   ///< JWT and seed, as nsc writes them
  std::string nkey{};               ///< the public key, "U…"
  std::string nkey_seed_file{};     ///< holds its seed, "SU…"
  std::optional<TlsOptions> tls{};  ///< for TLS with other than the system's authorities; tls:// alone is TLS with these
  /// Before every name at the broker, as "staging.", so that environments share it and do not meet: streams, subjects,
  /// consumers. Here names stay as they are.
  std::string prefix{};
  std::size_t window = 1'000;  ///< most messages sent and not acknowledged, per channel
  std::shared_ptr<Logger> logger{};
};

struct StreamSpec {
  enum class Retention : std::uint8_t {
    limits,     ///< kept until age or size say otherwise
    interest,   ///< until every group that exists has acknowledged; with none, what is confirmed is gone at once
    work_queue  ///< until acknowledged, by the one group that it may have
  };
  std::string name{};  ///< channel, stream and subject; [A-Za-z0-9_.-], where JetStream's own name has "=2E" for a dot
  std::vector<std::string> subjects{};  ///< default: the name alone
  /// 1 to 256: in place of `subjects` it takes "<name>.0", "<name>.1" and so on, one for each partition of the keys, and keeps
  /// the order of each key for every number of processes; see `Beacon`. A number for the stream's life: with another, keys
  /// would change their partitions.
  int partitions = 0;
  Retention retention = Retention::limits;
  std::chrono::nanoseconds max_age{0};                                  ///< 0: kept until other limits
  std::int64_t max_bytes = -1;                                          ///< -1: no limit; beyond it the oldest are dropped
  std::chrono::nanoseconds duplicate_window = std::chrono::minutes{2};  ///< how long JetStream remembers ids
  int replicas = 1;
};

struct BeaconSourceOptions {
  /// The stream's, for messages in the order of their keys. 0, also on a stream that has some: every message, in no such order.
  int partitions = 0;
  /// Where a group begins that is new to the stream, in place of the stream's start: at this sequence …
  std::optional<std::uint64_t> start_sequence{};
  /// … or at the first message of this time or later, by the server's clock; one of the two. Up to 0.1 s earlier where the
  /// time is less than that past a full second.
  std::optional<std::chrono::system_clock::time_point> start_time{};
  /// Most messages delivered and not settled, over the whole group. With partitions it is one for each, whatever is given here.
  int max_ack_pending = 200;
  /// Redelivered when neither settled nor touched for so long. A Consumer touches by itself; leave it 15 s or more.
  std::chrono::milliseconds ack_wait{30'000};
  /// Settling waits until the server says that it has it, up to two seconds, and is repeated on the next connection otherwise:
  /// what was acknowledged comes again only when this process ends before. Without it, settlements are sent and not answered,
  /// and one that is lost on the wire means a redelivery. Costs a round trip for each message.
  bool confirm_acks = false;
};

/// NATS JetStream: light notifications, stored and acknowledged.
///
/// Publishing waits for JetStream's PubAck; `Nats-Msg-Id` is the event's identity, so a retry inside the stream's duplicate
/// window is stored once. A source is a durable pull consumer named after the group; messages in work are kept from redelivery
/// by in-progress signs.
///
/// Where stream, channel and source count the same `partitions`, the events of a key go to one of them, by a hash, and
/// JetStream gives out a partition's next message when the one before is settled: so the order of a key holds over all
/// processes of a group, over retries, redelivery and crashes, and at most one message of a partition is on its way. With 1 a
/// group is a single consumer. A group that counts other partitions than before is a new group.
///
/// Thread safety: any thread. Lifetime: channels and sources keep what they need alive and may outlive it.
class PENSTOCK_EXPORT Beacon {
 public:
  /// Does not connect. Throws std::invalid_argument for a URL or another option that cannot be, as the other calls do for a
  /// name that NATS would not take, with the rule that it breaks.
  explicit Beacon(BeaconOptions options);
  ~Beacon();
  Beacon(Beacon&&) noexcept;
  Beacon& operator=(Beacon&&) noexcept;

  /// Creates the stream, file storage, if it is missing. Throws std::runtime_error when it exists with another setting, naming
  /// both sides, or the server does not answer in time. Changes nothing that exists.
  void declare(const StreamSpec& stream, std::chrono::milliseconds timeout = std::chrono::seconds{30});

  /// The stream as a destination: events go to the subject of that name, or, with the stream's number of partitions, to their
  /// key's; without a key, to any. A subject no stream covers shows as `rejected`.
  [[nodiscard]] Channel channel(const std::string& stream, int partitions = 0);
  /// The stream as a source. While the stream has other partitions than the source counts it reads nothing, and its log
  /// has both numbers.
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& stream, BeaconSourceOptions options = {});

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock
