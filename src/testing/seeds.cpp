// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/seeds.hpp"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "penstock/random.hpp"

namespace penstock::testing {

namespace {

std::optional<std::uint64_t> asked_for() {
  const char* value = std::getenv("PENSTOCK_SEED");  // NOLINT(concurrency-mt-unsafe): tests do not change the environment
  if (value == nullptr || *value == '\0') {
    return std::nullopt;
  }
  const std::string_view text{value};
  std::uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw std::invalid_argument{"PENSTOCK_SEED is '" + std::string{text} + "': give the number of a seed, as 42"};
  }
  return seed;
}

}  // namespace

void with_seeds(int count, const std::function<void(std::uint64_t)>& body) {
  const std::optional<std::uint64_t> only = asked_for();
  for (int i = 0; i < (only ? 1 : count); ++i) {
    const std::uint64_t seed = only ? *only : Random::system().next();
    const std::string with = "with PENSTOCK_SEED=" + std::to_string(seed) + ": ";
    try {
      body(seed);
    } catch (const std::exception& error) {
      throw Unexpected{with + error.what()};
    } catch (...) {
      throw Unexpected{with + "something was thrown that is no std::exception"};
    }
  }
}

}  // namespace penstock::testing
