// SPDX-License-Identifier: Apache-2.0
#include "core/sha1.hpp"

#include <bit>
#include <cstddef>
#include <string>

namespace penstock {
namespace {

using State = std::array<std::uint32_t, 5>;

void mix_block(State& state, std::string_view block) noexcept {
  std::array<std::uint32_t, 80> w{};
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 4; ++j) w[i] = (w[i] << 8U) | static_cast<unsigned char>(block[4 * i + j]);
  }
  for (std::size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  auto [a, b, c, d, e] = state;
  for (std::size_t i = 0; i < 80; ++i) {
    std::uint32_t f = 0;
    std::uint32_t k = 0;
    if (i < 20) {
      f = (b & c) | (~b & d), k = 0x5A827999U;
    } else if (i < 40) {
      f = b ^ c ^ d, k = 0x6ED9EBA1U;
    } else if (i < 60) {
      f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDCU;
    } else {
      f = b ^ c ^ d, k = 0xCA62C1D6U;
    }
    const std::uint32_t next = std::rotl(a, 5) + f + e + k + w[i];
    e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
  }
  state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d, state[4] + e};
}

}  // namespace

std::array<std::uint8_t, 20> sha1(std::string_view message) {
  State state{0x67452301U, 0xEFCDAB89U, 0x98BADCFEU, 0x10325476U, 0xC3D2E1F0U};
  const std::uint64_t bits = std::uint64_t{message.size()} * 8U;
  for (; message.size() >= 64; message.remove_prefix(64)) mix_block(state, message);
  std::string tail{message};
  tail.push_back('\x80');
  while (tail.size() % 64 != 56) tail.push_back('\0');
  for (unsigned shift = 64; shift > 0;) tail.push_back(static_cast<char>((bits >> (shift -= 8U)) & 0xFFU));
  for (std::size_t at = 0; at < tail.size(); at += 64) mix_block(state, std::string_view{tail}.substr(at, 64));

  std::array<std::uint8_t, 20> digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<std::uint8_t>((state[i / 4] >> (24U - 8U * (i % 4))) & 0xFFU);
  }
  return digest;
}

}  // namespace penstock
