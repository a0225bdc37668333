// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_engine.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <system_error>
#include <utility>

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

constexpr milliseconds poll_wait = 100ms;
constexpr milliseconds full_wait = 50ms;      ///< between two looks for room
constexpr milliseconds pause_when_full = 1s;  ///< a source is paused when there was no room for so long
constexpr milliseconds touch_every = 5s;
constexpr milliseconds idle_worker_ends = 5s;
constexpr milliseconds longest_wait = 1h;
constexpr milliseconds close_at_least = 200ms;
constexpr std::size_t largest_poll = 1'000;

}  // namespace

Engine::Engine(const Shared& shared, Datastore* store, std::function<std::unique_ptr<Processor>()> make_processor)
    : shared_{shared},
      options_{shared.options},
      clock_{*shared.options.clock},
      store_{store},
      make_processor_{std::move(make_processor)},
      in_flight_{shared.options.in_flight},
      virtual_time_{shared.options.clock != &Clock::system()},
      started_{shared.options.clock->now()},
      store_backoff_{RetryPolicy::exponential(100ms).cap(5s).attempts(std::numeric_limits<int>::max()).jitter(Jitter::equal)} {}

bool Engine::run(const std::stop_token& stop) {
  shared_.source.open(options_.group, options_.logger);
  shared_.journal.log(LogLevel::info, "reads " + shared_.source.channel());
  std::jthread watcher;
  {
    const std::lock_guard guard{mutex_};
    stop_ = stop;
    touch_at_ = now() + touch_every;
    if (store_ != nullptr) {
      watcher = std::jthread{[this, stop] { watch(stop); }};
    }
    grow();
  }
  take_in(stop);
  return drain();
}

void Engine::describe(ConsumerStatus& status) const {
  const std::lock_guard guard{mutex_};
  status.in_flight = queue_.size();
  status.workers = running_;
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
  intake_changed_.wait_for(lock, stop, most, condition);
}

