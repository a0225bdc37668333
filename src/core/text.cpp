// SPDX-License-Identifier: Apache-2.0
#include "core/text.hpp"

#include <cstdint>
#include <cstring>

namespace penstock::text {
namespace {

constexpr std::uint32_t broken = 0xFFFFFFFFU;

/// Reads one code point at `at` and moves past it; `broken`, moving one byte, when the bytes are no UTF-8.
std::uint32_t next_code_point(std::string_view bytes, std::size_t& at) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])); };
  const std::uint32_t lead = byte(at);
  if (lead < 0x80U) {
    ++at;
    return lead;
  }
  std::size_t length = 0;
  std::uint32_t least = 0;
  std::uint32_t point = 0;
  if ((lead & 0xE0U) == 0xC0U) {
    length = 2, least = 0x80U, point = lead & 0x1FU;
  } else if ((lead & 0xF0U) == 0xE0U) {
    length = 3, least = 0x800U, point = lead & 0x0FU;
  } else if ((lead & 0xF8U) == 0xF0U) {
    length = 4, least = 0x10000U, point = lead & 0x07U;
  }
  if (length == 0 || bytes.size() - at < length) {
    ++at;
    return broken;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) {
      ++at;
      return broken;
    }
    point = (point << 6U) | (byte(at + i) & 0x3FU);
  }
  if (point < least || point > 0x10FFFFU || (point >= 0xD800U && point <= 0xDFFFU)) {
    ++at;
    return broken;
  }
  at += length;
  return point;
}

bool is_control(std::uint32_t point) noexcept { return point < 0x20U || (point >= 0x7FU && point <= 0x9FU); }

constexpr std::uint64_t ones = 0x0101010101010101U;

/// Eight bytes of ASCII. Lambdas, as calls through a pointer would take longer than what they do.
constexpr auto is_ascii = [](std::uint64_t eight) { return (eight & (ones * 0x80U)) == 0; };

/// Eight bytes of printable ASCII.
constexpr auto is_printable = [](std::uint64_t eight) {
  const std::uint64_t is_control = (eight - ones * 0x20U) & ~eight;
  const std::uint64_t is_del = ((eight ^ (ones * 0x7FU)) - ones) & ~(eight ^ (ones * 0x7FU));
  return ((eight | is_control | is_del) & (ones * 0x80U)) == 0;
};

/// Up to where eight bytes at a time are all as wanted. The last eight are looked at though some were seen before.
template <class Wanted>
std::size_t skip(std::string_view bytes, Wanted wanted) noexcept {
  constexpr std::size_t step = sizeof(std::uint64_t);
  const auto wants = [&](std::size_t at) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, bytes.data() + at, step);
    return wanted(eight);
  };
  std::size_t at = 0;
  while (bytes.size() - at >= step && wants(at)) at += step;
  const bool tail = bytes.size() >= step && bytes.size() - at < step;
  return tail && wants(bytes.size() - step) ? bytes.size() : at;
}

bool is_noncharacter(std::uint32_t point) noexcept {
  return (point >= 0xFDD0U && point <= 0xFDEFU) || (point & 0xFFFEU) == 0xFFFEU;
}

}  // namespace

bool is_utf8(std::string_view bytes) noexcept {
  for (std::size_t at = skip(bytes, is_ascii); at < bytes.size();) {
    if (next_code_point(bytes, at) == broken) return false;
  }
  return true;
}

bool is_ce_string(std::string_view bytes) noexcept {
  for (std::size_t at = skip(bytes, is_printable); at < bytes.size();) {
    const std::uint32_t point = next_code_point(bytes, at);
    if (point == broken || is_control(point) || is_noncharacter(point)) return false;
  }
  return true;
}

bool istarts_with(std::string_view text, std::string_view prefix) noexcept {
  if (text.size() < prefix.size()) return false;
  for (std::size_t i = 0; i < prefix.size(); ++i) {
    if (lower(text[i]) != lower(prefix[i])) return false;
  }
  return true;
}

std::string_view trim(std::string_view text) noexcept {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string_view prefix(std::string_view text, std::size_t most) noexcept {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end);
}

std::string clean(std::string_view text, std::size_t most) {
  std::string out;
  out.reserve(text.size() < most ? text.size() : most);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::uint32_t point = next_code_point(text, at);
    const bool plain = point != broken && !is_control(point) && !is_noncharacter(point);
    const std::size_t width = plain ? at - start : 1;
    if (out.size() + width > most) break;
    if (plain) {
      out.append(text, start, width);
    } else {
      out.push_back(point == broken || is_noncharacter(point) ? '?' : ' ');
    }
  }
  return out;
}

std::string shown(std::string_view value) {
  constexpr std::size_t longest = 80;
  std::string out = "'" + clean(value, longest);
  out += value.size() > longest ? "…'" : "'";
  return out;
}

}  // namespace penstock::text
