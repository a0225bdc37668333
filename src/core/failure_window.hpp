// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "penstock/systemic_failure.hpp"

namespace penstock {

/// What became of the last events or messages, to tell a bad one from a bad system (rule 17): a relay's, a consumer's or a
/// provider's.
/// Thread safety: one thread. Lifetime: a value.
class FailureWindow {
 public:
  /// With limits of 0 rejected, it is always the event.
  explicit FailureWindow(SystemicFailure limits) : limits_{limits} {}

  /// What the channel said of one event. `again`: not for the first time; an event keeps its place among the last, so that one
  /// that is tried over and over does not count over and over.
  void judged(std::uint64_t sequence, const std::string& key, bool rejected, bool again);
  /// At the end of a batch. One that is larger than what is remembered counts as a whole.
  [[nodiscard]] bool systemic() const;
  /// After that; forgets what is too old to count.
  void trim();
  [[nodiscard]] std::size_t rejected() const noexcept { return rejected_; }

 private:
  struct Judgement {
    std::uint64_t sequence = 0;
    bool rejected = false;
    std::string whose{};  // of a rejected one
  };

  SystemicFailure limits_;
  std::deque<Judgement> last_{};
  std::size_t rejected_ = 0;  // of them
  std::size_t fresh_ = 0;     // of them, since `trim`
};

}  // namespace penstock
