// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "penstock/export.hpp"

namespace penstock {

class Random;

/// A time-ordered id: UUID version 7 (RFC 9562, section 5.7), in lower case. Ids made by one process in one millisecond are
/// ordered too (method 1 of section 6.2, a counter). Thread safety: any thread.
PENSTOCK_EXPORT std::string uuid7();

/// As above, from a given time and random source, for tests that must repeat. No counter.
PENSTOCK_EXPORT std::string uuid7(std::chrono::system_clock::time_point time, Random& random);

/// The id of what is derived from an id and a position, the same for the same input on every machine: UUID version 5
/// (RFC 9562, section 5.5) in a namespace of penstock's own. A repeated message so emits repeated ids, which die downstream.
/// Derived from a version 7 it is a version 7 of the same time, with that hash in place of chance: the age of an event can be
/// told from its id, and so the partition of the inbox where its mark is.
PENSTOCK_EXPORT std::string derived_id(std::string_view consumer, std::string_view source, std::string_view id, int position);

}  // namespace penstock
