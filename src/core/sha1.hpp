// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace penstock {

/// SHA-1 (FIPS 180-4), for name-based ids only: it protects nothing.
[[nodiscard]] std::array<std::uint8_t, 20> sha1(std::string_view message);

}  // namespace penstock
