// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

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
  /// Before every name at the broker, as "staging.", so that environments share it and do not meet: queues, delays included,
  /// and exchanges. Here names stay as they are, and so do routing keys.
  std::string prefix{};
  std::chrono::seconds heartbeat{10};
  std::size_t window = 2'000;  ///< most messages sent and not confirmed, per channel
  std::shared_ptr<Logger> logger{};
};

/// Which messages of an exchange a queue gets a copy of.
struct QueueBinding {
  enum class Kind : std::uint8_t {
    topic,   ///< those whose key fits: words between dots, `*` for one of them, `#` for any number
    direct,  ///< those of just that key
    fanout   ///< all; then there is no key
  };
  std::string exchange{};  ///< durable, and made with the queue when it is not there
  Kind kind = Kind::topic;
  std::string routing_key{};  ///< by default the queue's name
};

/// Where RabbitMQ itself puts what it takes out of a queue for being too old or too many. With `more_than`, and from a classic
/// queue, it does so without a confirm, and a crash of RabbitMQ may lose what is on its way; from others the copy is stored
/// first.
struct QueueDeadLetters {
  std::chrono::milliseconds older_than{};  ///< in the queue and in nobody's hands; 0: nothing ages; less than 50 days
  std::size_t more_than = 0;               ///< messages in nobody's hands: then the oldest go; 0: no limit
  std::string exchange{};                  ///< none: `routing_key` is a queue; else it has to be there before
  std::string routing_key{};  ///< by default "<queue>.dead"; that queue is made when there is neither it nor an exchange given
};

struct QueueSpec {
  enum class Kind : std::uint8_t { quorum, classic };
  std::string name{};
  Kind kind = Kind::quorum;  ///< both are durable
  int priorities =
      0;  ///< classic only: messages of a higher one, 0 to this (255 at most), come first; the header "amqp-priority"
  bool single_active_consumer = false;  ///< one member of the group at a time, so that order holds across processes
  /// Beside its own name, by which it can always be published to. One that is no longer given stays until somebody unbinds it.
  std::vector<QueueBinding> bindings{};
  std::optional<QueueDeadLetters> dead_letters{};  ///< none: RabbitMQ takes nothing out
};

struct LaneChannelOptions {
  /// To publish to; by default there is none, and the channel is the queue of its name.
  std::string exchange{};
  /// With an exchange only. By default the channel's name; {type}, {source}, {subject} and {key} stand for the event's.
  std::string routing_key{};
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

  /// Declares the durable queue, the exchanges it is bound to, the bindings and the queue of its dead letters; and again
  /// whenever a channel or source of this Lane connects anew that uses the queue, or an exchange it is bound to. Throws
  /// std::runtime_error when the queue or an exchange exists with other arguments or as another type (showing RabbitMQ's words
  /// and the remedy) or RabbitMQ does not answer in time. A queue that has to be created takes three and a half seconds, once
  /// in its life: RabbitMQ writes down that it exists only by and by, and a crash before that loses it with all it confirmed.
  void declare(const QueueSpec& queue, std::chrono::milliseconds timeout = std::chrono::seconds{30});
  /// The same for several, in their order; they wait together.
  void declare(std::span<const QueueSpec> queues, std::chrono::milliseconds timeout = std::chrono::seconds{30});

  /// The queue of that name as a destination, or an exchange. An unknown queue or exchange, or a routing key that no queue is
  /// bound by, shows as `rejected` with the remedy; so does an event whose key would have more than 255 bytes.
  /// `confirmed` says that each queue that was bound by its key at that moment has the event.
  [[nodiscard]] Channel channel(const std::string& name, const LaneChannelOptions& options = {});
  /// The queue as a source.
  [[nodiscard]] std::unique_ptr<Source> source(const std::string& queue, LaneSourceOptions options = {});

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock
