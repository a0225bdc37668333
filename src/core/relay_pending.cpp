// SPDX-License-Identifier: Apache-2.0
#include "core/relay_pending.hpp"

#include <algorithm>

namespace penstock {
namespace {

std::size_t footprint(const Event& event) {
  constexpr std::size_t kNode = 64;  // of a map or a set
  std::size_t bytes = sizeof(Event) + 4 * kNode + 2 * event.key.size() + event.id.size() + event.source.size() +
                      event.type.size() + event.subject.size() + event.time.size() + event.data_schema.size() +
                      event.traceparent.size() + event.tracestate.size() + (event.data ? event.data->size() : 0);
  for (const auto& [name, value] : event.extensions) {
    bytes += kNode + sizeof(ExtensionValue) + name.size() + value.text().size();
  }
  for (const Header& header : event.headers) {
    bytes += sizeof(Header) + header.name.size() + (header.value ? header.value->size() : 0);
  }
  return bytes;
}

}  // namespace

void RelayPending::clear() { *this = RelayPending{}; }

void RelayPending::add(EventLog::Entry entry) {
  const std::uint64_t sequence = entry.sequence;
  last_ = sequence;
  bool first = true;
  if (!entry.event.key.empty()) {
    auto& queue = keys_[entry.event.key];
    first = queue.empty();
    queue.push_back(sequence);
  }
  const std::size_t bytes = footprint(entry.event);
  bytes_ += bytes;
  items_.emplace_hint(items_.end(), sequence, Place{.item = {.entry = std::move(entry), .bytes = bytes}});
  if (first) {
    ready_.insert(ready_.end(), sequence);
  }
}

std::vector<std::uint64_t> RelayPending::take(std::size_t max) {
  std::vector<std::uint64_t> taken;
  while (taken.size() < max && !ready_.empty()) {
    taken.push_back(*ready_.begin());
    ready_.erase(ready_.begin());
  }
  return taken;
}

std::vector<std::uint64_t> RelayPending::take_also_fenced(std::size_t max, std::uint64_t after) {
  std::vector<std::uint64_t> all{ready_.begin(), ready_.end()};
  for (const auto& [until, sequence] : fenced_) {
    all.push_back(sequence);
  }
  std::sort(all.begin(), all.end());
  std::rotate(all.begin(), std::upper_bound(all.begin(), all.end(), after), all.end());
  all.resize(std::min(all.size(), max));
  std::sort(all.begin(), all.end());
  for (const std::uint64_t sequence : all) {
    unfence(sequence, items_.at(sequence));
    ready_.erase(sequence);
  }
  return all;
}

void RelayPending::settle(std::uint64_t sequence) {
  const auto found = items_.find(sequence);
  unfence(sequence, found->second);
  ready_.erase(sequence);
  bytes_ -= found->second.item.bytes;
  const std::string& key = found->second.item.entry.event.key;
  if (!key.empty()) {
    const auto queue = keys_.find(key);
    queue->second.pop_front();
    if (queue->second.empty()) {
      keys_.erase(queue);
    } else {
      ready_.insert(queue->second.front());
    }
  }
  items_.erase(found);
}

void RelayPending::fence(std::uint64_t sequence, Clock::TimePoint until) {
  Place& place = items_.at(sequence);
  unfence(sequence, place);
  place.fenced_until = until;
  fenced_.emplace(until, sequence);
}

void RelayPending::hold(std::uint64_t sequence) {
  Place& place = items_.at(sequence);
  unfence(sequence, place);
  place.held = true;
  held_keys_ += place.item.entry.event.key.empty() ? 0U : 1U;
}

std::deque<std::uint64_t> RelayPending::of_key(const std::string& key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? std::deque<std::uint64_t>{} : found->second;
}

void RelayPending::unfence(std::uint64_t sequence, Place& place) {
  if (place.fenced_until) {
    fenced_.erase({*place.fenced_until, sequence});
    place.fenced_until.reset();
  }
  if (place.held) {
    place.held = false;
    held_keys_ -= place.item.entry.event.key.empty() ? 0U : 1U;
  }
}

void RelayPending::forgive() {
  for (auto& [sequence, place] : items_) {
    place.item.rejections = 0;
  }
}

void RelayPending::release_due(Clock::TimePoint now) {
  while (!fenced_.empty() && fenced_.begin()->first <= now) {
    const std::uint64_t sequence = fenced_.begin()->second;
    unfence(sequence, items_.at(sequence));
    ready_.insert(sequence);
  }
}

void RelayPending::release_all() { release_due(Clock::TimePoint::max()); }

std::optional<Clock::TimePoint> RelayPending::next_due() const {
  return fenced_.empty() ? std::nullopt : std::optional{fenced_.begin()->first};
}

std::size_t RelayPending::fenced_keys() const {
  return held_keys_ + static_cast<std::size_t>(std::count_if(fenced_.begin(), fenced_.end(), [this](const auto& fence) {
           return !items_.at(fence.second).item.entry.event.key.empty();
         }));
}

}  // namespace penstock
