// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "testing/memory_datastore_state.hpp"

namespace penstock::testing::memory {

namespace {

using std::chrono::milliseconds;

class MemorySession final : public Datastore::Session {
 public:
  MemorySession(std::shared_ptr<StoreState> state, std::string group) : state_{std::move(state)}, name_{std::move(group)} {}
  ~MemorySession() override { MemorySession::abandon(); }
  MemorySession(const MemorySession&) = delete;
  MemorySession& operator=(const MemorySession&) = delete;

  Datastore::Admission begin(const Message& message) override {
    const std::lock_guard guard{state_->mutex};
    require_idle();
    require_store();
    const auto [mark, is_new] = group().inbox.try_emplace(identity(message), StoreState::Mark::open);
    if (!is_new) {
      if (mark->second == StoreState::Mark::open) {
        throw TransactionConflict{"the message is in work in another session"};
      }
      return Datastore::Admission::duplicate;
    }
    if (!message.key().empty() && group().keys.contains(message.key())) {
      mark->second = StoreState::Mark::parked;
      insert({.message = message, .behind = true});
      return Datastore::Admission::behind;
    }
    current_ = message;
    start();
    return Datastore::Admission::fresh;
  }

  std::optional<Datastore::Due> begin_due() override {
    const std::lock_guard guard{state_->mutex};
    require_idle();
    require_store();
    for (const auto& [due, sequence] : group().due) {
      if (due > state_->clock.now()) {
        break;
      }
      StoreState::Parked& parked = group().parked.at(sequence);
      if (parked.in_work) {
        continue;
      }
      parked.in_work = true;
      sequence_ = sequence;
      current_ = parked.message;
      start();
      if (parked.attempts.empty()) {
        return Datastore::Due{.message = *current_, .scheduled = parked.scheduled};
      }
      return Datastore::Due{.message = *current_,
                            .attempt = parked.attempts.back().number + 1,
                            .elapsed = std::chrono::duration_cast<milliseconds>(started_ - parked.first),
                            .previous = parked.delay};
    }
    return std::nullopt;
  }

  std::size_t due(std::size_t limit) override {
    const std::lock_guard guard{state_->mutex};
    require_store();
    std::size_t count = 0;
    for (const auto& [due, sequence] : group().due) {
      if (due > state_->clock.now() || count == limit) {
        break;
      }
      count += group().parked.at(sequence).in_work ? 0U : 1U;
    }
    return count;
  }

  pqxx::transaction_base* tx() override { return nullptr; }

  void schedule(std::span<const ScheduledEvent> events) override {
    const std::lock_guard guard{state_->mutex};
    require_store();
    scheduled_.assign(events.begin(), events.end());
  }

  void complete(std::span<const Event> emitted, const Attempt& /*attempt*/) override {
    const std::lock_guard guard{state_->mutex};
    require_open();
    for (const Event& event : emitted) {
      state_->append(event, event.type);
    }
    park_scheduled();
    settle(StoreState::Mark::done);
  }

  void park(const Attempt& attempt, milliseconds delay) override {
    const std::lock_guard guard{state_->mutex};
    require_open();
    const StoreState::TimePoint due = later(delay);
    if (sequence_ != 0) {
      StoreState::Parked& parked = group().parked.at(sequence_);
      group().due.erase({parked.due, sequence_});
      parked.first = parked.attempts.empty() ? started_ : parked.first;
      parked.attempts.push_back(stamped(attempt));
      parked.in_work = false;
      parked.delay = delay;
      parked.due = due;
      group().due.emplace(due, sequence_);
    } else {
      group().inbox[identity(*current_)] = StoreState::Mark::parked;
      // Another session may have parked an earlier message of the key meanwhile.
      const bool behind = !current_->key().empty() && group().keys.contains(current_->key());
      insert({.message = *current_,
              .behind = behind,
              .due = due,
              .attempts = {stamped(attempt)},
              .first = started_,
              .delay = delay});
    }
    close();
  }

  void bury(const Attempt& attempt, const std::string& reason) override {
    const std::lock_guard guard{state_->mutex};
    require_open();
    DeadLetter letter{.group = name_, .message = *current_, .reason = reason};
    if (sequence_ != 0) {
      letter.attempts = group().parked.at(sequence_).attempts;
    }
    letter.attempts.push_back(stamped(attempt));
    record(std::move(letter));
    settle(StoreState::Mark::dead);
  }

  void bury_malformed(const Message& message) override {
    const std::lock_guard guard{state_->mutex};
    if (current_) {
      undo_all();
    }
    require_store();
    const Origin& origin = message.origin;
    if (origin.position >= 0) {
      // Its place is all the identity it has: a redelivery is no second dead letter.
      const StoreState::Identity place{origin.channel + "/" + std::to_string(origin.partition),
                                       std::to_string(origin.position)};
      if (!group().inbox.try_emplace(place, StoreState::Mark::dead).second) {
        return;
      }
    }
    record({.group = name_, .message = message, .reason = message.defect});
  }

  void abandon() noexcept override {
    const std::lock_guard guard{state_->mutex};
    undo_all();
  }

