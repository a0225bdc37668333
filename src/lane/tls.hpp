// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "lane/connection.hpp"

namespace penstock::lane {

/// Connects `state` over TLS before the deadline and returns its socket, which belongs to `state`. RabbitMQ's certificate is
/// verified as the address's options say. Throws AmqpError, naming the option to look at. While the TCP connection is being
/// made, `interrupt` is not heard: for 5 s at most.
int open_tls(amqp_connection_state_t state, const Address& address, SteadyTime deadline, Interrupt& interrupt);

/// What TLS says of the call of this thread that failed last, with the option to look at; empty when it says nothing.
std::string tls_trouble();

}  // namespace penstock::lane
