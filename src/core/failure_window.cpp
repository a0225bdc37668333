// SPDX-License-Identifier: Apache-2.0
#include "core/failure_window.hpp"

#include <algorithm>
#include <set>

namespace penstock {

void FailureWindow::judged(std::uint64_t sequence, const std::string& key, bool rejected, bool again) {
  if (limits_.rejected == 0) {
    return;
  }
  const std::string whose = !rejected ? std::string{} : key.empty() ? "#" + std::to_string(sequence) : "k" + key;
  if (again) {
    const auto same = [sequence](const Judgement& judgement) { return judgement.sequence == sequence; };
    if (const auto found = std::find_if(last_.begin(), last_.end(), same); found != last_.end()) {
      rejected_ = rejected_ + (rejected ? 1U : 0U) - (found->rejected ? 1U : 0U);
      *found = {sequence, rejected, whose};
      return;
    }
    if (rejected) {
      return;
    }
  }
  ++fresh_;
  rejected_ += rejected ? 1U : 0U;
  last_.push_back({sequence, rejected, whose});
}

bool FailureWindow::systemic() const {
  if (rejected_ < limits_.rejected) {
    return false;
  }
  const std::size_t looked_at = std::min(last_.size(), std::max(limits_.of, fresh_));
  std::size_t rejected = 0;
  std::set<std::string> whose;
  for (auto judgement = last_.end() - static_cast<std::ptrdiff_t>(looked_at); judgement != last_.end(); ++judgement) {
    if (judgement->rejected) {
      ++rejected;
      whose.insert(judgement->whose);
    }
  }
  return limits_.rejected > 0 && rejected >= limits_.rejected && whose.size() >= limits_.keys &&
         rejected * limits_.of >= limits_.rejected * std::max(looked_at, limits_.of);
}

void FailureWindow::trim() {
  while (last_.size() > limits_.of) {
    rejected_ -= last_.front().rejected ? 1U : 0U;
    last_.pop_front();
  }
  fresh_ = 0;
}

}  // namespace penstock
