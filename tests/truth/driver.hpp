// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "truth/backend.hpp"
#include "truth/book.hpp"
#include "truth/wire.hpp"

namespace penstock::truth {

struct Plan {
  std::string backend{};
  std::string only{};  ///< names of faults, where not all
  std::uint64_t seed = 1;
  std::chrono::seconds length{30};   ///< of the faults; reading back comes after
  std::size_t capacity = 1'000'000;  ///< most events
};

/// Plays a schedule of faults while events flow, and holds every outcome and every effect against what is there in the end.
/// What is wrong goes to `faults`. Returns the heap in use when all had settled, for whoever plays several rounds.
std::size_t play(const Plan& plan, int round, Backend& backend, const Server& server, Wire& wire, Faults& faults);

/// Bytes in use of the heap, exactly.
std::size_t heap_in_use();

}  // namespace penstock::truth
