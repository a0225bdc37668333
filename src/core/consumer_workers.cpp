// SPDX-License-Identifier: Apache-2.0
// The part of Engine that has to do with workers: how many there are, what each takes, and what becomes of it.
#include <algorithm>
#include <chrono>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "core/consumer_batches.hpp"
#include "core/consumer_engine.hpp"
#include "core/consumer_gate.hpp"

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

constexpr auto hand_time = 200us;  ///< what a worker takes at a time is to last
constexpr std::size_t largest_hand = 128;
constexpr auto held_up = 2ms;  ///< a worker that has come no further is held up
constexpr milliseconds longest_wait = 1h;

}  // namespace

void Engine::scale() {
  if (stop_.stop_requested() || suspect_) {
    return;
  }
  Scaling::Load load{.now = now(),
                     .waiting = queue_.waiting() + due_,
                     .full = room() < quarter(),
                     .workers = running_,
                     .busy = busy_,
                     .worked = worked_,
                     .handler_time = handler_time_};
  Clock::Duration running{};
  for (const Worker& worker : workers_) {
    running += worker.busy ? load.now - worker.since : Clock::Duration{};
  }
  load.worked += running;
  if (busy_ > 0 && handler_time_.count() > 0 && share() == 1) {
    load.handler_time = std::max(load.handler_time, running / busy_);
  }
  wanted_ = scaling_.wanted(load);
  if (wanted_ < running_) {
    work_changed_.notify_all();
  }
  grow(wanted_);
}

void Engine::grow(int workers) {
  while (running_ < workers) {
    Worker& worker = workers_.emplace_back(options_.handler_timeout, [this] { return now(); });
    try {
      worker.thread = std::jthread{[this, &worker] { work(worker, stop_); }};
    } catch (const std::system_error& error) {
      workers_.pop_back();
      shared_.journal.log(LogLevel::error, std::string{"no thread for another worker: "} + error.what());
      return;
    }
    ++running_;
  }
}

void Engine::expire() {
  if (options_.handler_timeout.count() == 0) {
    return;
  }
  const TimePoint time = now();
  std::vector<Leash*> leashes;
  {
    const std::lock_guard guard{mutex_};
    for (Worker& worker : workers_) {
      leashes.push_back(&worker.leash);
    }
  }
  for (Leash* leash : leashes) {  // outside the mutex, as it calls the handlers' callbacks; this thread alone removes workers
    leash->expire(time);
  }
}

void Engine::reap() {
  std::list<Worker> ended;
  const std::lock_guard guard{mutex_};
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    const auto next = std::next(worker);
    if (worker->ended) {
      ended.splice(ended.end(), workers_, worker);
    }
    worker = next;
  }
}

void Engine::work(Worker& self, const std::stop_token& stop) {
  {
    std::unique_ptr<Processor> processor;
    while (next_job(self, stop)) {
      std::string away;
      try {
        if (!processor) {
          processor = make_processor_(self.leash);
        }
        work_off(self, *processor, stop);
        continue;
      } catch (const std::exception& error) {
        away = error.what();
      }
      const std::lock_guard guard{mutex_};
      const Fate fate{.kind = Fate::Kind::store_away, .error = away};
      if (self.hand.entries.empty()) {
        conclude_due(self, fate);
        continue;
      }
      self.hand.next = self.hand.entries.size();
      std::vector<Concluded> all;
      for (std::size_t i = self.hand.taken.exchange(self.hand.entries.size()); i < self.hand.entries.size(); ++i) {
        all.push_back({self.hand.entries[i], fate});
      }
      conclude(self, all);
    }
  }
  const std::lock_guard guard{mutex_};
  self.ended = true;
}

std::size_t Engine::share() const {
  if (shared_.gate.held()) {
    return 1;
  }
  const std::size_t fair = queue_.waiting() / static_cast<std::size_t>(std::max(running_, 1)) + 1;
  if (batched_) {
    return std::min(options_.batch, fair);
  }
  if (virtual_time_ || handler_time_.count() <= 0) {
    return 1;
  }
  const auto many = static_cast<std::size_t>(std::chrono::duration_cast<Clock::Duration>(hand_time) / handler_time_);
  return std::min(std::clamp<std::size_t>(many, 1, largest_hand), fair);
}

