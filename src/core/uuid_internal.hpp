// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace penstock {

using UuidBytes = std::array<std::uint8_t, 16>;

/// UUID version 5 (RFC 9562, section 5.5), in lower case.
[[nodiscard]] std::string uuid5(const UuidBytes& space, std::string_view name);

/// Positions of `derived_id` that are no emitted event's: those count from 0.
namespace position {
constexpr int dead_letter = -1;
constexpr int idempotency_key = -2;
constexpr int malformed = -3;
}  // namespace position

}  // namespace penstock
