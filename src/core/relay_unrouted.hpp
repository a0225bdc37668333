// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "core/relay_channel.hpp"
#include "penstock/relay.hpp"

namespace penstock {

/// A channel for the events that none of the routes matches: it rejects each, so that it becomes a dead letter; or only reports
/// it, while there are cursors in the log that are not of these routes. Null when there can be no such event, or they are
/// ignored.
std::unique_ptr<RelayChannel> watch_unrouted(EventLog& log, const std::vector<Route>& routes, const RelayOptions& options);

}  // namespace penstock
