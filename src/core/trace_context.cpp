// SPDX-License-Identifier: Apache-2.0
#include "core/trace_context.hpp"

#include <cstddef>

#include "core/text.hpp"

namespace penstock {
namespace {

bool is_lower_hex(std::string_view text) noexcept {
  for (const char c : text) {
    if (!text::is_digit(c) && !(c >= 'a' && c <= 'f')) return false;
  }
  return true;
}

bool all_zero(std::string_view text) noexcept { return text.find_first_not_of('0') == std::string_view::npos; }

bool is_key(std::string_view key) noexcept {
  const auto lower_or_digit = [](char c) { return text::is_digit(c) || (c >= 'a' && c <= 'z'); };
  if (key.empty() || key.size() > 256 || !lower_or_digit(key.front())) return false;
  for (const char c : key) {
    if (!lower_or_digit(c) && c != '_' && c != '-' && c != '*' && c != '/' && c != '@') return false;
  }
  return true;
}

bool is_value(std::string_view value) noexcept {
  if (value.empty() || value.size() > 256 || value.back() == ' ') return false;
  for (const char c : value) {
    if (c < 0x20 || c > 0x7e || c == ',' || c == '=') return false;
  }
  return true;
}

std::size_t length_of(const TraceStateMember& member) noexcept { return member.key.size() + 1 + member.value.size(); }

std::size_t length_of(const TraceState& state) noexcept {
  std::size_t length = state.empty() ? 0 : state.size() - 1;
  for (const TraceStateMember& member : state) length += length_of(member);
  return length;
}

}  // namespace

std::optional<TraceParent> parse_traceparent(std::string_view text) {
  constexpr std::size_t version_00_length = 55;
  text = text::trim(text);
  if (text.size() < version_00_length) return std::nullopt;
  const std::string_view version = text.substr(0, 2);
  const std::string_view trace_id = text.substr(3, 32);
  const std::string_view parent_id = text.substr(36, 16);
  const std::string_view flags = text.substr(53, 2);
  if (text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  if (!is_lower_hex(version) || !is_lower_hex(trace_id) || !is_lower_hex(parent_id) || !is_lower_hex(flags))
    return std::nullopt;
  if (version == "ff" || all_zero(trace_id) || all_zero(parent_id)) return std::nullopt;
  // What a later version appends stands behind a dash.
  if (text.size() > version_00_length && (version == "00" || text[version_00_length] != '-')) return std::nullopt;
  const auto bits = static_cast<unsigned>(text::hex_value(flags[1]));
  return TraceParent{std::string{trace_id}, std::string{parent_id}, static_cast<std::uint8_t>(bits & 3U)};
}

std::string format(const TraceParent& parent) {
  std::string out = "00-" + parent.trace_id + "-" + parent.parent_id + "-0";
  out.push_back(static_cast<char>('0' + (parent.flags & 3U)));
  return out;
}

std::optional<TraceState> parse_tracestate(std::string_view text) {
  TraceState state;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    const std::string_view member = text::trim(text.substr(0, comma));
    text = comma == std::string_view::npos ? std::string_view{} : text.substr(comma + 1);
    if (member.empty()) continue;
    const std::size_t equals = member.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view key = member.substr(0, equals);
    const std::string_view value = member.substr(equals + 1);
    if (!is_key(key) || !is_value(value) || state.size() == 32) return std::nullopt;
    state.push_back({std::string{key}, std::string{value}});
  }
  return state;
}

std::string format(TraceState state, std::size_t longest) {
  constexpr std::size_t large_member = 128;
  for (std::size_t i = state.size(); i-- > 0 && length_of(state) > longest;) {
    if (length_of(state[i]) > large_member) state.erase(state.begin() + static_cast<std::ptrdiff_t>(i));
  }
  while (length_of(state) > longest) state.pop_back();
  std::string out;
  for (const TraceStateMember& member : state) {
    if (!out.empty()) out.push_back(',');
    out += member.key + "=" + member.value;
  }
  return out;
}

}  // namespace penstock
