// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "conduit/handles.hpp"
#include "penstock/envelope.hpp"
#include "penstock/publisher.hpp"

namespace penstock::conduit {

/// What a delivery report, or a refused produce (NOT_PERSISTED), says of an event.
Outcome outcome_of(rd_kafka_resp_err_t error, rd_kafka_msg_status_t status);

/// The event's headers, null and empty kept apart. Throws InvalidEvent.
RdHeaders to_headers(const Event& event);
/// A copy of a received message, null and empty kept apart, into one whose strings may have room already.
void to_wire(const rd_kafka_message_t& message, Wire& wire);

}  // namespace penstock::conduit
