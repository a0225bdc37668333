// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// A `traceparent` of W3C Trace Context, level 2.
struct TraceParent {
  std::string trace_id{};   ///< 32 lower-case hexadecimal digits, not all zero
  std::string parent_id{};  ///< 16 of them
  std::uint8_t flags = 0;   ///< bit 0 sampled, bit 1 random trace id; the others are cleared

  [[nodiscard]] bool sampled() const noexcept { return (flags & 1U) != 0; }
  friend bool operator==(const TraceParent&, const TraceParent&) = default;
};

/// Reads version 00 and, by its rules, any later one; blanks around it are ignored. Empty: start a new trace.
[[nodiscard]] std::optional<TraceParent> parse_traceparent(std::string_view text);

/// As version 00.
[[nodiscard]] std::string format(const TraceParent& parent);

struct TraceStateMember {
  std::string key{};
  std::string value{};
  friend bool operator==(const TraceStateMember&, const TraceStateMember&) = default;
};
using TraceState = std::vector<TraceStateMember>;

/// Reads a `tracestate`; several headers are joined by commas first. Empty when any member is illegal or there are more than
/// 32, as then the whole is to be thrown away. No members at all is legal.
[[nodiscard]] std::optional<TraceState> parse_tracestate(std::string_view text);

/// At most `longest` characters: whole members go, those above 128 characters first, then from the end.
[[nodiscard]] std::string format(TraceState state, std::size_t longest = 512);

}  // namespace penstock
