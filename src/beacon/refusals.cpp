// SPDX-License-Identifier: Apache-2.0
#include "beacon/refusals.hpp"

#include <algorithm>
#include <utility>

namespace penstock::beacon {
namespace {

constexpr std::chrono::seconds kLongestCount{5};

}  // namespace

void Refusals::next_connection() {
  ++connection_;
  subjects_.clear();
}

bool Refusals::answered(const std::string& subject) {
  const auto found = subjects_.find(subject);
  if (found == subjects_.end() || found->second.open == 0) return false;
  Count& count = found->second;
  --count.open;
  return count.refused > 0 && count.refused >= count.open;
}

bool Refusals::refused(std::uint64_t connection, const std::string& subject, const std::string& words, Instant now) {
  const auto found = subjects_.find(subject);
  if (connection != connection_ || found == subjects_.end() || found->second.open == 0) return false;
  Count& count = found->second;
  if (count.refused++ == 0) count.since = now;
  count.words = words;
  return count.refused >= count.open;
}

std::string Refusals::conclude(const std::string& subject) { return std::exchange(subjects_[subject], {}).words; }

const std::string* Refusals::words_of(const std::string& subject) const {
  const auto found = subjects_.find(subject);
  return found != subjects_.end() && found->second.refused > 0 ? &found->second.words : nullptr;
}

bool Refusals::stuck(Instant now) const {
  return std::any_of(subjects_.begin(), subjects_.end(),
                     [now](const auto& entry) { return entry.second.refused > 0 && now - entry.second.since > kLongestCount; });
}

}  // namespace penstock::beacon
