// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/source.hpp"

namespace penstock {

/// One attempt at a message, as it is kept.
struct Attempt {
  int number = 1;
  std::string error{};  ///< empty for success
  std::chrono::milliseconds duration{0};
  std::string at{};  ///< RFC 3339, by the store's clock
  std::string host{};
};

/// A message that will not be tried again: the exact original, where it came from, why, and every attempt.
/// It is kept as a row (table `dead_letters`) and travels as a message on `<channel>.dead`.
struct DeadLetter {
  std::string group{};
  Message message{};
  std::string reason{};
  std::vector<Attempt> attempts{};
};

/// The channel on which the dead letters of a channel travel: "<channel>.dead".
PENSTOCK_EXPORT std::string dead_channel(std::string_view channel);

/// The route under which an outbox carries the dead letters of a channel, to be given to a Relay:
///
///     Relay relay{outbox, {{dead_letters_of("fulfillment-jobs"), lane.channel("fulfillment-jobs.dead")}}};
PENSTOCK_EXPORT std::string dead_letters_of(std::string_view channel);

/// The message on `<channel>.dead`: the original event, payload untouched, its id derived so that a repeat is recognised, and
/// these headers, each only where there is something to say: `dlq-original-id`, `dlq-original-topic`, `dlq-partition`,
/// `dlq-offset`, `dlq-consumer-group`, `dlq-timestamp` (the event's time), `dlq-attempts`, `dlq-first-failed-at`,
/// `dlq-last-failed-at`, `dlq-error-class` (the reason up to its first colon, "malformed" or "error") and
/// `dlq-error-message` (one line of at most 1 KiB). A message that is dead-lettered again by the same group goes on counting.
///
/// A message that was no event becomes one of type "penstock.malformed.v1" with its payload and headers; those that would
/// be read as attributes are renamed `dlq-header-…`.
PENSTOCK_EXPORT Event to_event(const DeadLetter& letter);

}  // namespace penstock
