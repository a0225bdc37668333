// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "penstock/envelope.hpp"
#include "penstock/logger.hpp"

namespace penstock {

/// Where a message came from, in the broker's own terms.
struct Origin {
  std::string backend{};  ///< "kafka", "rabbitmq", "nats" or "memory"
  std::string channel{};
  std::int32_t partition = -1;   ///< -1 where the backend has none
  std::int64_t position = -1;    ///< offset (Kafka) or stream sequence (NATS); -1 where there is none
  std::uint32_t deliveries = 0;  ///< how often the broker says it was delivered, this time included; 0: it does not say
  bool redelivered = false;      ///< the broker delivered it before, or may have

  [[nodiscard]] bool repeated() const noexcept { return redelivered || deliveries > 1; }
};

/// One delivery: the event, the exact bytes it came in, and where from. A plain value: copying it settles nothing.
struct Message {
  Event event{};
  Wire wire{};  ///< as received
  Origin origin{};
  std::string defect{};       ///< why `event` could not be read; empty for every message a handler sees
  std::uint64_t receipt = 0;  ///< the source's own handle on this delivery; dead after a reconnect or a rebalance

  [[nodiscard]] const std::string& id() const noexcept { return event.id; }
  [[nodiscard]] const std::string& type() const noexcept { return event.type; }
  [[nodiscard]] const std::string& key() const noexcept { return event.key; }
  /// The payload; empty also when it is null.
  [[nodiscard]] std::string_view data() const noexcept {
    return event.data ? std::string_view{*event.data} : std::string_view{};
  }
};

/// Gives one more message to be overwritten, with an empty `defect`: an old one, whose strings lend their memory, or a new
/// one. The reference is good until the next is asked for.
using MessageRoom = std::function<Message&()>;

/// What a backend is, so that an engine can rely on it and a test can hold it to it.
struct SourceTraits {
  bool ordered = false;  ///< messages of one key arrive in the order they were confirmed in, to one member of a group at a time
  bool replayable = false;  ///< settled messages can be read again by another group
  bool delays = false;      ///< `retry` waits at the broker and lets other messages pass meanwhile
};

/// A subscription to one channel. Settlement is per message and takes effect soon after the call; one that is lost on its way
/// (a crash, a cut connection, a rebalance) means redelivery, never loss.
///
/// Thread safety: `open`, `poll`, `poll_into`, `recycle`, `pause` and `close` from one thread; `ack`, `ack_all`, `retry` and
/// `touch` from any. Lifetime: keeps its own connection; the destructor closes without waiting and gives unsettled messages
/// back to the broker.
class PENSTOCK_EXPORT Source {
 public:
  virtual ~Source() = default;

  [[nodiscard]] virtual SourceTraits traits() const noexcept = 0;
  [[nodiscard]] virtual const std::string& channel() const noexcept = 0;

  /// Subscribes for a group: members of one group share the messages, each group gets all of them (on Lane the queue itself is
  /// the group). Throws only for misuse; a broker that is away is retried in `poll`, with back-off and jitter.
  virtual void open(const std::string& group, std::shared_ptr<Logger> logger) = 0;

  /// Waits up to `wait` for a message and returns at most `max`, in order; empty when there are none, while the broker is away
  /// and while paused. Keeps heartbeats and the group's membership alive, so it is to be called often, also while paused.
  virtual std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) = 0;

  /// The same into messages that `room` gives, in their order, so that none has to be moved; returns how many. A source that
  /// can write them in their place does.
  virtual std::size_t poll_into(const MessageRoom& room, std::size_t max, std::chrono::milliseconds wait) {
    std::vector<Message> messages = poll(max, wait);
    for (Message& message : messages) std::swap(room(), message);
    const std::size_t count = messages.size();
    if (count > 0) recycle(std::move(messages));
    return count;
  }

  /// The message is done with; the broker may forget it. A receipt from before a reconnect or rebalance is ignored.
  virtual void ack(const Message& message) = 0;
  /// The same for several, at the price of one where a call has a price.
  virtual void ack_all(std::span<const Message* const> messages) {
    for (const Message* message : messages) ack(*message);
  }

  /// Messages that are settled and that nobody needs any more, for the room their strings have. From the thread that polls.
  virtual void recycle(std::vector<Message> messages) { messages.clear(); }

  /// Wants the message again, not before `delay`. On an ordered source without `delays`, everything behind it on its partition
  /// waits too.
  virtual void retry(const Message& message, std::chrono::milliseconds delay) = 0;

  /// Still working on it: keeps the broker from redelivering (NATS AckWait). Nothing where the broker has no such limit.
  virtual void touch(const Message& message) { static_cast<void>(message); }

  /// Nothing more will ever come, and all that came is settled: for a source with an end, as `ConduitSourceOptions::until_end`
  /// makes one. From the thread that polls. `Consumer::run` returns then.
  [[nodiscard]] virtual bool finished() const { return false; }

  /// Stops and resumes intake without giving up the subscription.
  virtual void pause(bool paused) = 0;

  /// Stops intake, sends the settlements still on their way and closes, within `timeout`. What is unsettled is redelivered.
  virtual void close(std::chrono::milliseconds timeout) = 0;
};

}  // namespace penstock
