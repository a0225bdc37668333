// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "envelope_fuzz.hpp"

/// The input is the JSON text alone.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const penstock::Wire wire{.key = std::nullopt,
                            .headers = {{"content-type", "application/cloudevents+json"}},
                            .payload = std::string{reinterpret_cast<const char*>(data), size}};
  penstock::fuzz::check(wire, penstock::Binding::kafka);
  return 0;
}