  std::vector<Datastore::Admission> begin_batch(std::span<const Message* const> messages) override {
    const std::lock_guard guard{state_->mutex};
    require_idle();
    require_store();
    std::vector<Datastore::Admission> admissions;
    for (const Message* message : messages) {
      const auto found = group().inbox.find(identity(*message));
      if (found != group().inbox.end() && found->second == StoreState::Mark::open) {
        undo_all();
        throw TransactionConflict{"the message is in work in another session"};
      }
      if (found != group().inbox.end()) {
        admissions.push_back(Datastore::Admission::duplicate);
      } else if (!message->key().empty() && group().keys.contains(message->key())) {
        admissions.push_back(Datastore::Admission::behind);
      } else {
        group().inbox.emplace(identity(*message), StoreState::Mark::open);
        batch_.push_back(*message);
        admissions.push_back(Datastore::Admission::fresh);
      }
    }
    return admissions;
  }

  void complete_batch(std::span<const Datastore::Completed> done) override {
    const std::lock_guard guard{state_->mutex};
    require_store();
    for (const auto& [message, emitted, attempt] : done) {
      for (const Event& event : emitted) {
        state_->append(event, event.type);
      }
      group().inbox[identity(*message)] = StoreState::Mark::done;
    }
    park_scheduled();
    undo_all();  // of what is left
  }

  bool settled(const Message& message) override {
    const std::lock_guard guard{state_->mutex};
    require_store();
    const auto found = group().inbox.find(identity(message));
    return found != group().inbox.end() && found->second != StoreState::Mark::open;
  }

 private:
  static StoreState::Identity identity(const Message& message) { return {message.event.source, message.id()}; }
  StoreState::Group& group() { return state_->groups[name_]; }
  void start() {
    started_ = state_->clock.now();
    started_at_ = format_time(started_);
  }

  [[nodiscard]] StoreState::TimePoint later(milliseconds delay) const {
    const StoreState::TimePoint start = state_->clock.now();
    const auto most = std::chrono::duration_cast<milliseconds>(StoreState::TimePoint::max() - start);
    return start + std::clamp(delay, milliseconds{0}, most);
  }

  Attempt stamped(Attempt attempt) const {
    attempt.at = started_at_;
    return attempt;
  }

  void require_idle() const {
    if (current_ || !batch_.empty()) {
      throw std::logic_error{"MemoryDatastore: the session has a message in work already"};
    }
  }
  void require_open() {
    if (!current_) {
      throw std::logic_error{"MemoryDatastore: the session has no message in work"};
    }
    require_store();
  }
  void require_store() {
    if (state_->away) {
      undo_all();
      throw DatastoreUnavailable{"the memory datastore is away"};
    }
  }

  void park_scheduled() {
    for (ScheduledEvent& each : scheduled_) {
      Message message;
      message.event = std::move(each.event);
      message.wire = encode(message.event, Binding::kafka);
      message.origin.backend = "scheduled";
      insert({.message = std::move(message), .scheduled = true, .due = later(each.delay)});
    }
    scheduled_.clear();
  }

  void insert(StoreState::Parked parked) {
    const std::uint64_t sequence = state_->next_sequence++;
    if (!parked.message.key().empty() && !parked.scheduled) {
      group().keys[parked.message.key()].insert(sequence);
    }
    if (!parked.behind) {
      group().due.emplace(parked.due, sequence);
    }
    group().parked.emplace(sequence, std::move(parked));
  }

  void record(DeadLetter letter) {
    state_->append(to_event(letter), dead_letters_of(letter.message.origin.channel));
    state_->letters.push_back(std::move(letter));
  }

  /// The message is decided: it waits no more, and the next of its key is due.
  void settle(StoreState::Mark mark) {
    group().inbox[identity(*current_)] = mark;
    if (sequence_ != 0) {
      const auto parked = group().parked.find(sequence_);
      const bool scheduled = parked->second.scheduled;
      group().due.erase({parked->second.due, sequence_});
      group().parked.erase(parked);
      if (!scheduled) {
        release_successor(current_->key());
      }
    }
    close();
  }

  void release_successor(const std::string& key) {
    const auto place = group().keys.find(key);
    if (place == group().keys.end()) {
      return;
    }
    place->second.erase(sequence_);
    if (place->second.empty()) {
      group().keys.erase(place);
      return;
    }
    const std::uint64_t next = *place->second.begin();
    StoreState::Parked& successor = group().parked.at(next);
    successor.behind = false;
    successor.due = state_->clock.now();
    group().due.emplace(successor.due, next);
  }

  void undo_all() noexcept {
    scheduled_.clear();
    for (const Message& message : batch_) {
      if (const auto mark = group().inbox.find(identity(message)); mark->second == StoreState::Mark::open) {
        group().inbox.erase(mark);
      }
    }
    batch_.clear();
    if (!current_) {
      return;
    }
    if (sequence_ != 0) {
      group().parked.at(sequence_).in_work = false;
    } else {
      group().inbox.erase(identity(*current_));
    }
    close();
  }

  void close() noexcept {
    current_.reset();
    scheduled_.clear();
    sequence_ = 0;
  }

  std::shared_ptr<StoreState> state_;
  std::string name_;
  std::optional<Message> current_;
  std::vector<Message> batch_;
  std::vector<ScheduledEvent> scheduled_;
  std::uint64_t sequence_ = 0;  ///< of the parked message in work; 0: a fresh one
  StoreState::TimePoint started_{};
  std::string started_at_;
};

}  // namespace

std::unique_ptr<Datastore::Session> make_session(std::shared_ptr<StoreState> state, const std::string& group) {
  return std::make_unique<MemorySession>(std::move(state), group);
}

}  // namespace penstock::testing::memory
