// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "harness.hpp"
#include "pg.hpp"

// A part of a work in a process that does nothing else, so that its memory can be told.
namespace penstock::bench {

/// "VmHWM" or "VmRSS" of this process, in MB (2^20).
double memory_mb(const std::string& field);

/// Runs this program with `what`, the schema and a count, and reads the JSON that it prints.
Json run_child(const Config& config, const std::string& what, const Schema& schema, std::size_t count);

// What such a process does; the schema is there.
/// Drains an outbox of so many events.
int drain_child(const Schema& schema, std::size_t events);
/// Consumes so many messages.
int consume_child(const Schema& schema, std::size_t messages);

}  // namespace penstock::bench
