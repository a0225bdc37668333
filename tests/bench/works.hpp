// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "harness.hpp"

namespace penstock::bench {

std::vector<Work> append_works(const Config& config);
std::vector<Work> drain_works(const Config& config);
std::vector<Work> backlog_works(const Config& config);
std::vector<Work> latency_works(const Config& config);
std::vector<Work> consume_works(const Config& config);
std::vector<Work> backend_works(const Config& config);

/// A part that runs in a process of its own, which does nothing else: drains a prefilled outbox and prints what it needed.
int drain_child(const std::string& url, const std::string& schema, std::size_t events);

}  // namespace penstock::bench
