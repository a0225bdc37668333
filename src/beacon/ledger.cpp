// SPDX-License-Identifier: Apache-2.0
#include "beacon/ledger.hpp"

#include <iterator>
#include <optional>
#include <utility>

namespace penstock::beacon {

using Status = Outcome::Status;

std::shared_ptr<Ledger::Batch> Ledger::enter(std::size_t count, std::shared_ptr<Window> window, Instant deadline) {
  auto batch = std::make_shared<Batch>();
  batch->deadline = deadline;
  batch->window = std::move(window);
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
  return batch;
}

Ledger::Place Ledger::take_place(Batch& batch, std::size_t index, const std::function<bool()>& usable) {
  std::unique_lock lock{mutex_};
  while (true) {
    if (!usable()) return Place::unusable;
    if (batch.states[index] != State::waiting) return Place::late;
    if (batch.window->in_flight < batch.window->limit) break;
    if (SteadyClock::now() >= batch.deadline) return Place::late;
    ++waiting_;
    room_.wait_until(lock, batch.deadline);
    --waiting_;
  }
  batch.states[index] = State::sent;
  ++batch.window->in_flight;
  return Place::taken;
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

void Ledger::settle(std::uint64_t token, Outcome outcome) {
  std::shared_ptr<Batch> complete;
  bool room = false;
  {
    const std::lock_guard lock{mutex_};
    const auto found = find(token);
    if (found == batches_.end()) return;  // answered after its outcome was decided
    auto& batch = *found->second;
    const bool last = settle_locked(batch, token - found->first, std::move(outcome));
    // A quarter of the window at a time: waking a sender for each place would cost more than the place is worth.
    room = waiting_ > 0 && batch.window->in_flight <= batch.window->limit - (batch.window->limit + 3) / 4;
    if (last) {
      complete = found->second;
      batches_.erase(found);
    }
  }
  if (room) room_.notify_all();
  if (complete) complete->promise.set_value(std::move(complete->outcomes));
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
  for (const auto& batch : complete) batch->promise.set_value(std::move(batch->outcomes));
}

void Ledger::settle_waiting(Batch& batch, std::size_t index, const Outcome& outcome) {
  settle_where([&](const Batch& each, std::size_t i) -> std::optional<Outcome> {
    if (&each != &batch || i < index || each.states[i] != State::waiting) return std::nullopt;
    return outcome;
  });
}

void Ledger::settle_sent(const Outcome& outcome) {
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (batch.states[i] == State::waiting) return std::nullopt;
    if (batch.states[i] == State::unrouted) return Outcome{Status::retryable, "no stream took it: " + outcome.error};
    return outcome;
  });
}

void Ledger::settle_all(const Window& window) {
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (batch.window.get() != &window) return std::nullopt;
    if (batch.states[i] == State::sent) return Outcome{Status::unknown, "the publisher ended before the server answered"};
    return Outcome{Status::retryable, "not sent: the publisher ended"};
  });
}

void Ledger::sweep(Instant now, const std::map<std::string, std::string>& denied) {
  settle_where([&](const Batch& batch, std::size_t i) -> std::optional<Outcome> {
    if (now < batch.deadline) return std::nullopt;
    if (batch.states[i] == State::waiting) return Outcome{Status::retryable, "not sent within the timeout"};
    if (batch.states[i] == State::unrouted)
      return Outcome{Status::retryable, "no stream takes it, and JetStream does not say why"};
    if (const auto found = denied.find(batch.window->subject); found != denied.end()) {
      return Outcome{Status::rejected, found->second + "; allow the user to publish to it"};
    }
    return Outcome{Status::unknown, "no acknowledgement within the timeout"};
  });
}

void Ledger::mark_unrouted(std::uint64_t token) {
  const std::lock_guard lock{mutex_};
  const auto found = find(token);
  if (found == batches_.end()) return;
  auto& state = found->second->states[token - found->first];
  if (state != State::sent) return;
  state = State::unrouted;
  ++unrouted_;
}

std::vector<std::pair<std::uint64_t, std::shared_ptr<Window>>> Ledger::unrouted() const {
  std::vector<std::pair<std::uint64_t, std::shared_ptr<Window>>> result;
  const std::lock_guard lock{mutex_};
  if (unrouted_ == 0) return result;
  for (const auto& [first, batch] : batches_) {
    for (std::size_t i = 0; i < batch->states.size(); ++i) {
      if (batch->states[i] == State::unrouted) result.emplace_back(first + i, batch->window);
    }
  }
  return result;
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
