// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace penstock::base64 {

/// RFC 4648 section 4, padded.
[[nodiscard]] std::string encode(std::string_view bytes);

/// Reads padded or unpadded base64; empty for anything else, also for stray bits behind the last byte.
[[nodiscard]] std::optional<std::string> decode(std::string_view text);

}  // namespace penstock::base64
