// SPDX-License-Identifier: Apache-2.0
#include "penstock/random.hpp"

#include <unistd.h>

#include <atomic>
#include <random>

namespace penstock {
namespace {

/// Asks the kernel each time: a process that forks must not make the ids of its parent again.
class SystemRandom final : public Random {
 public:
  std::uint64_t next() override {
    std::uint64_t bits = 0;
    if (::getentropy(&bits, sizeof bits) == 0) return bits;
    std::random_device device;
    return (std::uint64_t{device()} << 32U) | device();
  }
};

/// SplitMix64: a counter and a mixing function, so that threads may share it without a lock.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_{seed} {}
  std::uint64_t next() override {
    constexpr std::uint64_t step = 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_.fetch_add(step, std::memory_order_relaxed) + step;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }

 private:
  std::atomic<std::uint64_t> state_;
};

}  // namespace

Random& Random::system() {
  static SystemRandom random;
  return random;
}

std::unique_ptr<Random> Random::seeded(std::uint64_t seed) { return std::make_unique<SeededRandom>(seed); }

}  // namespace penstock