void Engine::take_in(const std::stop_token& stop) {
  std::optional<Steady::time_point> full_since;
  while (!stop.stop_requested()) {
    reap();
    touch();
    std::size_t space = 0;
    bool away = false;
    {
      const std::lock_guard guard{mutex_};
      space = room();
      away = away_;
      queue_.ripen(now());
      if (queue_.ready() > 0) {
        grow();
        work_changed_.notify_one();
      }
    }
    // Paused for being full, it resumes when a quarter is free: pausing is dear, as a client may throw away what it has
    // fetched.
    const bool full = paused_ && full_since ? space < quarter() : space == 0;
    if (!full) {
      full_since.reset();
    } else if (!full_since) {
      full_since = Steady::now();
    }
    const bool pause = away || (full && Steady::now() - *full_since >= pause_when_full);
    try {
      if (pause != paused_) {
        shared_.source.pause(pause);
        paused_ = pause;
      }
      if (paused_) {
        keep_alive(stop);
        rest(full_wait, stop, [this, away] { return away_ != away || (!away_ && room() >= quarter()); });
        continue;
      }
      if (space == 0) {
        rest(full_wait, stop, [this] { return room() > 0 || away_; });
        continue;
      }
      const auto before = Steady::now();
      std::vector<Message> messages = shared_.source.poll(std::min(space, largest_poll), virtual_time_ ? 0ms : poll_wait);
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

void Engine::dispatch(std::vector<Message> messages) {
  if (messages.empty()) {
    return;
  }
  const std::lock_guard guard{mutex_};
  for (Message& message : messages) {
    queue_.push(std::make_shared<Entry>(std::move(message)));
  }
  grow();
  work_changed_.notify_all();
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
    rest(full_wait, {}, ended);
    const std::lock_guard guard{mutex_};
    if (ended()) {
      break;
    }
  }
  workers_.clear();
  {
    const std::lock_guard guard{mutex_};
    queue_ = {};
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

void Engine::grow() {
  const auto waiting = static_cast<int>(std::min<std::size_t>(queue_.ready() + due_, 1'000'000));
  while (!stop_.stop_requested() && !suspect_ &&
         (running_ < options_.workers.min || (running_ < options_.workers.max && waiting > running_ - busy_))) {
    Worker& worker = workers_.emplace_back();
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
    while (const std::optional<Job> job = next_job(self, stop)) {
      std::optional<Fate> fate;
      try {
        if (!processor) {
          processor = make_processor_();
        }
        fate = job->entry ? processor->process(*job->entry, stop) : processor->process_due(stop);
      } catch (const std::exception& error) {
        fate = Fate{.kind = Fate::Kind::store_away, .error = error.what()};
      }
      conclude(self, *job, fate);
    }
  }
  const std::lock_guard guard{mutex_};
  self.ended = true;
}

std::optional<Engine::Job> Engine::pick(Worker& self, TimePoint now) {
  if (suspect_ || now < self.not_before) {
    return std::nullopt;
  }
  queue_.ripen(now);
  // Parked messages and new ones take turns, so that neither keeps the other waiting.
  if (due_ > 0 && (self.prefers_due || queue_.ready() == 0)) {
    --due_;
    self.prefers_due = false;
    return Job{};
  }
  if (EntryPtr entry = queue_.take()) {
    self.prefers_due = true;
    return Job{std::move(entry)};
  }
  return std::nullopt;
}

std::optional<Engine::Job> Engine::next_job(Worker& self, const std::stop_token& stop) {
  std::unique_lock lock{mutex_};
  TimePoint time = now();
  const TimePoint idle_until = time + idle_worker_ends;
  for (;;) {
    const bool spare = running_ > options_.workers.min && time >= idle_until && !suspect_;
    if (stop.stop_requested() || spare) {
      --running_;
      intake_changed_.notify_all();
      return std::nullopt;
    }
    if (std::optional<Job> job = pick(self, time)) {
      ++busy_;
      return job;
    }
    TimePoint until = running_ > options_.workers.min && time < idle_until ? idle_until : time + longest_wait;
    if (const auto delayed = queue_.next_delayed(); delayed && !suspect_) {
      until = std::min(until, *delayed);
    }
    if (time < self.not_before) {
      until = std::min(until, self.not_before);
    }
    wait(work_changed_, lock, until, stop);
    time = now();
  }
}

void Engine::conclude(Worker& self, const Job& job, const std::optional<Fate>& fate) {
  using Kind = Fate::Kind;
  const std::lock_guard guard{mutex_};
  --busy_;
  if (!fate) {
    due_ = 0;
    return;
  }
  const std::size_t before = queue_.size();
  if (fate->kind == Kind::store_away && store_ != nullptr) {
    if (job.entry) {
      queue_.put_back(job.entry);
    }
    shared_.journal.set_last_error(fate->error);
    // One that fails again and again while the store answers others (it is out of connections) must not spin.
    if (self.failures++ > 0) {
      self.not_before = now() + store_backoff_.delay(self.failures, ErrorClass::transient, *options_.random).value_or(1s);
    }
    suspect_ = true;
    watch_changed_.notify_all();
    return;
  }
  self.failures = 0;
  if (!job.entry) {
    // Its successor became due, perhaps: looking again costs less than waiting for the next look.
    due_ += fate->kind == Kind::settled ? 1U : 0U;
  } else if (fate->kind == Kind::later || fate->kind == Kind::store_away) {
    queue_.delay(job.entry, now() + (fate->kind == Kind::later ? fate->delay : 1s));
  } else {
    queue_.finish(job.entry);
  }
  if (queue_.ready() > 1 || !job.entry || fate->kind != Kind::settled) {
    work_changed_.notify_one();
  }
  if (queue_.size() != before && (room() == 1 || room() == quarter())) {
    intake_changed_.notify_all();
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
  grow();
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
