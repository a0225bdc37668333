// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/batch.hpp"
#include "penstock/circuit_breaker.hpp"
#include "penstock/clock.hpp"
#include "penstock/context.hpp"
#include "penstock/datastore.hpp"
#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/random.hpp"
#include "penstock/retry_budget.hpp"
#include "penstock/retry_policy.hpp"
#include "penstock/source.hpp"
#include "penstock/systemic_failure.hpp"
#include "penstock/verdict.hpp"

namespace penstock {

/// The effect of a message. Called from worker threads, several at once, but never two at once for one key.
using Handler = std::function<Verdict(const Message&, Context&)>;

/// How many threads run the handler: `min` always, up to `max` while messages wait longer than 20 ms by the measured time of a
/// handler; fewer again when those there were had too little to do for five seconds.
struct Workers {
  int min = 1;
  int max = 1;
};

struct ConsumerOptions {
  std::string group{};   ///< required: the name under which effects happen once; [A-Za-z0-9._-], at most 100
  std::string source{};  ///< CloudEvents `source` of emitted events; default "/penstock/<group>"
  Workers workers{};
  RetryPolicy retry =
      RetryPolicy::exponential(std::chrono::milliseconds{200}).cap(std::chrono::seconds{30}).attempts(8).jitter(Jitter::full);
  std::optional<RetryBudget> budget{};                               ///< how much of the work may be retries
  std::chrono::milliseconds postpone_limit{std::chrono::hours{24}};  ///< see Verdict::postpone
  SystemicFailure systemic{};                ///< when the handler fails so often that it cannot be the messages
  std::vector<CircuitBreaker> depends_on{};  ///< providers without which the handler can do nothing
  std::size_t in_flight = 256;               ///< most messages taken from the source and not settled; parked ones do not count
  /// Most bytes of them: nothing is taken while they are more. One poll, sized by the messages before it, may exceed it.
  std::size_t in_flight_bytes = std::size_t{64} << 20U;
  /// Most messages that share a transaction, with a savepoint each; or that a BatchHandler gets at once. As many as wait are
  /// taken, and none is waited for. Without a Datastore it changes nothing.
  std::size_t batch = 1;
  /// After so long the handler's stop token is triggered; 0: never. Looked at ten times a second.
  std::chrono::milliseconds handler_timeout{0};
  /// A message whose handler took the process with it so often is dead-lettered as `crashed: …`; 0: never. Only deliveries that
  /// may be repeated are counted, so the first death leaves no trace. With a Datastore in SQL.
  int crashes = 3;
  std::chrono::milliseconds parked_poll{100};       ///< how often to look for parked messages that are due
  std::chrono::milliseconds drain_timeout{10'000};  ///< how long a stop may take
  Clock* clock = &Clock::system();
  Random* random = &Random::system();
  std::shared_ptr<Logger> logger{};
};

/// In place of a Datastore: effects happen at least once, so the handler must be idempotent by itself. Retries wait at the
/// broker, and what cannot be processed is published to `dead_letters` before it is settled.
struct AtLeastOnce {
  Channel dead_letters{};
  Channel emits{};  ///< where emitted events go, confirmed before the message is settled; without it a handler that emits has
                    ///< failed
};

/// A moment's figures. Counters are since construction.
struct ConsumerStatus {
  std::uint64_t done = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t parked = 0;  ///< failed attempts that were parked (or handed to the broker's delay), and messages parked behind
  std::uint64_t dead = 0;
  std::size_t in_flight = 0;
  std::size_t in_flight_bytes = 0;
  int workers = 0;
  std::string workers_reason{};  ///< why there are so many
  bool paused = false;           ///< intake is stopped, for the reason that follows
  std::string pause_reason{};    ///< the datastore is away, the handler fails, or the circuit breaker of a provider is open
  bool systemic = false;         ///< so much fails that nothing is dead-lettered; one message at a time is tried
  std::string last_error{};
};

/// Applies a handler to every message of a source.
///
/// With a Datastore the effect is exactly once: inbox mark, the handler's SQL, emitted events, audit row and checkpoint commit
/// in one transaction, of one message or of a `batch`, and then the broker is acknowledged. A failure costs only its own
/// message, also in a batch. A duplicate is acknowledged and not handled. A failed message is parked in the store, the later
/// ones of its key behind it, and other keys flow. When its attempts are used up or it is rejected, it becomes a dead letter.
/// Messages of one key are handled in their order; messages without a key in any. A handler's exception never ends the loop; a
/// store that is away pauses the source and burns no attempt.
///
/// When so much fails that it must be the system (`systemic`), nothing is dead-lettered and no attempt counted: the source is
/// paused, and after pauses of 1 s to 30 s one message at a time is tried, until one goes through. Messages that are no events
/// are dead letters all the same.
///
/// Thread safety: `run` once, from one thread; `status` from any. Lifetime: owns the source, its threads live inside `run`;
/// Datastore, Clock and Random must outlive it.
class PENSTOCK_EXPORT Consumer {
 public:
  /// Throws std::invalid_argument, naming the option, the value and the remedy.
  Consumer(std::unique_ptr<Source> source, Datastore& datastore, ConsumerOptions options, Handler handler);
  Consumer(std::unique_ptr<Source> source, Datastore& datastore, ConsumerOptions options, BatchHandler handler);
  Consumer(std::unique_ptr<Source> source, AtLeastOnce without_datastore, ConsumerOptions options, Handler handler);
  ~Consumer();
  Consumer(const Consumer&) = delete;
  Consumer& operator=(const Consumer&) = delete;

  /// Blocks until `stop` is requested or the source has finished, then drains: intake stops, handlers that run may finish, what
  /// waits is given back, the source is closed. True when that took no longer than `drain_timeout`; a handler that ignores its
  /// stop token is waited for all the same, as a thread cannot be ended. Throws only for misuse.
  bool run(std::stop_token stop);

  [[nodiscard]] ConsumerStatus status() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
