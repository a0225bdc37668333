// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace penstock::test {

/// A key pair as NATS writes them, and what such a key signs. Thread safety: a value.
class Nkey {
 public:
  enum class Kind : std::uint8_t { operator_ = 14 << 3, account = 0, user = 20 << 3 };

  explicit Nkey(Kind kind) {
    std::string secret(32, '\0');
    RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), 32);
    key_.reset(
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(secret.data()), 32),
        &EVP_PKEY_free);
    std::string open(32, '\0');
    std::size_t size = open.size();
    if (!key_ || EVP_PKEY_get_raw_public_key(key_.get(), reinterpret_cast<unsigned char*>(open.data()), &size) != 1) {
      throw std::runtime_error{"OpenSSL makes no Ed25519 key"};
    }
    const auto prefix = static_cast<unsigned>(kind);
    constexpr unsigned seed_prefix = 18U << 3U;
    public_ = encoded(static_cast<char>(prefix) + open);
    const std::string head{static_cast<char>(seed_prefix | (prefix >> 5U)), static_cast<char>((prefix & 31U) << 3U)};
    seed_ = encoded(head + secret);
  }

  [[nodiscard]] const std::string& public_key() const noexcept { return public_; }
  [[nodiscard]] const std::string& seed() const noexcept { return seed_; }

  /// A JWT of this key's about another, with NATS's claims (JSON).
  [[nodiscard]] std::string jwt(const std::string& subject, const std::string& claims) const {
    const std::string text = base64(R"({"typ":"JWT","alg":"ed25519-nkey"})") + '.' +
                             base64(R"({"jti":"1","iat":1700000000,"iss":")" + public_ + R"(","name":"test","sub":")" +
                                    subject + R"(","nats":)" + claims + '}');
    std::string signature(64, '\0');
    std::size_t size = signature.size();
    const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
    if (EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.get()) != 1 ||
        EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                       reinterpret_cast<const unsigned char*>(text.data()), text.size()) != 1) {
      throw std::runtime_error{"OpenSSL does not sign"};
    }
    return text + '.' + base64(signature);
  }

 private:
  /// `bits` at a time, most significant first, as letters of an alphabet; without padding.
  static std::string in_letters(std::string_view bytes, std::string_view alphabet, unsigned bits) {
    std::string text;
    std::uint32_t held = 0;
    unsigned count = 0;
    for (const char c : bytes) {
      held = held << 8U | static_cast<unsigned char>(c);
      for (count += 8; count >= bits; count -= bits) text += alphabet[held >> (count - bits) & ((1U << bits) - 1)];
      held &= (1U << count) - 1;
    }
    if (count > 0) text += alphabet[held << (bits - count) & ((1U << bits) - 1)];
    return text;
  }
  static std::string base64(std::string_view bytes) {
    return in_letters(bytes, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 6);
  }
  /// With CRC-16/XMODEM behind it, in base32.
  static std::string encoded(std::string bytes) {
    unsigned crc = 0;
    for (const char c : bytes) {
      crc ^= static_cast<unsigned>(static_cast<unsigned char>(c)) << 8U;
      for (int i = 0; i < 8; ++i) crc = ((crc & 0x8000U) != 0 ? crc << 1U ^ 0x1021U : crc << 1U) & 0xFFFFU;
    }
    bytes += static_cast<char>(crc & 0xFFU);
    bytes += static_cast<char>(crc >> 8U);
    return in_letters(bytes, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 5);
  }

  std::shared_ptr<EVP_PKEY> key_;
  std::string public_;
  std::string seed_;
};

}  // namespace penstock::test
