// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/publisher.hpp"

// What NATS's words mean for an event, or for a delivery.
namespace penstock::beacon {

/// A publish that the client library did not take.
Outcome outcome_of_send(natsStatus status, const std::string& text);

/// JetStream's refusal. `code` is its HTTP-like class, `err_code` the exact reason.
Outcome outcome_of_refusal(int code, int err_code, const std::string& description);

/// JetStream's answer to a publish (JSON). Anything that is no PubAck of a stream is `unknown`.
Outcome outcome_of_reply(std::string_view body);

/// What JetStream writes into the reply subject of a delivery:
/// $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>, or with a domain and an
/// account in front of the stream.
struct Delivery {
  std::uint32_t deliveries = 0;
  std::int64_t sequence = -1;
};
std::optional<Delivery> delivery_of(std::string_view reply_subject);

}  // namespace penstock::beacon
