// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "harness.hpp"

namespace penstock::bench {

std::vector<Work> append_works(const Config& config);
std::vector<Work> drain_works(const Config& config);
std::vector<Work> backlog_works(const Config& config);
std::vector<Work> strain_works(const Config& config);
std::vector<Work> latency_works(const Config& config);
std::vector<Work> consume_works(const Config& config);
std::vector<Work> backend_works(const Config& config);

}  // namespace penstock::bench
