// SPDX-License-Identifier: Apache-2.0
#include "conduit/offset_tracker.hpp"

#include <algorithm>

namespace penstock::conduit {

bool OffsetTracker::deliver(std::int64_t offset, std::uint64_t receipt) {
  if (Entry* entry = find(offset)) {
    if (entry->state == State::settled) return false;
    if (entry->state == State::waiting) {
      entry->state = State::in_work;
      entry->valid_from = receipt;
      ++in_work_;
    }
    return true;
  }
  if (position_ && offset < *position_) return false;  // settled, and forgotten since
  if (entries_.empty() || offset > entries_.back().offset) {
    entries_.push_back({offset, receipt, State::in_work});
  } else {
    const auto place = std::upper_bound(entries_.begin(), entries_.end(), offset,
                                        [](std::int64_t value, const Entry& entry) { return value < entry.offset; });
    entries_.insert(place, {offset, receipt, State::in_work});
  }
  ++in_work_;
  advance();
  return true;
}

bool OffsetTracker::settle(std::int64_t offset, std::uint64_t receipt) {
  Entry* entry = find(offset);
  if (entry == nullptr || entry->state != State::in_work || receipt < entry->valid_from) return false;
  entry->state = State::settled;
  --in_work_;
  advance();
  return true;
}

bool OffsetTracker::retry(std::int64_t offset, std::uint64_t receipt) {
  Entry* entry = find(offset);
  if (entry == nullptr || entry->state != State::in_work || receipt < entry->valid_from) return false;
  entry->state = State::waiting;
  --in_work_;
  return true;
}

OffsetTracker::Entry* OffsetTracker::find(std::int64_t offset) {
  if (entries_.empty() || offset > entries_.back().offset) return nullptr;
  // Mostly there are no gaps.
  if (const auto guess = static_cast<std::size_t>(offset - entries_.front().offset);
      offset >= entries_.front().offset && guess < entries_.size() && entries_[guess].offset == offset) {
    return &entries_[guess];
  }
  const auto place = std::lower_bound(entries_.begin(), entries_.end(), offset,
                                      [](const Entry& entry, std::int64_t value) { return entry.offset < value; });
  return place == entries_.end() || place->offset != offset ? nullptr : &*place;
}

void OffsetTracker::advance() {
  while (!entries_.empty() && entries_.front().state == State::settled) {
    position_ = entries_.front().offset + 1;
    entries_.pop_front();
  }
  if (!entries_.empty()) position_ = entries_.front().offset;
}

}  // namespace penstock::conduit
