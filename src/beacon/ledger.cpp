// SPDX-License-Identifier: Apache-2.0
#include "beacon/ledger.hpp"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

namespace penstock::beacon {

using Status = Outcome::Status;

namespace {

constexpr std::size_t kMostPlacedBytes = std::size_t{16} << 20U;

void tell(const std::vector<std::shared_ptr<Ledger::Batch>>& complete) {
  for (const auto& batch : complete) batch->promise.set_value(std::move(batch->outcomes));
}

}  // namespace

std::shared_ptr<Ledger::Batch> Ledger::enter(std::size_t count, std::shared_ptr<Window> window, Instant deadline,
                                             std::vector<std::uint32_t> partitions) {
  auto batch = std::make_shared<Batch>();
  batch->deadline = deadline;
  batch->window = std::move(window);
  batch->partitions = std::move(partitions);
  batch->states.assign(count, State::waiting);
  batch->outcomes.resize(count);
  batch->open = count;
  if (count == 0) {
    batch->promise.set_value({});
    return batch;
  }
  const std::lock_guard lock{mutex_};
  batch->first = next_;
  next_ += count;
  batches_.emplace(batch->first, batch);
  if (batches_.size() == 1) entered_.notify_all();
  return batch;
}

Ledger::Place Ledger::take_place(Batch& batch, std::size_t index, std::size_t bytes, const std::function<bool()>& usable) {
  std::unique_lock lock{mutex_};
  while (true) {
    if (!usable()) return Place::unusable;
    if (batch.states[index] != State::waiting) return Place::late;
    if (batch.window->in_flight < batch.window->limit && (placed_bytes_ == 0 || placed_bytes_ + bytes <= kMostPlacedBytes))
      break;
    if (SteadyClock::now() >= batch.deadline) return Place::late;
    ++waiting_;
    room_.wait_until(lock, batch.deadline);
    --waiting_;
  }
  batch.states[index] = State::placed;
  ++batch.window->in_flight;
  placed_bytes_ += bytes;
  return Place::taken;
}

std::size_t Ledger::depart(std::span<Letter> letters) {
  std::unique_lock lock{mutex_};
  std::size_t count = 0;
  for (Letter& letter : letters) {
    Batch& batch = *letter.batch;
    const auto placed = [&] { return batch.states[letter.index] == State::placed; };
    const auto barred = [&] { return placed() && refusals_.words_of(batch.subject(letter.index)) != nullptr; };
    if (count > 0 && barred()) break;  // the count takes those before it, which are not on their way yet
    room_.wait(lock, [&] { return !barred(); });
    if (placed()) {
      batch.states[letter.index] = State::sent;
      refusals_.sent(batch.subject(letter.index));
    } else {
      letter.batch.reset();
    }
    placed_bytes_ -= letter.bytes;
    ++count;
  }
  if (waiting_ > 0 && placed_bytes_ <= kMostPlacedBytes / 2) room_.notify_all();
  return count;
}

Ledger::Batches::iterator Ledger::find(std::uint64_t token) {
  auto found = batches_.upper_bound(token);
  if (found == batches_.begin()) return batches_.end();
  --found;
  return token - found->first < found->second->states.size() ? found : batches_.end();
}

bool Ledger::settle_locked(Batch& batch, std::size_t index, Outcome outcome) {
  auto& state = batch.states[index];
  if (state == State::settled) return false;
  if (state != State::waiting) {
    --batch.window->in_flight;
    if (state == State::unrouted) --unrouted_;
  }
  state = State::settled;
  batch.outcomes[index] = std::move(outcome);
  return --batch.open == 0;
}

void Ledger::answered_locked(const std::string& subject, std::vector<std::shared_ptr<Batch>>& complete) {
  if (refusals_.answered(subject)) conclude_locked(subject, complete);
}

void Ledger::conclude_locked(const std::string& subject, std::vector<std::shared_ptr<Batch>>& complete) {
  const Outcome outcome{Status::rejected, refusals_.conclude(subject) + "; allow the user to publish to it"};
  for (auto each = batches_.begin(); each != batches_.end();) {
    Batch& batch = *each->second;
    bool done = false;
    for (std::size_t i = 0; i < batch.states.size(); ++i) {
      if (batch.states[i] == State::sent && batch.subject(i) == subject) done = settle_locked(batch, i, outcome) || done;
    }
    if (done) complete.push_back(each->second);
    each = done ? batches_.erase(each) : std::next(each);
  }
  std::erase_if(late_, [&](const auto& entry) { return entry.second == subject; });
  room_.notify_all();
}

void Ledger::settle(std::uint64_t token, Outcome outcome) {
  std::vector<std::shared_ptr<Batch>> complete;
  bool room = false;
  {
    const std::lock_guard lock{mutex_};
    if (const auto late = late_.find(token); late != late_.end()) {  // answered after its outcome was decided
      const std::string subject = std::move(late->second);
      late_.erase(late);
      answered_locked(subject, complete);
    } else if (const auto found = find(token); found != batches_.end()) {
      const std::shared_ptr<Batch> batch = found->second;
      const std::size_t index = token - found->first;
      const bool answered = batch->states[index] == State::sent;
      if (settle_locked(*batch, index, std::move(outcome))) {
        complete.push_back(batch);
        batches_.erase(found);
      }
      // A quarter of the window at a time: waking a sender for each place would cost more than the place is worth.
      room = waiting_ > 0 && batch->window->in_flight <= batch->window->limit - (batch->window->limit + 3) / 4;
      if (answered) answered_locked(batch->subject(index), complete);
    }
  }
  if (room) room_.notify_all();
  tell(complete);
}

std::uint64_t Ledger::connection() const {
  const std::lock_guard lock{mutex_};
  return refusals_.connection();
}

void Ledger::deny(std::uint64_t connection, const std::string& subject, const std::string& words) {
  std::vector<std::shared_ptr<Batch>> complete;
  {
    const std::lock_guard lock{mutex_};
    if (refusals_.refused(connection, subject, words, SteadyClock::now())) conclude_locked(subject, complete);
  }
  tell(complete);
}

bool Ledger::stuck(Instant now) const {
  const std::lock_guard lock{mutex_};
  return refusals_.stuck(now);
}

template <class Choose>
void Ledger::settle_where(const Choose& choose) {
  std::vector<std::shared_ptr<Batch>> complete;
  {
    const std::lock_guard lock{mutex_};
    for (auto each = batches_.begin(); each != batches_.end();) {
      auto& batch = *each->second;
      bool done = false;
      for (std::size_t i = 0; i < batch.states.size(); ++i) {
        if (batch.states[i] == State::settled) continue;
        if (std::optional<Outcome> outcome = choose(batch, i)) done = settle_locked(batch, i, std::move(*outcome)) || done;
      }
      if (done) complete.push_back(each->second);
      each = done ? batches_.erase(each) : std::next(each);
    }
  }
  room_.notify_all();
  tell(complete);
}

void Ledger::settle_waiting(Batch& batch, std::size_t index, const Outcome& outcome) {
  settle_where([&](const Batch& each, std::size_t i) -> std::optional<Outcome> {
    if (&each != &batch || i < index || each.states[i] != State::waiting) return std::nullopt;
    return outcome;
  });
}

void Ledger::settle_sent(const Outcome& outcome) {
  {
    const std::lock_guard lock{mutex_};
    refusals_.next_connection();
    late_.clear();
  }
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (batch.states[i] == State::waiting) return std::nullopt;
    if (batch.states[i] == State::placed) return Outcome{Status::retryable, "not sent: " + outcome.error};
    if (batch.states[i] == State::unrouted) return Outcome{Status::retryable, "no stream took it: " + outcome.error};
    return outcome;
  });
}