bool Engine::pick(Worker& self, TimePoint now) {
  if (suspect_ || now < self.not_before || !shared_.gate.admits(busy_)) {
    return false;
  }
  queue_.ripen(now);
  self.hand.entries.clear();
  // Parked messages and new ones take turns, so that neither keeps the other waiting.
  if (due_ > 0 && (self.prefers_due || queue_.ready() == 0)) {
    --due_;
    self.prefers_due = false;
    return true;
  }
  queue_.take(share(), self.hand.entries);
  if (self.hand.entries.empty()) {
    return false;
  }
  self.hand.fates.assign(self.hand.entries.size(), Fate{});
  self.hand.taken = 0;
  self.hand.done = 0;
  self.hand.next = 0;
  self.prefers_due = true;
  return true;
}

bool Engine::next_job(Worker& self, const std::stop_token& stop) {
  std::unique_lock lock{mutex_};
  if (self.busy) {
    self.busy = false;
    --busy_;
    if (shared_.gate.moved() || shared_.gate.systemic()) {
      work_changed_.notify_all();  // others may begin again, or be the next on trial
    }
    const auto took = now() - self.since;
    worked_ += took;
    if (const auto done = static_cast<Clock::Duration::rep>(self.hand.done.load()); !self.hand.entries.empty() && done > 0) {
      const auto each = std::max(took / done, Clock::Duration{1});
      handler_time_ = handler_time_.count() == 0 ? each : (7 * handler_time_ + each) / 8;
    }
  }
  for (;;) {
    const TimePoint time = now();
    if (stop.stop_requested() || running_ > wanted_) {
      --running_;
      intake_changed_.notify_all();
      return false;
    }
    if (pick(self, time)) {
      self.busy = true;
      self.since = time;
      ++busy_;
      if (queue_.ready() > 0 && busy_ < running_) {
        work_changed_.notify_one();
      }
      return true;
    }
    TimePoint until = time + longest_wait;
    if (const auto delayed = queue_.next_delayed(); delayed && !suspect_) {
      until = std::min(until, *delayed);
    }
    if (time < self.not_before) {
      until = std::min(until, self.not_before);
    }
    if (const milliseconds held = shared_.gate.wait(); held > 0ms) {
      until = std::min(until, time + held);
    }
    wait(work_changed_, lock, until, stop);
  }
}

void Engine::work_off(Worker& self, Processor& processor, const std::stop_token& stop) {
  Hand& hand = self.hand;
  if (hand.entries.empty()) {
    const std::optional<Fate> fate = processor.process_due(stop);
    const std::lock_guard guard{mutex_};
    conclude_due(self, fate);
    return;
  }
  if (batched_) {
    hand.next = hand.entries.size();
    processor.process_batch(hand.entries, hand.fates, stop);
    hand.done = hand.entries.size();
  } else {
    work_off_one_by_one(self, processor, stop);
  }
  carry_out(self);
}

void Engine::work_off_one_by_one(Worker& self, Processor& processor, const std::stop_token& stop) {
  Hand& hand = self.hand;
  const std::size_t end = hand.entries.size();
  KeyFence fence;
  bool away = false;
  auto settled_at = Steady::now();
  for (std::size_t i = hand.next.fetch_add(1); i < end; i = hand.next.fetch_add(1)) {
    Entry& entry = *hand.entries[i];
    if (away || (i > 0 && (stop.stop_requested() || shared_.gate.held())) || fence.holds(entry)) {
      hand.fates[i] = {.kind = Fate::Kind::waits};
    } else {
      hand.fates[i] = processor.process(entry, stop);
      away = hand.fates[i].kind == Fate::Kind::store_away;
      if (hand.fates[i].kind != Fate::Kind::settled) {
        fence.add(entry);
      }
    }
    hand.done.store(i + 1, std::memory_order_release);
    if (i + 1 < end && Steady::now() - settled_at > 1ms) {
      carry_out(self);
      settled_at = Steady::now();
    }
  }
}

