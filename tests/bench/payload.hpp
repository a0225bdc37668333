// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

#include "penstock/event.hpp"

// The same events for both sides.
namespace penstock::bench {

constexpr std::size_t kPayloadBytes = 512;
constexpr std::size_t kKeys = 1'000;
inline const std::string kType = "bench.order.placed.v1";
inline const std::string kSource = "/bench/orders";
inline const std::string kTime = "2026-01-01T00:00:00.000000Z";
inline const std::string kContentType = "application/json";

inline std::string key_of(std::size_t i) { return "order-" + std::to_string(i % kKeys); }

/// JSON text of kPayloadBytes, without a backslash or a quote mark that SQL would have to escape.
inline std::string payload_of(std::size_t i) {
  std::string text = R"({"order":")" + std::to_string(i) + R"(","note":")";
  text.append(kPayloadBytes - text.size() - 2, 'x');
  for (std::size_t at = text.size() % 7; at < text.size(); at += 7) {
    if (text[at] == 'x') text[at] = static_cast<char>('a' + at % 26);
  }
  return text + R"("})";
}

/// As long as a UUID.
inline std::string id_of(std::size_t i) {
  std::string text(37, '\0');
  std::snprintf(text.data(), text.size(), "01890a5d-ac96-774b-bcce-%012zu", i);
  text.resize(36);
  return text;
}

inline Event event_of(std::size_t i) {
  return {.id = id_of(i),
          .source = kSource,
          .type = kType,
          .key = key_of(i),
          .data = payload_of(i),
          .content_type = kContentType,
          .time = kTime};
}

}  // namespace penstock::bench
