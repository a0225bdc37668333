// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "beacon/handle.hpp"
#include "penstock/envelope.hpp"
#include "penstock/event.hpp"

// How a Wire travels in a NATS message.
//
// NATS headers are lines of text in no kept order, an empty value is misread by older clients, and names that begin with
// "Nats-" are commands to the server. Whatever cannot travel as itself, and the order, is told in one more header:
//
//     Penstock-Headers: trace-flags,note=%0Aline,trace-flags,gone!
//
// in order: the name of a header that is there itself, name=value of one that is not, name! of one without a value; both
// escaped.
namespace penstock::beacon {

/// Lays events out as messages of one stream. Keeps the memory it needs for the next one. Thread safety: one thread.
class Loader {
 public:
  explicit Loader(std::string stream) : stream_{std::move(stream)} {}

  /// For a subject, with what JetStream needs to store it once, and in that stream only; answers go to `reply` unless it is
  /// empty. Throws InvalidEvent, std::runtime_error when memory ends and std::length_error for more than the protocol can
  /// count.
  MessageHandle load(const Event& event, const std::string& subject, const std::string& reply);

 private:
  void add(std::string_view name, const std::optional<std::string_view>& value);
  void list(std::string_view name, const std::optional<std::string_view>& value, bool plain);

  const std::string stream_;
  natsMsg* message_ = nullptr;
  std::string name_, value_;  // with a NUL behind them
  std::string directory_;     // of the headers that need one; most messages have none
  std::string first_listed_;
  bool needs_directory_ = false;
};

/// A message as it came. `wire` has the headers of the event alone; `reserved` those named Nats-… beside it, as views that end
/// with the message.
struct Arrival {
  struct Reserved {
    std::string_view name{};
    std::string_view value{};
  };
  Wire wire{};
  std::vector<Reserved> reserved{};
};
/// `room` lends its memory.
Arrival from_message(natsMsg* message, Wire&& room = {});

/// The event of an arrival. Throws MalformedMessage. Nats-… headers that a publisher of ours wrote end here; a stranger's are
/// kept like any other header, in `arrival.wire` too. `room` lends its memory.
Event read_event(Arrival& arrival, Event&& room = {});

}  // namespace penstock::beacon
