// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_engine.hpp"

#include <algorithm>
#include <limits>
#include <utility>

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
      std::vector<EntryPtr> entries = receive(next_poll(std::min(space, largest_poll)), virtual_time_ ? 0ms : poll_wait);
      const bool none = entries.empty();
      dispatch(std::move(entries));
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
  {
    const std::lock_guard guard{mutex_};
    spent_.swap(settled_);
  }
  for (EntryPtr& entry : settled_) {
    if (entry.use_count() == 1 && entry->bytes <= largest_spare && blank_.size() < largest_poll) {
      entry->renew();
      blank_.push_back(std::move(entry));
    }
  }
  settled_.clear();
}

/// What the source has, written into entries that are done with.
std::vector<EntryPtr> Engine::receive(std::size_t most, milliseconds wait) {
  std::vector<EntryPtr> entries;
  entries.reserve(most);
  const auto room = [&]() -> Message& {
    if (blank_.empty()) {
      entries.push_back(std::make_shared<Entry>());
    } else {
      entries.push_back(std::move(blank_.back()));
      blank_.pop_back();
    }
    return entries.back()->message;
  };
  const std::size_t count = shared_.source.poll_into(room, most, wait);
  entries.resize(std::min(count, entries.size()));
  return entries;
}

void Engine::dispatch(std::vector<EntryPtr> entries) {
  if (entries.empty()) {
    return;
  }
  for (const EntryPtr& entry : entries) {
    mark_repeated(entry->message.origin);
    WorkQueue::prepare(*entry);
  }
  const std::lock_guard guard{mutex_};
  const std::size_t before = queue_.bytes();
  for (EntryPtr& entry : entries) {
    queue_.push(std::move(entry));
  }
  message_bytes_ = (queue_.bytes() - before) / entries.size();
  scale();
  work_changed_.notify_one();  // who takes some and leaves some wakes the next
}

/// Serves the source while it is paused. What it delivers all the same is taken.
void Engine::keep_alive(const std::stop_token& stop) {
  std::vector<EntryPtr> entries = receive(1, 0ms);
  if (!stop.stop_requested()) {
    dispatch(std::move(entries));
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
