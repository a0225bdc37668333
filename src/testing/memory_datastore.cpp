// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/memory_datastore.hpp"

#include <utility>

#include "penstock/uuid.hpp"
#include "testing/memory_datastore_state.hpp"

namespace penstock::testing {

namespace memory {

void StoreState::append(Event event, std::string route) {
  const auto now = clock.now();
  if (event.time.empty()) {
    event.time = format_time(now);
  }
  log.push_back({std::move(event), std::move(route), now});
  appended.notify_all();
}

}  // namespace memory

class MemoryDatastore::Impl : public memory::StoreState {
  using StoreState::StoreState;
};

MemoryDatastore::MemoryDatastore(Clock& clock) : impl_{std::make_shared<Impl>(clock)} {}

MemoryDatastore::~MemoryDatastore() = default;

void MemoryDatastore::append(Event event) {
  if (event.id.empty()) {
    event.id = uuid7();
  }
  if (event.source.empty()) {
    event.source = "/penstock/memory";
  }
  if (event.content_type.empty() && event.data) {
    event.content_type = "application/json";
  }
  validate(event);
  std::string route = event.type;
  const std::lock_guard guard{impl_->mutex};
  impl_->append(std::move(event), std::move(route));
}

std::vector<Event> MemoryDatastore::emitted() const {
  const std::lock_guard guard{impl_->mutex};
  std::vector<Event> events;
  for (const auto& [event, route, at] : impl_->log) {
    if (route == event.type) {
      events.push_back(event);
    }
  }
  return events;
}

std::vector<DeadLetter> MemoryDatastore::dead_letters() const {
  const std::lock_guard guard{impl_->mutex};
  return impl_->letters;
}

void MemoryDatastore::discard_dead_letters(const std::string& key) {
  const std::lock_guard guard{impl_->mutex};
  std::erase_if(impl_->letters, [&key](const DeadLetter& letter) { return letter.message.event.key == key; });
  for (auto& [name, held] : impl_->held) {
    held.dead.erase(key);
  }
}

std::size_t MemoryDatastore::parked(const std::string& group) const {
  const std::lock_guard guard{impl_->mutex};
  const auto found = impl_->groups.find(group);
  return found == impl_->groups.end() ? 0 : found->second.parked.size();
}

void MemoryDatastore::set_away(bool away) {
  const std::lock_guard guard{impl_->mutex};
  impl_->away = away;
}

std::unique_ptr<Datastore::Session> MemoryDatastore::session(const std::string& group) {
  return memory::make_session(impl_, group);
}

std::unique_ptr<EventLog::Cursor> MemoryDatastore::cursor(const std::string& name, const std::vector<std::string>& patterns) {
  return memory::make_cursor(impl_, name, patterns);
}

}  // namespace penstock::testing
