// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_queue.hpp"

#include <utility>

namespace penstock::consumer {

namespace {

/// What an entry is serialized by: its key, or else its identity. Empty for a delivery that is no event.
std::string order_of(const Message& message) {
  if (!message.defect.empty()) {
    return {};
  }
  if (!message.key().empty()) {
    return "k" + message.key();
  }
  std::string identity = "i" + message.event.source;
  identity += '\0';
  return identity + message.id();
}

}  // namespace

void WorkQueue::push(EntryPtr entry) {
  in_flight_.insert(entry);
  const std::string order = order_of(entry->message);
  if (order.empty()) {
    ready_.push_back(std::move(entry));
    return;
  }
  const auto [place, is_free] = keys_.try_emplace(order);
  if (is_free) {
    ready_.push_back(std::move(entry));
  } else {
    place->second.push_back(std::move(entry));
  }
}

EntryPtr WorkQueue::take() {
  if (ready_.empty()) {
    return nullptr;
  }
  EntryPtr entry = std::move(ready_.front());
  ready_.pop_front();
  return entry;
}

void WorkQueue::finish(const EntryPtr& entry) {
  in_flight_.erase(entry);
  const std::string order = order_of(entry->message);
  const auto place = keys_.find(order);
  if (order.empty() || place == keys_.end()) {
    return;
  }
  if (place->second.empty()) {
    keys_.erase(place);
    return;
  }
  ready_.push_back(std::move(place->second.front()));
  place->second.pop_front();
}

void WorkQueue::put_back(EntryPtr entry) { ready_.push_front(std::move(entry)); }

void WorkQueue::delay(EntryPtr entry, TimePoint until) { delayed_.emplace(until, std::move(entry)); }

void WorkQueue::ripen(TimePoint now) {
  while (!delayed_.empty() && delayed_.begin()->first <= now) {
    ready_.push_back(std::move(delayed_.begin()->second));
    delayed_.erase(delayed_.begin());
  }
}

std::optional<WorkQueue::TimePoint> WorkQueue::next_delayed() const {
  if (delayed_.empty()) {
    return std::nullopt;
  }
  return delayed_.begin()->first;
}

std::vector<EntryPtr> WorkQueue::in_flight() const { return {in_flight_.begin(), in_flight_.end()}; }

}  // namespace penstock::consumer
