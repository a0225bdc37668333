// SPDX-License-Identifier: Apache-2.0
#include "core/relay_health.hpp"

#include <algorithm>
#include <set>

namespace penstock {

void RelayHealth::judged(std::uint64_t sequence, const std::string& key, bool rejected, bool again) {
  if (limits_.rejected == 0) {
    return;
  }
  if (again) {
    const auto same = [sequence](const Judgement& judgement) { return judgement.sequence == sequence; };
    if (const auto found = std::find_if(last_.begin(), last_.end(), same); found != last_.end()) {
      found->rejected = rejected;
      return;
    }
    if (rejected) {
      return;
    }
  }
  ++fresh_;
  last_.push_back({sequence, rejected, {}});
  if (rejected) {
    last_.back().whose = key.empty() ? "#" + std::to_string(sequence) : "k" + key;
  }
}

bool RelayHealth::systemic() const {
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

void RelayHealth::trim() {
  while (last_.size() > limits_.of) {
    last_.pop_front();
  }
  fresh_ = 0;
}

}  // namespace penstock
