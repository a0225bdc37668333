// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/secret.hpp"
#include "penstock/source.hpp"
#include "penstock/tls.hpp"

namespace penstock {

struct LaneOptions {
  enum class Login : std::uint8_t {
    password,    ///< PLAIN
    certificate  ///< EXTERNAL: as whoever `tls.certificate_file` names; RabbitMQ's plugin rabbitmq_auth_mechanism_ssl
  };
  /// Required: "amqp://user:password@host:port/vhost" (vhost percent-encoded), amqps with TLS. Never shown with its password.
  std::string url{};
  Secret password{};  ///< of the url's user, in place of one in the url
  Login login = Login::password;
  std::optional<TlsOptions> tls{};  ///< for TLS with other than the system's authorities; amqps:// alone is TLS with these
  /// Before every name at the broker, as "staging.", so that environments share it and do not meet: queues, delays included.
  /// Here names stay as they are.
  std::string prefix{};
  std::chrono::seconds heartbeat{10};
  std::size_t window = 2'000;  ///< most messages sent and not confirmed, per channel
  std::shared_ptr<Logger> logger{};
};

struct QueueSpec {
  enum class Kind : std::uint8_t { quorum, classic };
  std::string name{};
  Kind kind = Kind::quorum;  ///< both are durable
  int priorities =
      0;  ///< classic only: messages of a higher one, 0 to this (255 at most), come first; the header "amqp-priority"
  bool single_active_consumer = false;  ///< one member of the group at a time, so that order holds across processes
};

struct LaneSourceOptions {
  std::uint16_t prefetch = 50;  ///< most messages delivered and not settled
};

/// RabbitMQ: a job queue with acknowledgements.
///
/// Messages are persistent, publishing is confirmed and `mandatory`: an unroutable message is `rejected`. Heartbeats go on
/// whatever handlers do. A cancelled consumer, a closed channel or a cut connection is rebuilt with back-off and jitter; what
/// was outstanding becomes `unknown`. Delayed retries wait in a queue per delay that expires by itself, confirmed before the
/// original is acknowledged.
///
/// Thread safety: any thread. Lifetime: channels and sources keep what they need alive and may outlive it.
class PENSTOCK_EXPORT Lane {
 public:
  /// Does not connect. Throws std::invalid_argument for a URL or another option that cannot be, as the other
  /// calls do for a name that RabbitMQ would not take, with the rule that it breaks.
  explicit Lane(LaneOptions options);
  ~Lane();
  Lane(Lane&&) noexcept;
  Lane& operator=(Lane&&) noexcept;

  /// Declares the durable queue. Throws std::runtime_error when it exists with other arguments (showing RabbitMQ's words and
  /// the remedy) or RabbitMQ does not answer in time. A queue that has to be created takes three and a half seconds, once in
  /// its life: RabbitMQ writes down that it exists only by and by, and a crash before that loses it with all it confirmed.
  void declare(const QueueSpec& queue, std::chrono::milliseconds timeout = std::chrono::seconds{30});
  /// The same for several, which wait together.
  void declare(std::span<const QueueSpec> queues, std::chrono::milliseconds timeout = std::chrono::seconds{30});

  /// The queue as a destination, through the default exchange. An unknown queue shows as `rejected`.
  [[nodiscard]] Channel channel(const std::string& queue);
  /// The queue as a source.
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& queue, LaneSourceOptions options = {});

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock
