// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include "core/trace_context.hpp"
#include "envelope_fuzz.hpp"

/// What is read as a trace context is written so that it reads the same.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (const auto parent = parse_traceparent(text)) {
    if (parse_traceparent(format(*parent)) != parent) fuzz::fail("a trace parent keeps");
  }
  if (const auto state = parse_tracestate(text)) {
    if (state->size() > 32) fuzz::fail("a trace state has at most 32 members");
    const std::string cut = format(*state);
    if (cut.size() > 512) fuzz::fail("a trace state is cut");
    if (!parse_tracestate(cut)) fuzz::fail("a cut trace state is legal");
    const auto again = parse_tracestate(format(*state, size + 512));
    if (again != state) fuzz::fail("a trace state keeps");
  }
  return 0;
}
