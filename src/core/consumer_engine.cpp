// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_engine.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <system_error>
#include <utility>

#include "core/consumer_batches.hpp"
#include "core/consumer_gate.hpp"

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

constexpr milliseconds poll_wait = 100ms;
constexpr milliseconds full_wait = 50ms;      ///< between two looks for room
constexpr milliseconds pause_when_full = 1s;  ///< a source is paused when there was no room for so long
constexpr milliseconds touch_every = 5s;
constexpr auto hand_time = 200us;  ///< what a worker takes at a time is to last
constexpr std::size_t largest_hand = 128;
constexpr auto held_up = 2ms;  ///< a worker that has come no further is held up
constexpr milliseconds longest_wait = 1h;
constexpr milliseconds close_at_least = 200ms;
constexpr std::size_t largest_poll = 1'000;
constexpr std::size_t largest_spare = std::size_t{16} << 10U;  ///< bytes of a message whose memory is used again

}  // namespace

Engine::Engine(const Shared& shared, Datastore* store, std::function<std::unique_ptr<Processor>(Leash&)> make_processor)
    : shared_{shared},
      options_{shared.options},
      clock_{*shared.options.clock},
      store_{store},
      make_processor_{std::move(make_processor)},
      in_flight_{shared.options.in_flight},
      batched_{store != nullptr && shared.options.batch > 1},
      virtual_time_{shared.options.clock != &Clock::system()},
      started_{shared.options.clock->now()},
      store_backoff_{RetryPolicy::exponential(100ms).cap(5s).attempts(std::numeric_limits<int>::max()).jitter(Jitter::equal)},
      scaling_{shared.options.workers} {}

bool Engine::run(const std::stop_token& stop) {
  shared_.source.open(options_.group, options_.logger);
  shared_.journal.log(LogLevel::info, "reads " + shared_.source.channel());
  std::stop_source own;  // a source that has finished stops everything, too
  const std::stop_callback forward{stop, [&own] { own.request_stop(); }};
  std::jthread watcher;
  {
    const std::lock_guard guard{mutex_};
    stop_ = own.get_token();
    touch_at_ = now() + touch_every;
    if (store_ != nullptr) {
      watcher = std::jthread{[this] { watch(stop_); }};
    }
    scale();
  }
  take_in(own.get_token());
  own.request_stop();
  return drain();
}

void Engine::describe(ConsumerStatus& status) const {
  const std::lock_guard guard{mutex_};
  status.in_flight = queue_.size();
  status.in_flight_bytes = queue_.bytes();
  status.workers = running_;
  status.workers_reason = scaling_.reason();
  status.paused = away_;
}

Engine::TimePoint Engine::now() const {
  return virtual_time_ ? clock_.now() : started_ + std::chrono::duration_cast<Clock::Duration>(Steady::now() - started_steady_);
}

void Engine::wait(std::condition_variable_any& changed, std::unique_lock<std::mutex>& lock, TimePoint until,
                  const std::stop_token& stop) const {
  clock_.wait_until(changed, lock, virtual_time_ ? until : clock_.now() + (until - now()), stop);
}

// --- intake -----------------------------------------------------------------------------------------------------------------

template <class Condition>
void Engine::rest(milliseconds most, const std::stop_token& stop, Condition condition) {
  std::unique_lock lock{mutex_};
  intake_waits_ = true;
  intake_changed_.wait_for(lock, stop, most, condition);
  intake_waits_ = false;
}

