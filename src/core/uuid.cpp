// SPDX-License-Identifier: Apache-2.0
#include "penstock/uuid.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/sha1.hpp"
#include "core/uuid_internal.hpp"
#include "penstock/random.hpp"

namespace penstock {
namespace {

constexpr unsigned counter_bits = 12;
constexpr std::uint64_t time_mask = (std::uint64_t{1} << 48U) - 1U;

/// 8f1f2c3e-6f0b-5d0a-9a57-2f4d1b7c9e60, drawn once; changing it would change every derived id.
constexpr UuidBytes penstock_namespace{0x8f, 0x1f, 0x2c, 0x3e, 0x6f, 0x0b, 0x5d, 0x0a,
                                       0x9a, 0x57, 0x2f, 0x4d, 0x1b, 0x7c, 0x9e, 0x60};

std::string to_text(const UuidBytes& bytes) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string out;
  out.reserve(36);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
    out.push_back(hex[bytes[i] >> 4U]);
    out.push_back(hex[bytes[i] & 0x0FU]);
  }
  return out;
}

std::string uuid7_of(std::uint64_t millis, std::uint64_t rand_a, std::uint64_t rand_b) {
  const std::uint64_t high = ((millis & time_mask) << 16U) | 0x7000U | (rand_a & 0x0FFFU);
  const std::uint64_t low = (std::uint64_t{2} << 62U) | (rand_b & ((std::uint64_t{1} << 62U) - 1U));
  UuidBytes bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>((high >> (56U - 8U * i)) & 0xFFU);
    bytes[8 + i] = static_cast<std::uint8_t>((low >> (56U - 8U * i)) & 0xFFU);
  }
  return to_text(bytes);
}

std::uint64_t millis_of(std::chrono::system_clock::time_point time) {
  const auto millis = std::chrono::floor<std::chrono::milliseconds>(time.time_since_epoch()).count();
  return millis < 0 ? 0U : static_cast<std::uint64_t>(millis);
}

/// In the text form that is written here.
bool is_uuid7(std::string_view text) noexcept {
  constexpr std::string_view shape = "xxxxxxxx-xxxx-7xxx-nxxx-xxxxxxxxxxxx";
  constexpr std::string_view hex = "0123456789abcdef";
  if (text.size() != shape.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::string_view allowed = shape[i] == 'x' ? hex : shape[i] == 'n' ? std::string_view{"89ab"} : shape.substr(i, 1);
    if (allowed.find(text[i]) == std::string_view::npos) return false;
  }
  return true;
}

/// Each field with its length before it, so that no two lists of fields read the same.
void append_field(std::string& name, std::string_view field) {
  name += std::to_string(field.size());
  name.push_back(':');
  name += field;
}

}  // namespace

std::string uuid7() {
  // Milliseconds and counter in one word: a counter that runs over borrows from the next millisecond, and a clock that
  // steps back leaves the last word standing until time has caught up.
  static std::atomic<std::uint64_t> last{0};
  Random& random = Random::system();
  // The counter starts in the lower half of its range, so that it rarely runs over.
  const std::uint64_t fresh = (millis_of(std::chrono::system_clock::now()) << counter_bits) | (random.next() & 0x7FFU);
  std::uint64_t seen = last.load(std::memory_order_relaxed);
  std::uint64_t mine = 0;
  do {
    mine = std::max(fresh, seen + 1);
  } while (!last.compare_exchange_weak(seen, mine, std::memory_order_relaxed));
  return uuid7_of(mine >> counter_bits, mine & 0xFFFU, random.next());
}

std::string uuid7(std::chrono::system_clock::time_point time, Random& random) {
  const std::uint64_t rand_a = random.next();
  return uuid7_of(millis_of(time), rand_a, random.next());
}

std::string uuid5(const UuidBytes& space, std::string_view name) {
  std::string message(space.begin(), space.end());
  message += name;
  const auto digest = sha1(message);
  UuidBytes bytes{};
  std::copy_n(digest.begin(), bytes.size(), bytes.begin());
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0FU) | 0x50U);
  bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3FU) | 0x80U);
  return to_text(bytes);
}

std::string derived_id(std::string_view consumer, std::string_view source, std::string_view id, int position) {
  std::string name;
  name.reserve(consumer.size() + source.size() + id.size() + 24);
  append_field(name, consumer);
  append_field(name, source);
  append_field(name, id);
  name += std::to_string(position);
  std::string derived = uuid5(penstock_namespace, name);
  if (is_uuid7(id)) {
    derived.replace(0, 13, id.substr(0, 13));  // its time
    derived[14] = '7';
  }
  return derived;
}

}  // namespace penstock
