// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "penstock/conduit.hpp"

namespace penstock::conduit {

/// As Conduit::declare.
void declare_topic(const ConduitOptions& options, const TopicSpec& topic, std::chrono::milliseconds timeout);

}  // namespace penstock::conduit
