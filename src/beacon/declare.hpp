// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <chrono>
#include <memory>
#include <string>

#include "beacon/servers.hpp"
#include "penstock/beacon.hpp"

namespace penstock::beacon {

/// Where an existing stream differs from what is wanted, both sides named; empty when it does not.
std::string difference(const StreamSpec& wanted, const jsStreamConfig& found);

/// See Beacon::declare.
void declare_stream(const Servers& servers, const StreamSpec& wanted, std::chrono::milliseconds timeout,
                    std::shared_ptr<Logger> logger);

}  // namespace penstock::beacon
