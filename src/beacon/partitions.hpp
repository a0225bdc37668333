// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/event.hpp"

// A stream "orders" with two partitions has the subjects "orders.0" and "orders.1"; one without has the subject "orders".
namespace penstock::beacon {

/// Throws std::invalid_argument, with the remedy, for a number of partitions that cannot be. `name` is the stream's.
void check_partitions(int partitions, const std::string& name);

/// FNV-1a, 32 bits, of the bytes, modulo. Never to be changed: every publisher of a stream, in whatever language, must agree.
/// nats-server's own {{partition(n,…)}} is the same.
std::uint32_t partition_of(std::string_view key, int partitions);
/// By its key, or where it has none by its id, so that a repeat goes where the first one went.
std::uint32_t partition_of(const Event& event, int partitions);

/// What the stream takes and a publisher sends to, in the order of the partitions; the name alone for 0.
std::vector<std::string> subjects_of(const std::string& name, int partitions);
/// How many partitions a stream with these subjects has: 0 unless they are exactly those.
int partitions_in(const std::string& name, const std::vector<std::string>& subjects);

/// Says that `who` counts other partitions than the stream has, and what to do.
std::string disagreement(const std::string& name, const std::vector<std::string>& subjects, const char* who, int partitions);

}  // namespace penstock::beacon
