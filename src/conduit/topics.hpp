// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "penstock/conduit.hpp"

namespace penstock::conduit {

/// Throws std::invalid_argument, with the rule it breaks, for a name that Kafka would not take. `shown` says what it is.
void check_topic_name(const std::string& name, const std::string& shown = "topic");

/// As Conduit::declare, without its prefix.
void declare_topic(const ConduitOptions& options, const TopicSpec& topic, std::chrono::milliseconds timeout);

}  // namespace penstock::conduit
