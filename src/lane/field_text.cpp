// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lane/amqp.hpp"
#include "lane/message.hpp"
#include "penstock/event.hpp"

namespace penstock::lane {
namespace {

template <class Number>
std::string shortest(Number number) {
  std::array<char, 64> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number);
  return std::string{buffer.data(), result.ptr};
}

std::string decimal_text(const amqp_decimal_t& value) {
  std::string digits = std::to_string(value.value);
  if (value.decimals == 0) return digits;
  if (digits.size() <= value.decimals) digits.insert(0, value.decimals + 1U - digits.size(), '0');
  digits.insert(digits.size() - value.decimals, 1, '.');
  return digits;
}

std::string time_text(std::uint64_t seconds) {
  // Beyond the year 9999 it is no RFC 3339 time; the number is then the better text.
  if (seconds > 253'402'300'799U) return std::to_string(seconds);
  const std::chrono::sys_days epoch{};
  const auto time = epoch + std::chrono::seconds{static_cast<std::int64_t>(seconds)};
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{day};
  const std::chrono::hh_mm_ss clock{time - day};
  const auto padded = [](auto number, std::size_t width) {
    std::string text = std::to_string(number);
    return text.size() < width ? std::string(width - text.size(), '0') + text : text;
  };
  return padded(static_cast<int>(date.year()), 4) + "-" + padded(static_cast<unsigned>(date.month()), 2) + "-" +
         padded(static_cast<unsigned>(date.day()), 2) + "T" + padded(clock.hours().count(), 2) + ":" +
         padded(clock.minutes().count(), 2) + ":" + padded(clock.seconds().count(), 2) + "Z";
}

std::string json_string(std::string_view text) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += digits[byte >> 4U];
      out += digits[byte & 0x0FU];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string json(const amqp_field_value_t& value) {
  switch (value.kind) {
    case AMQP_FIELD_KIND_VOID: return "null";
    case AMQP_FIELD_KIND_TABLE: {
      std::string out = "{";
      for (int i = 0; i < value.value.table.num_entries; ++i) {
        const amqp_table_entry_t& item = value.value.table.entries[i];
        if (i > 0) out += ',';
        out += json_string(view(item.key)) + ":" + json(item.value);
      }
      return out + "}";
    }
    case AMQP_FIELD_KIND_ARRAY: {
      std::string out = "[";
      for (int i = 0; i < value.value.array.num_entries; ++i) {
        if (i > 0) out += ',';
        out += json(value.value.array.entries[i]);
      }
      return out + "]";
    }
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES:
    case AMQP_FIELD_KIND_TIMESTAMP: return json_string(canonical_text(value).value_or(""));
    default: return canonical_text(value).value_or("null");
  }
}

}  // namespace

std::optional<std::string> canonical_text(const amqp_field_value_t& value) {
  switch (value.kind) {
    case AMQP_FIELD_KIND_BOOLEAN: return value.value.boolean != 0 ? "true" : "false";
    case AMQP_FIELD_KIND_I8: return std::to_string(value.value.i8);
    case AMQP_FIELD_KIND_U8: return std::to_string(value.value.u8);
    case AMQP_FIELD_KIND_I16: return std::to_string(value.value.i16);
    case AMQP_FIELD_KIND_U16: return std::to_string(value.value.u16);
    case AMQP_FIELD_KIND_I32: return std::to_string(value.value.i32);
    case AMQP_FIELD_KIND_U32: return std::to_string(value.value.u32);
    case AMQP_FIELD_KIND_I64: return std::to_string(value.value.i64);
    case AMQP_FIELD_KIND_U64: return std::to_string(value.value.u64);
    case AMQP_FIELD_KIND_F32: return shortest(value.value.f32);
    case AMQP_FIELD_KIND_F64: return shortest(value.value.f64);
    case AMQP_FIELD_KIND_DECIMAL: return decimal_text(value.value.decimal);
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES: return text(value.value.bytes);
    case AMQP_FIELD_KIND_TIMESTAMP: return time_text(value.value.u64);
    case AMQP_FIELD_KIND_TABLE:
    case AMQP_FIELD_KIND_ARRAY: return json(value);
    default: return std::nullopt;
  }
}

}  // namespace penstock::lane