void Engine::take_in(const std::stop_token& stop) {
  std::optional<Steady::time_point> full_since;
  while (!stop.stop_requested() && !shared_.source.finished()) {
    reap();
    touch();
    expire();
    std::size_t space = 0;
    bool away = false;
    bool wait = false;
    const bool held = shared_.gate.holds_intake();
    {
      const std::lock_guard guard{mutex_};
      space = room();
      away = away_;
      wait = !worth_a_poll();
      const TimePoint time = now();
      queue_.ripen(time);
      scale();
      if (queue_.ready() > 0) {
        work_changed_.notify_one();
      }
    }
    take_back(now());
    // Paused for being full, it resumes when a quarter is free: pausing is dear, as a client may throw away what it has
    // fetched.
    const bool full = paused_ && full_since ? space < quarter() : space == 0;
    if (!full) {
      full_since.reset();
    } else if (!full_since) {
      full_since = Steady::now();
    }
    const bool pause = away || held || (full && Steady::now() - *full_since >= pause_when_full);
    try {
      if (pause != paused_) {
        shared_.source.pause(pause);
        paused_ = pause;
      }
      if (paused_) {
        keep_alive(stop);
        rest(full_wait, stop, [this, away, held] { return away_ != away || (!away_ && !held && room() >= quarter()); });
        continue;
      }
      if (wait) {
        rest(full_wait, stop, [this] { return worth_a_poll() || away_; });
        const std::lock_guard guard{mutex_};
        space = room();
      }
      if (space == 0) {
        continue;
      }
      recycle();
      const auto before = Steady::now();
      std::vector<Message> messages =
          shared_.source.poll(next_poll(std::min(space, largest_poll)), virtual_time_ ? 0ms : poll_wait);
      const bool none = messages.empty();
      dispatch(std::move(messages));
      if (none && Steady::now() - before < 1ms) {
        // By an injected clock nobody can say how long to wait; and a source that does not wait must not keep a core busy.
        rest(1ms, stop, [] { return false; });
      }
    } catch (const std::exception& error) {
      shared_.journal.set_last_error(error.what());
      shared_.journal.log(LogLevel::error, std::string{"the source failed: "} + error.what());
      rest(1s, stop, [] { return false; });
    }
  }
}

/// What is settled lends its memory to what comes.
void Engine::recycle() {
  std::vector<EntryPtr> spent;
  {
    const std::lock_guard guard{mutex_};
    spent.swap(spent_);
  }
  std::vector<Message> messages;
  messages.reserve(spent.size());
  for (const EntryPtr& entry : spent) {
    if (entry.use_count() == 1 && entry->bytes <= largest_spare) {
      messages.push_back(std::move(entry->message));
    }
  }
  if (!messages.empty()) {
    shared_.source.recycle(std::move(messages));
  }
}

void Engine::dispatch(std::vector<Message> messages) {
  if (messages.empty()) {
    return;
  }
  std::vector<EntryPtr> entries;
  entries.reserve(messages.size());
  for (Message& message : messages) {
    mark_repeated(message.origin);
    entries.push_back(std::make_shared<Entry>(std::move(message)));
  }
  const std::lock_guard guard{mutex_};
  const std::size_t before = queue_.bytes();
  for (EntryPtr& entry : entries) {
    queue_.push(std::move(entry));
  }
  message_bytes_ = (queue_.bytes() - before) / messages.size();
  scale();
  work_changed_.notify_one();  // who takes some and leaves some wakes the next
}

/// Serves the source while it is paused. What it delivers all the same is taken.
void Engine::keep_alive(const std::stop_token& stop) {
  std::vector<Message> messages = shared_.source.poll(1, 0ms);
  if (!stop.stop_requested()) {
    dispatch(std::move(messages));
  }
}

void Engine::touch() {
  if (now() < touch_at_) {
    return;
  }
  touch_at_ = now() + touch_every;
  std::vector<EntryPtr> entries;
  {
    const std::lock_guard guard{mutex_};
    entries = queue_.in_flight();
  }
  for (const EntryPtr& entry : entries) {
    try {
      shared_.source.touch(entry->message);
    } catch (const std::exception& error) {
      shared_.journal.log(LogLevel::warn, name_of(entry->message) + " could not be kept: " + error.what());
      return;
    }
  }
}

