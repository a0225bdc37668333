// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "penstock/export.hpp"

namespace penstock {

/// The one source of chance in the library: jitter and ids. Inject a seeded one and a run repeats itself.
/// Thread safety: any thread may call `next`. Lifetime: must outlive everything it was given to.
class PENSTOCK_EXPORT Random {
 public:
  virtual ~Random() = default;
  /// 64 uniformly distributed bits.
  virtual std::uint64_t next() = 0;
  /// Uniform in [0, 1).
  double unit() { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }

  /// Seeded by the operating system; one per process, made at first use, safe to share.
  static Random& system();
  /// The same sequence for the same seed.
  static std::unique_ptr<Random> seeded(std::uint64_t seed);
};

}  // namespace penstock
