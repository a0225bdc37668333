// SPDX-License-Identifier: Apache-2.0
#include "core/relay_pending.hpp"

#include <algorithm>
#include <stdexcept>

namespace penstock {
namespace {

constexpr std::size_t kSpare = 4096;      // places kept for reuse
constexpr std::size_t kIdleKeys = 16384;  // names of keys kept though they have no events

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

RelayPending::Place& RelayPending::place(std::uint64_t sequence) {
  if (sequence < first_ || sequence - first_ >= places_.size() || !places_[sequence - first_]) {
    throw std::logic_error("no such event is pending");
  }
  return *places_[sequence - first_];
}

RelayPending::Key& RelayPending::key_of(const std::string& key) {
  if (keys_.size() >= kIdleKeys + 2 * size_) {
    std::erase_if(keys_, [](const auto& entry) { return entry.second.first == nullptr; });
  }
  return keys_[key];
}

void RelayPending::add(EventLog::Entry entry) {
  if (entry.sequence != first_ + places_.size()) {
    throw std::logic_error("the log's sequences have a gap");
  }
  std::unique_ptr<Place> made;
  if (spare_.empty()) {
    made = std::make_unique<Place>();
  } else {
    made = std::move(spare_.back());
    spare_.pop_back();
  }
  Place& place = *made;
  const int failures = entry.failures;
  place.item = {.entry = std::move(entry), .failures = failures};
  place.item.bytes = footprint(place.item.entry.event);
  place.state = State::waiting;
  place.key = nullptr;
  place.before = nullptr;
  place.behind = nullptr;
  bytes_ += place.item.bytes;
  places_.push_back(std::move(made));
  ++size_;
  if (place.item.entry.event.key.empty()) {
    enter(place, State::ready);
    return;
  }
  Key& key = key_of(place.item.entry.event.key);
  place.key = &key;
  place.before = key.last;
  (key.last != nullptr ? key.last->behind : key.first) = &place;
  key.last = &place;
  key.fresh += place.item.entry.returned ? 0U : 1U;
  promote(&key);
}

void RelayPending::enter(Place& place, State state) {
  const std::uint64_t sequence = place.item.entry.sequence;
  const std::size_t keyed = place.key != nullptr ? 1 : 0;
  const auto fly = [&](bool begin) {
    if (place.key != nullptr) {
      place.key->flying += begin ? 1U : -std::size_t{1};
    }
  };
  switch (place.state) {
    case State::ready: --ready_count_; break;
    case State::flying: fly(false); break;
    case State::fenced: fenced_.erase({place.fenced_until, sequence}); break;
    case State::held: held_keys_ -= keyed; break;
    case State::waiting:
    case State::withheld: break;
  }
  place.state = state;
  switch (state) {
    case State::ready:
      ++ready_count_;
      ready_.push(sequence);
      break;
    case State::flying: fly(true); break;
    case State::fenced: fenced_.emplace(place.fenced_until, sequence); break;
    case State::held: held_keys_ += keyed; break;
    case State::waiting:
    case State::withheld: break;
  }
}

/// The first of the key may go when nothing of the key is on its way.
void RelayPending::promote(Key* key) {
  if (key != nullptr && key->flying == 0 && key->first != nullptr && key->first->state == State::waiting) {
    enter(*key->first, State::ready);
  }
}

std::vector<std::uint64_t> RelayPending::take(std::size_t max) {
  std::vector<std::uint64_t> taken;
  bool sorted = true;
  const auto fly = [&](Place& place) {
    enter(place, State::flying);
    sorted = sorted && (taken.empty() || taken.back() < place.item.entry.sequence);
    taken.push_back(place.item.entry.sequence);
  };
  while (taken.size() < max && ready_count_ > 0) {
    const std::uint64_t sequence = ready_.top();
    ready_.pop();
    if (sequence < first_ || !places_[sequence - first_] || places_[sequence - first_]->state != State::ready) {
      continue;
    }
    Place* place = places_[sequence - first_].get();
    fly(*place);
    if (!chained_ || place->item.failures > 0 || place->item.rejections > 0) {
      continue;
    }
    for (place = place->behind; place != nullptr && place->state == State::waiting && taken.size() < max;
         place = place->behind) {
      fly(*place);
    }
  }
  if (!sorted) {
    std::sort(taken.begin(), taken.end());
  }
  return taken;
}

std::vector<std::uint64_t> RelayPending::take_also_fenced(std::size_t max, std::uint64_t after) {
  std::vector<std::uint64_t> all;
  for (; !ready_.empty(); ready_.pop()) {
    const std::uint64_t sequence = ready_.top();
    if (sequence >= first_ && places_[sequence - first_] && places_[sequence - first_]->state == State::ready &&
        (all.empty() || all.back() != sequence)) {
      all.push_back(sequence);
    }
  }
  for (const std::uint64_t sequence : all) {
    ready_.push(sequence);
  }
  for (const auto& [until, sequence] : fenced_) {
    all.push_back(sequence);
  }
  std::sort(all.begin(), all.end());
  std::rotate(all.begin(), std::upper_bound(all.begin(), all.end(), after), all.end());
  all.resize(std::min(all.size(), max));
  std::sort(all.begin(), all.end());
  for (const std::uint64_t sequence : all) {
    enter(place(sequence), State::flying);
  }
  return all;
}

Event RelayPending::settle(std::uint64_t sequence) {
  Place& settled = place(sequence);
  const bool fresh = settled.state != State::withheld && !settled.item.entry.returned;
  enter(settled, State::waiting);
  bytes_ -= settled.item.bytes;
  --size_;
  if (Key* key = settled.key; key != nullptr) {
    (settled.before != nullptr ? settled.before->behind : key->first) = settled.behind;
    (settled.behind != nullptr ? settled.behind->before : key->last) = settled.before;
    key->fresh -= fresh ? 1U : 0U;
    promote(key);
  }
  Event event = std::move(settled.item.entry.event);
  auto& slot = places_[sequence - first_];
  if (spare_.size() < kSpare) {
    slot->item = {};
    spare_.push_back(std::move(slot));
  }
  slot.reset();
  while (!places_.empty() && !places_.front()) {
    places_.pop_front();
    ++first_;
  }
  return event;
}

void RelayPending::fence(std::uint64_t sequence, Clock::TimePoint until) {
  Place& fenced = place(sequence);
  enter(fenced, State::waiting);
  fenced.fenced_until = until;
  enter(fenced, State::fenced);
}

void RelayPending::put_back(std::uint64_t sequence) {
  Place& back = place(sequence);
  enter(back, State::waiting);
  promote(back.key);
}

void RelayPending::hold(std::uint64_t sequence) { enter(place(sequence), State::held); }

bool RelayPending::withhold(std::uint64_t sequence) {
  Place& withheld = place(sequence);
  if (withheld.state == State::withheld || withheld.state == State::held) {
    return false;
  }
  enter(withheld, State::withheld);
  if (withheld.key != nullptr && !withheld.item.entry.returned) {
    --withheld.key->fresh;
  }
  return true;
}

bool RelayPending::any_fresh(const std::string& key) const {
  const auto found = keys_.find(key);
  return found != keys_.end() && found->second.fresh > 0;
}

std::vector<std::uint64_t> RelayPending::of_key(const std::string& key) const {
  std::vector<std::uint64_t> sequences;
  if (const auto found = keys_.find(key); found != keys_.end()) {
    for (const Place* place = found->second.first; place != nullptr; place = place->behind) {
      sequences.push_back(place->item.entry.sequence);
    }
  }
  return sequences;
}

void RelayPending::forgive() {
  for (const auto& place : places_) {
    if (place) {
      place->item.rejections = 0;
    }
  }
}

void RelayPending::release_due(Clock::TimePoint now) {
  while (!fenced_.empty() && fenced_.begin()->first <= now) {
    enter(place(fenced_.begin()->second), State::ready);
  }
}

void RelayPending::release_all() { release_due(Clock::TimePoint::max()); }

std::optional<Clock::TimePoint> RelayPending::next_due() const {
  return fenced_.empty() ? std::nullopt : std::optional{fenced_.begin()->first};
}

std::vector<std::uint64_t> RelayPending::fenced() const {
  std::vector<std::uint64_t> sequences;
  sequences.reserve(fenced_.size());
  for (const auto& [until, sequence] : fenced_) {
    sequences.push_back(sequence);
  }
  return sequences;
}

std::size_t RelayPending::fenced_keys() const {
  return held_keys_ + static_cast<std::size_t>(std::count_if(fenced_.begin(), fenced_.end(), [this](const auto& fence) {
           return places_[fence.second - first_]->key != nullptr;
         }));
}

}  // namespace penstock