void Ledger::settle_all(const Window& window) {
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (batch.window.get() != &window) return std::nullopt;
    if (batch.states[i] == State::sent) {
      late_.emplace(batch.first + i, batch.subject(i));
      return Outcome{Status::unknown, "the publisher ended before the server answered"};
    }
    return Outcome{Status::retryable, "not sent: the publisher ended"};
  });
}

void Ledger::sweep(Instant now) {
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (now < batch.deadline) return std::nullopt;
    if (batch.states[i] == State::waiting || batch.states[i] == State::placed) {
      return Outcome{Status::retryable, "not sent within the timeout"};
    }
    if (batch.states[i] == State::unrouted)
      return Outcome{Status::retryable, "no stream takes it, and JetStream does not say why"};
    late_.emplace(batch.first + i, batch.subject(i));
    const std::string* const refusal = refusals_.words_of(batch.subject(i));
    return Outcome{Status::unknown,
                   "no acknowledgement within the timeout" + (refusal != nullptr ? "; the server says: " + *refusal : "")};
  });
}

void Ledger::mark_unrouted(std::uint64_t token) {
  std::vector<std::shared_ptr<Batch>> complete;
  {
    const std::lock_guard lock{mutex_};
    std::string subject;
    if (const auto late = late_.find(token); late != late_.end()) {
      subject = std::move(late->second);
      late_.erase(late);
    } else {
      const auto found = find(token);
      if (found == batches_.end()) return;
      const std::size_t index = token - found->first;
      auto& state = found->second->states[index];
      if (state != State::sent) return;
      state = State::unrouted;
      ++unrouted_;
      subject = found->second->subject(index);
    }
    answered_locked(subject, complete);
  }
  tell(complete);
}

std::vector<Ledger::Unrouted> Ledger::unrouted() const {
  std::vector<Unrouted> result;
  const std::lock_guard lock{mutex_};
  if (unrouted_ == 0) return result;
  for (const auto& [first, batch] : batches_) {
    for (std::size_t i = 0; i < batch->states.size(); ++i) {
      if (batch->states[i] == State::unrouted) result.push_back({first + i, batch->window, &batch->subject(i)});
    }
  }
  return result;
}

void Ledger::wait_to_sweep(milliseconds tick, const std::stop_token& stop) {
  std::unique_lock lock{mutex_};
  if (entered_.wait(lock, stop, [this] { return !batches_.empty(); })) {
    entered_.wait_for(lock, stop, tick, [] { return false; });
  }
}

bool Ledger::idle() const {
  const std::lock_guard lock{mutex_};
  return batches_.empty();
}

void Ledger::wake() {
  { const std::lock_guard lock{mutex_}; }  // whoever is about to wait waits by now
  room_.notify_all();
}

}  // namespace penstock::beacon
