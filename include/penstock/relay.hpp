// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/event_log.hpp"
#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/random.hpp"
#include "penstock/retry_policy.hpp"
#include "penstock/systemic_failure.hpp"

namespace penstock {

/// Events whose route matches the pattern go to the channel. An event may match several routes and goes to each channel once.
struct Route {
  std::string pattern{};  ///< "shop.order.*", or `dead_letters_of("fulfillment-jobs")`
  Channel channel{};
};

/// What becomes of a key when an event of it was rejected for good and is a dead letter. An outbox holds a key while a row of
/// it in `dead_letters`, of that cursor, is in state 'dead' and `holds`, and keeps what waits beside it in state 'behind'.
enum class AfterDeadLetter : std::uint8_t {
  next,  ///< its later events go on
  hold   ///< its later events wait, parked beside the dead letter, until it is replayed or discarded; also after a restart
};

/// What becomes of an event that no route matches. Who goes over to `ignore` drops the cursor "penstock:unrouted", as any
/// cursor that is no longer served: the log keeps what it has not settled.
enum class Unrouted : std::uint8_t {
  dead_letter,  ///< the routes of this relay are all there are: such an event is a dead letter of "penstock:unrouted"
  ignore        ///< another relay may carry it
};

struct RelayOptions {
  std::size_t batch = 500;                               ///< most events handed to a publisher in one call
  std::size_t in_flight = 4000;                          ///< most events read and not settled, per channel …
  std::size_t in_flight_bytes = std::size_t{16} << 20U;  ///< … and most memory they take, but for the last read
  std::chrono::milliseconds publish_timeout{30'000};
  std::chrono::milliseconds drain_timeout{10'000};
  std::chrono::milliseconds idle_wait{1'000};  ///< longest sleep between polls when no hint arrives
  RetryPolicy retry = RetryPolicy::exponential(std::chrono::milliseconds{100})
                          .cap(std::chrono::seconds{10})
                          .attempts(1'000'000)
                          .jitter(Jitter::equal);  ///< for `retryable` and `unknown`; the event is never given up
  int rejections = 3;                              ///< how often a `rejected` event is tried before it becomes a dead letter
  AfterDeadLetter after_dead_letter = AfterDeadLetter::next;
  SystemicFailure systemic{};
  Unrouted unrouted = Unrouted::dead_letter;
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
    std::uint64_t parked = 0;     ///< recorded as waiting: behind an earlier one of their key, or to be tried again
    double rate = 0;              ///< confirmed per second, over the last ten
    std::size_t in_flight = 0;    ///< read and not settled
    std::size_t in_flight_bytes = 0;
    std::size_t fenced_keys = 0;  ///< keys that wait behind a failed event that is tried again
    std::size_t held_keys = 0;    ///< keys that wait behind a dead letter, or for what waited behind one to go out
    bool systemic = false;  ///< the channel rejects what it is sent: nothing is dead-lettered, and it is tried now and then
    bool away = false;      ///< the broker does not answer or takes nothing: it is tried now and then
    std::string last_error{};
    std::optional<Clock::TimePoint> last_error_at{};
    /// What is still to be settled, at most a few seconds old, and twenty where another relay has the lease; empty until it was
    /// first asked for.
    std::optional<EventLog::Backlog> backlog{};
  };
  std::vector<PerChannel> channels{};
  /// Events that no route matches: `buried`, or with `published` those only reported. Empty when they are ignored, or cannot
  /// be.
  std::optional<PerChannel> unrouted{};
};

/// Carries committed events from a log to their channels: nothing is lost, and the events of one key arrive in their order.
///
/// Each channel has a cursor and a thread of its own, so a broker that is away holds up only its own. An event that fails
/// fences its key: later events of that key wait, other keys flow. One that keeps failing, for ten
/// seconds or while half of `in_flight` is taken, is parked with what waits behind it, in the log's keeping, and tried from
/// there: so it takes no room and holds back no checkpoint. The checkpoint never passes an event that is not settled, so a
/// crash at any moment means repeats with the same id, never a gap. Relays in several processes share the work by cursors and
/// take over from each other when a lease ends. All that name a channel give it the same routes: who has its cursor passes over
/// what its own routes do not match. No database transaction is open while a broker is waited for.
///
/// A rejected event is tried again with its key behind it, then recorded as a dead letter; then its key goes on or waits, by
/// `after_dead_letter`. When the channel rejects so much that it must be the channel (`systemic`), nothing more is
/// dead-lettered: one batch at a time is tried, with growing pauses, and the first event that goes through ends it.
///
/// An event that no route matches is never silent. By default the routes of a relay are taken for all there are, and such an
/// event becomes a dead letter. Relays with different routes on one log say `Unrouted::ignore`, all but perhaps one whose
/// routes cover the rest. A relay that finds another's cursors in its log reports such events in log and status and buries
/// none. (Dead letters that no route carries on are recorded already, and left alone.)
///
/// Thread safety: `run` once, from one thread; `status` from any. Lifetime: log, clock and random must outlive it; its threads
/// live inside `run`; it shares ownership of the channels' publishers.
class PENSTOCK_EXPORT Relay {
 public:
  /// Throws std::invalid_argument, naming the route or option, the value and the remedy.
  Relay(EventLog& log, std::vector<Route> routes, const RelayOptions& options = {});
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
