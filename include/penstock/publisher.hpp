// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "penstock/event.hpp"

namespace penstock {

/// What became of one published event.
struct Outcome {
  enum class Status : std::uint8_t {
    confirmed,  ///< the broker has it durably
    rejected,   ///< it never will, however often it is sent: too large, unroutable, unknown channel, not allowed
    retryable,  ///< certainly not stored; send it again
    unknown     ///< may be stored; send it again with the same id
  };
  Status status = Status::unknown;
  std::string error{};  ///< what the broker or client said, and the remedy where one is known; empty when confirmed

  [[nodiscard]] bool confirmed() const noexcept { return status == Status::confirmed; }
};
PENSTOCK_EXPORT const char* to_string(Outcome::Status status) noexcept;

using Outcomes = std::vector<Outcome>;

/// Sends events to one channel of one backend.
///
/// Thread safety: any thread, several at once. Lifetime: keeps its connection alive; destroying it gives every event still
/// outstanding its outcome (`unknown`) first.
class PENSTOCK_EXPORT Publisher {
 public:
  virtual ~Publisher() = default;

  /// Starts sending the events, in their order and after those of earlier calls from the same thread, and returns at once
  /// unless the client has to wait for room or, to keep an order, for an answer; then it waits within the timeout. The future
  /// holds one outcome per event, in the order given, at the latest shortly after `timeout`; it never throws. The events are
  /// copied before it returns.
  ///
  /// An event that is invalid by CloudEvents comes back `rejected` and does not keep those of other keys from being sent.
  [[nodiscard]] virtual std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) = 0;

  /// Whether one call may hold several events of a key: when one of them is not stored, none of that key that comes after it in
  /// the call is. Then a relay hands on many events of a key at once, and else one at a time. The same at all times.
  [[nodiscard]] virtual bool keeps_order() const noexcept { return false; }

  /// Sends and waits: `submit(events, timeout).get()`.
  Outcomes publish(std::span<const Event> events, std::chrono::milliseconds timeout) { return submit(events, timeout).get(); }
  Outcome publish(const Event& event, std::chrono::milliseconds timeout) {
    return publish(std::span{&event, 1}, timeout).front();
  }
};

/// A named destination on one backend, as made by `Conduit::channel`, `Lane::channel`, `Beacon::channel`,
/// `testing::MemoryBroker::channel`. Copies share the publisher.
struct Channel {
  std::string backend{};  ///< "kafka", "rabbitmq", "nats" or "memory"
  std::string name{};
  std::shared_ptr<Publisher> publisher{};
};

}  // namespace penstock
