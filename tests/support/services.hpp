// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

// The servers of the tests, as `scripts/services` runs them.
namespace penstock::support {

/// A server's address from the environment, as PENSTOCK_AMQP_URL. Throws when it is not set: such a test fails, never skips.
std::string address(const char* variable);

/// `scripts/services <command> <name> --dir $PENSTOCK_SERVICES_DIR`, as kill, restart, pause, resume of postgres, kafka,
/// rabbitmq or nats. Throws, with what the script printed, when it fails. The servers are shared: a test that stops one runs
/// alone (RUN_SERIAL) and leaves it running.
void services(const std::string& command, const std::string& name);

}  // namespace penstock::support
