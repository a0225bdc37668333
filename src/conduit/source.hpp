// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "penstock/conduit.hpp"
#include "penstock/source.hpp"

namespace penstock::conduit {

/// Throws std::invalid_argument for properties librdkafka does not take. Does not connect.
std::unique_ptr<Source> make_source(ConduitOptions options, const std::string& topic, ConduitSourceOptions source);

}  // namespace penstock::conduit
