// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <string>

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

/// A message for the stream, with what JetStream needs to store it once, and in that stream only. Throws std::runtime_error
/// when memory ends and std::length_error for more than the protocol can count.
MessageHandle to_message(const Wire& wire, const std::string& subject, const std::string& reply, const std::string& stream,
                         const std::string& message_id);

/// A message as it came. `wire` has the headers of the event alone; `reserved` those named Nats-… beside it.
struct Arrival {
  Wire wire{};
  Headers reserved{};
};
/// `room` lends its memory.
Arrival from_message(natsMsg* message, Wire&& room = {});

/// The event of an arrival. Throws MalformedMessage. Nats-… headers that a publisher of ours wrote end here; a stranger's are
/// kept like any other header, in `arrival.wire` too. `room` lends its memory.
Event read_event(Arrival& arrival, Event&& room = {});

}  // namespace penstock::beacon
