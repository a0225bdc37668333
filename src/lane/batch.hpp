// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "lane/connection.hpp"
#include "penstock/publisher.hpp"

namespace penstock::lane {

using Done = std::function<void(Outcomes)>;

/// The messages of one `submit` and what became of them. Guarded by the Sender's mutex.
struct Batch {
  enum class State : std::uint8_t { queued, sent, settled };

  Batch(std::size_t size, SteadyTime until, Done when_done)
      : deadline{until}, outcomes(size), states(size, State::queued), open{size}, done{std::move(when_done)} {}

  /// True when this was the last open one. A second outcome for one message is ignored: the first was told already.
  bool settle(std::size_t index, Outcome outcome) {
    if (states[index] == State::settled) return false;
    states[index] = State::settled;
    outcomes[index] = std::move(outcome);
    return --open == 0;
  }

  SteadyTime deadline;
  Outcomes outcomes;
  std::vector<State> states;
  std::size_t open;
  Done done;
};

/// Batches whose last outcome came in; told after the lock is given up.
class Finished {
 public:
  void add(const std::shared_ptr<Batch>& batch) { batches_.push_back(batch); }
  void tell() {
    for (const auto& batch : std::exchange(batches_, {})) {
      if (batch->done) std::exchange(batch->done, nullptr)(std::move(batch->outcomes));
    }
  }

 private:
  std::vector<std::shared_ptr<Batch>> batches_;
};

}  // namespace penstock::lane
