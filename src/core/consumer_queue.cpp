// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_queue.hpp"

#include <utility>

namespace penstock::consumer {

namespace {

// Lineups of short names are kept for the next entry of their key, until so many, and as many as there are entries, are idle.
constexpr std::size_t most_idle = 4'096;
constexpr std::size_t longest_idle = 128;

/// What an entry is serialized by: its key, or else its identity. Empty for a delivery that is no event.
void find_order(const Message& message, std::string& order) {
  order.clear();
  if (!message.defect.empty()) {
    return;
  }
  if (!message.key().empty()) {
    order += 'k';
    order += message.key();
    return;
  }
  order += 'i';
  order += message.event.source;
  order += '\0';
  order += message.id();
}

/// About what it takes in memory: the bytes it came in, and the event that was read from them.
std::size_t bytes_of(const Message& message) {
  std::size_t bytes = message.wire.payload ? message.wire.payload->size() : 0;
  bytes += message.data().size();
  for (const auto& header : message.wire.headers) {
    bytes += 2 * (header.name.size() + (header.value ? header.value->size() : 0));
  }
  return sizeof(Entry) + bytes;
}

}  // namespace

void WorkQueue::prepare(Entry& entry) {
  entry.bytes = bytes_of(entry.message);
  find_order(entry.message, entry.order);
}

/// Making and deleting one for each message would cost more than all else here.
Lineup& WorkQueue::lineup_of(const Entry& entry) {
  if (idle_ > most_idle && idle_ > in_flight_.size()) {
    std::erase_if(lineups_, [](const auto& each) { return each.second.held == 0; });
    idle_ = 0;
  }
  const auto [place, is_new] = lineups_.try_emplace(entry.order);
  Lineup& lineup = place->second;
  lineup.name = &place->first;
  idle_ -= !is_new && lineup.held == 0 ? 1U : 0U;
  return lineup;
}

void WorkQueue::push(EntryPtr entry) {
  entry->number = ++arrived_;
  entry->place = in_flight_.size();
  bytes_ += entry->bytes;
  in_flight_.push_back(entry);
  if (entry->order.empty()) {
    ready_.push_back(std::move(entry));
    return;
  }
  Lineup& lineup = lineup_of(*entry);
  entry->lineup = &lineup;
  if (lineup.held == 0) {
    lineup.held = 1;
    ready_.push_back(std::move(entry));
    return;
  }
  Entry* const behind = lineup.last;
  lineup.last = entry.get();
  (behind == nullptr ? lineup.first : behind->next) = std::move(entry);
}

void WorkQueue::clear() {
  for (const EntryPtr& entry : in_flight_) {
    entry->next.reset();
  }
  ready_.clear();
  delayed_.clear();
  lineups_.clear();
  idle_ = 0;
  in_flight_.clear();
  taken_ = 0;
  bytes_ = 0;
}

EntryPtr WorkQueue::next_of(Lineup& lineup) {
  EntryPtr entry = std::move(lineup.first);
  lineup.first = std::move(entry->next);
  if (lineup.first == nullptr) {
    lineup.last = nullptr;
  }
  return entry;
}

void WorkQueue::take(std::size_t most, std::vector<EntryPtr>& entries) {
  while (entries.size() < most && !ready_.empty()) {
    Lineup* const lineup = ready_.front()->lineup;
    entries.push_back(std::move(ready_.front()));
    ready_.pop_front();
    ++taken_;
    while (lineup != nullptr && entries.size() < most && lineup->first != nullptr) {
      entries.push_back(next_of(*lineup));
      ++lineup->held;
      ++taken_;
    }
  }
}

/// One of the entries that it held is not held any more. After the last of them, the next is ready.
void WorkQueue::release(Lineup& lineup, bool first) {
  if (--lineup.held > 0) {
    return;
  }
  if (lineup.first == nullptr) {
    if (lineup.name->size() > longest_idle) {
      lineups_.erase(lineups_.find(*lineup.name));
    } else {
      ++idle_;
    }
    return;
  }
  lineup.held = 1;
  if (first) {
    ready_.push_front(next_of(lineup));
  } else {
    ready_.push_back(next_of(lineup));
  }
}

void WorkQueue::finish(const EntryPtr& entry) {
  --taken_;
  bytes_ -= entry->bytes;
  const std::size_t place = entry->place;
  if (place + 1 != in_flight_.size()) {
    in_flight_[place] = std::move(in_flight_.back());
    in_flight_[place]->place = place;
  }
  in_flight_.pop_back();
  if (entry->lineup != nullptr) {
    release(*std::exchange(entry->lineup, nullptr), false);
  }
}

void WorkQueue::put_back(const EntryPtr& entry) {
  --taken_;
  if (entry->lineup == nullptr) {
    ready_.push_front(entry);
    return;
  }
  Lineup& lineup = *entry->lineup;
  EntryPtr* place = &lineup.first;
  while (*place != nullptr && (*place)->number < entry->number) {
    place = &(*place)->next;
  }
  entry->next = std::move(*place);
  *place = entry;
  if (entry->next == nullptr) {
    lineup.last = entry.get();
  }
  release(lineup, true);
}

void WorkQueue::delay(EntryPtr entry, TimePoint until) {
  --taken_;
  delayed_.emplace(until, std::move(entry));
}

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

}  // namespace penstock::consumer