bool Engine::drain() {
  const auto start = Steady::now();
  shared_.journal.log(LogLevel::info, "stops");
  const auto ended = [this] { return running_ == 0; };
  for (;;) {
    try {
      if (!paused_) {
        shared_.source.pause(true);
        paused_ = true;
      }
      keep_alive(stop_);  // members and heartbeats live while handlers end; what comes is left to the next member
      touch();
    } catch (const std::exception& error) {
      shared_.journal.log(LogLevel::warn, std::string{"the source failed: "} + error.what());
    }
    expire();
    rest(full_wait, {}, ended);
    const std::lock_guard guard{mutex_};
    if (ended()) {
      break;
    }
  }
  workers_.clear();
  {
    const std::lock_guard guard{mutex_};
    queue_.clear();
  }
  const auto left = std::chrono::duration_cast<milliseconds>(options_.drain_timeout - (Steady::now() - start));
  try {
    shared_.source.close(std::max(left, close_at_least));
  } catch (const std::exception& error) {
    shared_.journal.log(LogLevel::warn, std::string{"the source could not be closed: "} + error.what());
  }
  const bool in_time = Steady::now() - start <= options_.drain_timeout;
  shared_.journal.log(in_time ? LogLevel::info : LogLevel::warn, in_time ? "stopped" : "stopped, later than its drain timeout");
  return in_time;
}

// --- workers ----------------------------------------------------------------------------------------------------------------

std::size_t Engine::room() const {
  return queue_.size() >= in_flight_ || queue_.bytes() >= options_.in_flight_bytes ? 0 : in_flight_ - queue_.size();
}

bool Engine::worth_a_poll() const {
  const std::size_t space = room();
  return space >= quarter() || (space > 0 && queue_.ready() == 0);
}

/// A broker that counts no deliveries may have given to another, who died, what comes first of a partition.
void Engine::mark_repeated(Origin& origin) {
  if (store_ == nullptr || origin.deliveries > 0 || origin.position < 0) {
    return;
  }
  constexpr std::int64_t gap = 1'000;  // of compaction and transactions; what is more, another member has read
  auto [place, is_new] = partitions_.try_emplace(origin.partition);
  FirstOnes& first = place->second;
  if (is_new || origin.position < first.next || origin.position > first.next + gap) {
    first.left = in_flight_;
  }
  first.next = origin.position + 1;
  if (first.left > 0) {
    --first.left;
    origin.redelivered = true;
  }
}

/// Of the room, as many as fit in the bytes that are left if they are like those that are there.
std::size_t Engine::next_poll(std::size_t space) const {
  const std::lock_guard guard{mutex_};
  if (message_bytes_ == 0 || queue_.bytes() >= options_.in_flight_bytes) {
    return std::min<std::size_t>(space, message_bytes_ == 0 ? 16 : 1);
  }
  return std::clamp<std::size_t>((options_.in_flight_bytes - queue_.bytes()) / message_bytes_, 1, space);
}

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

// --- parked messages and the store's absence --------------------------------------------------------------------------------

void Engine::watch(const std::stop_token& stop) {
  const std::size_t limit = std::max<std::size_t>(16, 2 * static_cast<std::size_t>(options_.workers.max));
  std::unique_ptr<Datastore::Session> session;
  int failures = 0;
  std::unique_lock lock{mutex_};
  TimePoint next = now();
  while (!stop.stop_requested()) {
    if (now() < next && !(suspect_ && failures == 0)) {
      wait(watch_changed_, lock, next, stop);
      continue;
    }
    lock.unlock();
    std::optional<std::string> error;
    std::size_t due = 0;
    try {
      if (!session) {
        session = store_->session(options_.group);
      }
      due = session->due(limit);
    } catch (const TransactionConflict&) {
      due = 0;  // the store is there
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    lock.lock();
    if (error) {
      store_failed(*error);
      next = now() + store_backoff_.delay(++failures, ErrorClass::transient, *options_.random).value_or(1s);
    } else {
      failures = 0;
      store_answered(due);
      next = now() + options_.parked_poll;
    }
  }
}

void Engine::store_answered(std::size_t due) {
  if (away_) {
    shared_.journal.log(LogLevel::info, "the store is back; goes on");
    away_ = false;
    intake_changed_.notify_all();
  }
  const bool wake = suspect_ || due > 0;
  suspect_ = false;
  due_ = std::max(due_, due);
  scale();
  if (wake) {
    work_changed_.notify_all();
  }
}

void Engine::store_failed(const std::string& error) {
  suspect_ = true;
  shared_.journal.set_last_error(error);
  if (!away_) {
    shared_.journal.log(LogLevel::warn, "the store is away, intake is paused: " + error);
    away_ = true;
    intake_changed_.notify_all();
  }
}

}  // namespace penstock::consumer
