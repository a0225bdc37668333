// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace penstock::percent {

/// A header value as the HTTP and NATS bindings of CloudEvents write it: space, `"`, `%` and everything outside U+0021-007E
/// becomes %XY.
[[nodiscard]] std::string encode(std::string_view value);

/// Whether `encode` would change nothing.
[[nodiscard]] bool is_plain(std::string_view value) noexcept;

/// Undoes it: first the quotes of a quoted string, then one round of percent-decoding. A `%` without two hexadecimal digits
/// stands for itself, as some SDKs do not encode. Empty when the result is no UTF-8.
[[nodiscard]] std::optional<std::string> decode(std::string_view value);

}  // namespace penstock::percent
