// SPDX-License-Identifier: Apache-2.0
#include "envelope_fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return penstock::fuzz::run(data, size, penstock::Binding::nats);
}