/// Those that are done and not carried out yet, copied, as the hand may be another one soon.
std::vector<Engine::Concluded> Engine::take_done(Hand& hand) {
  std::size_t from = hand.taken.load();
  const std::size_t to = hand.done.load(std::memory_order_acquire);
  while (from < to && !hand.taken.compare_exchange_weak(from, to)) {
  }
  std::vector<Concluded> concluded;
  for (; from < to; ++from) {
    concluded.push_back({std::move(hand.entries[from]), std::move(hand.fates[from])});
  }
  return concluded;
}

void Engine::carry_out(Worker& self) {
  std::vector<Concluded> concluded = take_done(self.hand);
  acknowledge(concluded);
  const std::lock_guard guard{mutex_};
  conclude(self, concluded);
}

void Engine::acknowledge(const std::vector<Concluded>& concluded) const {
  std::vector<const Message*> messages;
  for (const auto& [entry, fate] : concluded) {
    if (fate.ack) {
      messages.push_back(&entry->message);
    }
  }
  consumer::acknowledge(shared_, messages);
}

/// A slow handler holds up its own key only: what its worker has not begun goes to others, what it has done is settled.
void Engine::take_back(TimePoint now) {
  if (batched_) {
    return;
  }
  std::vector<std::pair<Worker*, std::vector<Concluded>>> all;
  {
    const std::lock_guard guard{mutex_};
    for (Worker& worker : workers_) {
      Hand& hand = worker.hand;
      const std::size_t end = hand.entries.size();
      if (!worker.busy || end < 2 || now - worker.since < held_up) {
        continue;
      }
      if (const std::size_t from = hand.next.exchange(end); from < end) {
        for (std::size_t i = from; i < end; ++i) {
          queue_.put_back(hand.entries[i]);
        }
        work_changed_.notify_one();
      }
      if (std::vector<Concluded> done = take_done(hand); !done.empty()) {
        all.emplace_back(&worker, std::move(done));
      }
    }
  }
  for (auto& [worker, done] : all) {
    acknowledge(done);
    const std::lock_guard guard{mutex_};
    conclude(*worker, done);
  }
}

void Engine::note_away(Worker& self, const std::string& error) {
  shared_.journal.set_last_error(error);
  // One that fails again and again while the store answers others (it is out of connections) must not spin.
  if (self.failures++ > 0) {
    self.not_before = now() + store_backoff_.delay(self.failures, ErrorClass::transient, *options_.random).value_or(1s);
  }
  suspect_ = true;
  watch_changed_.notify_all();
}

void Engine::conclude(Worker& self, std::vector<Concluded>& concluded) {
  using Kind = Fate::Kind;
  bool settled = false;
  bool delayed = false;
  const Fate* away = nullptr;
  for (auto& [entry, fate] : concluded) {
    if (fate.kind == Kind::store_away && store_ != nullptr) {
      away = &fate;
      queue_.put_back(entry);
    } else if (fate.kind == Kind::later || fate.kind == Kind::store_away) {
      queue_.delay(entry, now() + (fate.kind == Kind::later ? fate.delay : 1s));
      delayed = true;
    } else if (fate.kind == Kind::waits) {
      queue_.put_back(entry);
    } else {
      queue_.finish(entry);
      settled = settled || fate.kind == Kind::settled;
      if (spent_.size() < in_flight_) {
        spent_.push_back(std::move(entry));
      }
    }
  }
  if (away != nullptr) {
    note_away(self, away->error);
  } else if (settled) {
    self.failures = 0;
  }
  if (delayed || (queue_.ready() > 0 && busy_ < running_)) {
    work_changed_.notify_one();
  }
  if (intake_waits_ && worth_a_poll()) {
    intake_changed_.notify_all();
  }
}

void Engine::conclude_due(Worker& self, const std::optional<Fate>& fate) {
  if (!fate) {
    due_ = 0;
  } else if (fate->kind == Fate::Kind::store_away) {
    note_away(self, fate->error);
  } else {
    self.failures = 0;
    // Its successor became due, perhaps: looking again costs less than waiting for the next look.
    due_ += fate->kind == Fate::Kind::settled ? 1U : 0U;
    work_changed_.notify_one();
  }
}

}  // namespace penstock::consumer
