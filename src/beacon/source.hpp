// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "beacon/servers.hpp"
#include "penstock/beacon.hpp"

namespace penstock::beacon {

std::unique_ptr<Source> make_source(Servers servers, const std::string& prefix, const std::string& channel,
                                    const BeaconSourceOptions& options, std::shared_ptr<Logger> logger);

}  // namespace penstock::beacon
