// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/syntax.hpp"
#include "core/text.hpp"
#include "penstock/event.hpp"

namespace penstock {
namespace {

using std::chrono::system_clock;

struct Instant {
  std::int64_t seconds = 0;  ///< since 1970, UTC
  std::int64_t nanoseconds = 0;
};

/// `width` digits at `at`, or -1.
int digits(std::string_view text, std::size_t at, std::size_t width) noexcept {
  if (text.size() < at + width) return -1;
  int value = 0;
  for (std::size_t i = at; i < at + width; ++i) {
    if (!text::is_digit(text[i])) return -1;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

bool in(int value, int least, int most) noexcept { return value >= least && value <= most; }

std::optional<Instant> read(std::string_view text) noexcept {
  const auto is = [&](std::size_t at, char c) { return text.size() > at && text::lower(text[at]) == c; };
  const int year = digits(text, 0, 4);
  const int month = digits(text, 5, 2);
  const int day = digits(text, 8, 2);
  const int hour = digits(text, 11, 2);
  const int minute = digits(text, 14, 2);
  const int second = digits(text, 17, 2);
  if (!is(4, '-') || !is(7, '-') || !is(10, 't') || !is(13, ':') || !is(16, ':')) return std::nullopt;
  if (year < 0 || !in(month, 1, 12) || !in(hour, 0, 23) || !in(minute, 0, 59) || !in(second, 0, 60)) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year{year}, std::chrono::month{static_cast<unsigned>(month)},
                                         std::chrono::day{day < 0 ? 0U : static_cast<unsigned>(day)}};
  if (!date.ok()) return std::nullopt;

  Instant instant;
  std::size_t at = 19;
  if (is(at, '.')) {
    const std::size_t first = ++at;
    std::int64_t unit = 100'000'000;
    for (; at < text.size() && text::is_digit(text[at]); ++at, unit /= 10) instant.nanoseconds += (text[at] - '0') * unit;
    if (at == first) return std::nullopt;
  }
  std::int64_t offset = 0;
  if (is(at, 'z')) {
    ++at;
  } else if (is(at, '+') || is(at, '-')) {
    const int hours = digits(text, at + 1, 2);
    const int minutes = digits(text, at + 4, 2);
    if (!is(at + 3, ':') || !in(hours, 0, 23) || !in(minutes, 0, 59)) return std::nullopt;
    offset = (text[at] == '-' ? -1 : 1) * (std::int64_t{hours} * 3600 + std::int64_t{minutes} * 60);
    at += 6;
  } else {
    return std::nullopt;
  }
  if (at != text.size()) return std::nullopt;
  const std::int64_t days = std::chrono::sys_days{date}.time_since_epoch().count();
  instant.seconds = days * 86'400 + std::int64_t{hour} * 3600 + std::int64_t{minute} * 60 + second - offset;
  return instant;
}

void append_padded(std::string& out, std::int64_t value, std::size_t width) {
  const std::string digits_of = std::to_string(value);
  if (digits_of.size() < width) out.append(width - digits_of.size(), '0');
  out += digits_of;
}

}  // namespace

bool syntax::is_time(std::string_view text) noexcept { return read(text).has_value(); }

std::string format_time(system_clock::time_point time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{day};
  const std::int64_t micros = std::chrono::floor<std::chrono::microseconds>(time - day).count();
  std::string out;
  out.reserve(27);
  append_padded(out, static_cast<int>(date.year()), 4);
  out.push_back('-');
  append_padded(out, static_cast<unsigned>(date.month()), 2);
  out.push_back('-');
  append_padded(out, static_cast<unsigned>(date.day()), 2);
  out.push_back('T');
  append_padded(out, micros / 3'600'000'000, 2);
  out.push_back(':');
  append_padded(out, micros / 60'000'000 % 60, 2);
  out.push_back(':');
  append_padded(out, micros / 1'000'000 % 60, 2);
  out.push_back('.');
  append_padded(out, micros % 1'000'000, 6);
  out.push_back('Z');
  return out;
}

std::optional<system_clock::time_point> parse_time(std::string_view text) {
  const std::optional<Instant> instant = read(text);
  if (!instant) return std::nullopt;
  // The clock counts nanoseconds in 64 bits, 1677 to 2262; a time outside is nearest at its end.
  const std::chrono::seconds whole{instant->seconds};
  if (whole >= std::chrono::floor<std::chrono::seconds>(system_clock::duration::max())) return system_clock::time_point::max();
  if (whole <= std::chrono::ceil<std::chrono::seconds>(system_clock::duration::min())) return system_clock::time_point::min();
  return system_clock::time_point{
      std::chrono::duration_cast<system_clock::duration>(whole) +
      std::chrono::duration_cast<system_clock::duration>(std::chrono::nanoseconds{instant->nanoseconds})};
}

}  // namespace penstock
