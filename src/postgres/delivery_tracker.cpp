// SPDX-License-Identifier: Apache-2.0
#include "postgres/delivery_tracker.hpp"

#include <cstddef>
#include <stdexcept>
#include <utility>

namespace penstock::postgres {

void DeliveryTracker::reset(LogPosition position) {
  ids_.clear();
  marks_.clear();
  settled_ = 0;
  base_ = std::move(position);
  window_.reset();
  id_ = 0;
}

std::uint64_t DeliveryTracker::delivered(std::int64_t id, const std::shared_ptr<const Window>& window) {
  const std::uint64_t sequence = settled_ + ids_.size() + 1;
  if (marks_.empty() || marks_.back().window != window) {
    marks_.push_back(Mark{sequence, window, {}});
  }
  ids_.push_back(id);
  return sequence;
}

std::uint64_t DeliveryTracker::delivered_beside() {
  if (!ids_.empty()) {
    const std::int64_t id = ids_.back();
    return delivered(id, std::shared_ptr{marks_.back().window});
  }
  return delivered(id_, std::shared_ptr{window_});
}

void DeliveryTracker::closed(LogPosition position) {
  if (!ids_.empty()) {
    marks_.back().closed = std::move(position);
    return;
  }
  marks_.clear();
  window_.reset();
  base_ = std::move(position);
}

void DeliveryTracker::settle(std::uint64_t sequence) {
  if (sequence <= settled_) {
    return;
  }
  if (sequence > settled_ + ids_.size()) {
    throw std::logic_error("an entry that was not handed out cannot be settled");
  }
  const auto count = static_cast<std::ptrdiff_t>(sequence - settled_);
  id_ = ids_[static_cast<std::size_t>(count - 1)];
  ids_.erase(ids_.begin(), ids_.begin() + count);
  settled_ = sequence;
  while (marks_.size() > 1 && marks_[1].first <= sequence) {
    marks_.pop_front();
  }
  window_ = marks_.front().window;
  const bool whole = marks_.size() > 1 ? marks_[1].first == sequence + 1 : ids_.empty();
  if (whole && marks_.front().closed) {
    base_ = std::move(*marks_.front().closed);
    window_.reset();
    marks_.pop_front();
  }
}

std::int64_t DeliveryTracker::id_of(std::uint64_t sequence) const {
  if (sequence <= settled_ || sequence > settled_ + ids_.size()) {
    throw std::logic_error("no such entry is waiting to be settled");
  }
  return ids_[static_cast<std::size_t>(sequence - settled_ - 1)];
}

LogPosition DeliveryTracker::position() const {
  return window_ ? LogPosition{window_->prev.text, window_->cur.text, id_, window_->floor} : base_;
}

}  // namespace penstock::postgres
