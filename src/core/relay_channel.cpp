// SPDX-License-Identifier: Apache-2.0
#include "core/relay_channel.hpp"

#include <algorithm>
#include <exception>

namespace penstock {
namespace {

using namespace std::chrono_literals;

// One event that fails for hours must not make what is remembered of the others grow for ever: reading pauses here.
constexpr std::uint64_t kLargestSpan = 1'000'000;

constexpr auto kTakeOver = 700ms;   // between two looks at a lease that another relay holds
constexpr auto kSuspended = 500ms;  // without a turn: perhaps somebody else has the lease by now
constexpr auto kLook = 1s;          // between two looks at the keys that are held
constexpr auto kLongestRest = 5ms;  // on a future, while other things may happen
constexpr std::chrono::milliseconds kLongestDeafness{20};
constexpr auto kLongestTrouble = 5'000ms;

template <class A, class B>
auto shorter(A a, B b) {
  using Common = std::common_type_t<A, B>;
  return std::min<Common>(a, b);
}

bool is_ready(const std::future<Outcomes>& future) { return future.wait_for(0s) == std::future_status::ready; }

}  // namespace

RelayChannel::RelayChannel(EventLog& log, Channel channel, std::vector<std::string> patterns, const RelayOptions& options)
    : log_source_{log},
      channel_{std::move(channel)},
      name_{channel_.backend + ":" + channel_.name},
      patterns_{std::move(patterns)},
      options_{options},
      pending_{channel_.publisher->keeps_order()},
      health_{options.systemic} {
  status_.channel = name_;
}

bool RelayChannel::run(std::stop_token stop) {
  while (!stop.stop_requested()) {
    try {
      if (!cursor_) {
        cursor_ = log_source_.cursor(name_, patterns_);
      }
      if (own(stop)) {
        turn(stop);
      }
      trouble_ = 0ms;
    } catch (const LeaseLost& lost) {
      fail(lost.what());
      log(LogLevel::warn, "relay of " + name_ + ": " + lost.what());
      abandon();
    } catch (const std::exception& error) {
      // LogUnavailable, or something nobody foresaw: what is in memory stays, and the cursor says whether it still counts.
      fail(error.what());
      if (trouble_ == 0ms) {
        log(LogLevel::warn, "relay of " + name_ + ": " + error.what());
      }
      lose_time(stop);
    }
    tell_status();
  }
  try {
    return drain();
  } catch (const std::exception& error) {
    fail(error.what());
    log(LogLevel::warn, "relay of " + name_ + " while draining: " + error.what());
    return false;
  }
}

bool RelayChannel::own(std::stop_token stop) {
  if (owner_) {
    return true;
  }
  // What was sent before must be through: sent anew beside the old, a key's events could overtake each other.
  std::erase_if(orphans_, is_ready);
  if (!orphans_.empty()) {
    orphans_.front().wait_for(kLongestRest);
    return false;
  }
  if (!cursor_->acquire()) {
    measure_backlog();
    tell_status();
    // On the beat, so that the channels of a process ask at the same time, and the log can answer them together.
    const Clock::Duration beat = shorter(options_.idle_wait, kTakeOver);
    options_.clock->sleep_for(beat - now().time_since_epoch() % beat, stop);
    return false;
  }
  owner_ = true;
  next_look_ = now();
  next_backlog_ = now();
  log(LogLevel::info, "relay of " + name_ + ": took the lease");
  next_read_ = now();
  poll_wait_ = 1ms;
  return true;
}

void RelayChannel::turn(std::stop_token stop) {
  bool moved = collect();
  bury_condemned();
  set_aside();
  if (parking_is_due()) {
    park_followers();
  }
  if (now() - checkpointed_ >= kSuspended) {
    checkpoint();  // before anything is sent: who was suspended learns here that the lease is another's
  }
  look_around();
  if (!outage_) {
    pending_.release_due(now());
  }
  moved = read_more() || moved;
  moved = submit() || moved;
  checkpoint();
  measure_backlog();
  if (moved) {
    rest_ = 200us;
  } else {
    tell_status();
    rest(stop);
  }
}

void RelayChannel::checkpoint() {
  cursor_->checkpoint(pending_.settled_through());
  checkpointed_ = now();
}

/// How many events more may be read.
std::size_t RelayChannel::room() const {
  if (pending_.size() >= options_.in_flight || pending_.bytes() >= options_.in_flight_bytes) {
    return 0;
  }
  const std::size_t by_count = std::min(options_.batch, options_.in_flight - pending_.size());
  const std::size_t by_bytes = (options_.in_flight_bytes - pending_.bytes()) / std::max<std::size_t>(event_bytes_, 1);
  return std::clamp<std::size_t>(by_bytes, 1, by_count);
}

bool RelayChannel::read_more() {
  const std::size_t most = room();
  if (most == 0 || now() < next_read_) {
    return false;
  }
  if (pending_.span() >= kLargestSpan) {
    if (!std::exchange(warned_of_span_, true)) {
      log(LogLevel::error, "relay of " + name_ + ": reading pauses, since event " +
                               pending_.item(pending_.settled_through() + 1).entry.event.id + " has been failing for " +
                               std::to_string(pending_.span()) + " events");
    }
    return false;
  }
  warned_of_span_ = false;
  if (!spent_.empty()) {
    cursor_->recycle(std::exchange(spent_, {}));
  }
  auto entries = cursor_->read(most);
  drained_log_ = entries.empty() && cursor_->at_end();
  if (entries.empty() && !drained_log_) {
    next_read_ = now();
    return true;
  }
  if (entries.empty()) {
    // While something is on its way the wait is for the broker, and hints are not heard.
    next_read_ = now() + (batches_.empty() ? poll_wait_ : std::min(poll_wait_, kLongestDeafness));
    poll_wait_ = std::min(poll_wait_ * 2, options_.idle_wait);
    return false;
  }
  known_empty_ = false;
  const std::size_t before = pending_.bytes();
  const bool returned = entries.front().returned;
  for (auto& entry : entries) {
    const std::uint64_t sequence = entry.sequence;
    if (!entry.defect.empty()) {
      pending_.add(std::move(entry));
      pending_.hold(sequence);
      condemned_.push_back(sequence);
      continue;
    }
    // Behind one that is here it waits here: parked, it would come before that if that is parked later.
    const bool waits =
        !held_.empty() && !entry.returned && held_.count(entry.event.key) != 0 && !pending_.any_fresh(entry.event.key);
    pending_.add(std::move(entry));
    if (waits) {
      withhold(sequence);
    }
  }
  event_bytes_ = (pending_.bytes() - before) / entries.size();
  if (returned && entries.size() < most) {
    next_look_ = now();  // before more is read: what comes now may wait behind them here and need not be parked
  }
  next_read_ = now();
  poll_wait_ = 1ms;
  return true;
}

void RelayChannel::look_around() {
  const bool holds = !held_known_ || !held_.empty();
  if ((!holds && !look_) || now() < next_look_) {
    return;
  }
  const TimePoint began = now();
  if (look_) {
    look_(*cursor_);
  }
  if (holds) {
    park_followers();  // before their keys may be found free
    held_.clear();
    for (auto& [key, failing] : cursor_->held_keys()) {
      held_.emplace(std::move(key), failing);
    }
    held_known_ = true;
  }
  // Where a great many events are parked a look is expensive, and taken less often.
  next_look_ = now() + std::max<Clock::Duration>(look_ ? 10 * kLook : kLook, (now() - began) * 20);
}

bool RelayChannel::submit() {
  if (!outage_) {
    bool sent = false;
    while (pending_.any_ready()) {
      send(pending_.take(options_.batch));
      sent = true;
    }
    return sent;
  }
  if (!batches_.empty() || now() < outage_->until || !(pending_.any_ready() || pending_.any_fenced())) {
    return false;
  }
  auto probe = pending_.take_also_fenced(options_.batch, outage_->last_probed);
  outage_->last_probed = probe.back();
  ++outage_->probes;
  send(std::move(probe));
  return true;
}

void RelayChannel::send(std::vector<std::uint64_t> sequences) {
  // The publisher copies the events before it returns, so they are lent to it and no copy is made here.
  for (const std::uint64_t sequence : sequences) {
    lent_.push_back(std::move(pending_.item(sequence).entry.event));
  }
  std::future<Outcomes> outcomes;
  try {
    outcomes = channel_.publisher->submit(lent_, options_.publish_timeout);
  } catch (const std::exception& error) {
    std::promise<Outcomes> failed;
    failed.set_value(Outcomes(sequences.size(), Outcome{Outcome::Status::unknown, error.what()}));
    outcomes = failed.get_future();
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    pending_.item(sequences[i]).entry.event = std::move(lent_[i]);
  }
  lent_.clear();
  batches_.push_back({std::move(outcomes), std::move(sequences)});
}

bool RelayChannel::collect() {
  bool any = false;
  for (auto batch = batches_.begin(); batch != batches_.end();) {
    if (batch->outcomes.valid() && !is_ready(batch->outcomes)) {
      ++batch;
      continue;
    }
    any = true;
    Outcomes outcomes;
    try {
      outcomes = batch->outcomes.get();
    } catch (const std::exception& error) {
      outcomes.assign(batch->sequences.size(), Outcome{Outcome::Status::unknown, error.what()});
    }
    outcomes.resize(batch->sequences.size(), Outcome{Outcome::Status::unknown, "the publisher gave no outcome"});
    const auto sequences = std::move(batch->sequences);
    batch = batches_.erase(batch);
    judge(sequences, std::move(outcomes));
  }
  return any;
}

void RelayChannel::rest(std::stop_token stop) {
  if (!batches_.empty()) {
    batches_.front().outcomes.wait_for(rest_);
    rest_ = shorter(rest_ * 2, kLongestRest);
    return;
  }
  const bool full = room() == 0 || pending_.span() >= kLargestSpan;
  TimePoint until = full ? now() + options_.idle_wait : std::max(next_read_, now() + 1ms);
  if (outage_ && (pending_.any_ready() || pending_.any_fenced())) {
    until = std::min(until, outage_->until);
  } else if (const auto due = pending_.next_due(); due && !outage_) {
    until = std::min(until, *due);
  }
  const auto most = shorter(std::chrono::ceil<std::chrono::milliseconds>(until - now()), shorter(options_.idle_wait, 1'000ms));
  if (most <= 0ms) {
    return;
  }
  cursor_->wait(most, stop);
  next_read_ = now();  // either it is time, or there was a hint
}

void RelayChannel::abandon() {
  owner_ = false;
  for (Batch& batch : batches_) {
    orphans_.push_back(std::move(batch.outcomes));
  }
  batches_.clear();
  condemned_.clear();
  followers_.clear();
  held_.clear();
  held_known_ = false;
  spent_.clear();
  pending_.clear();
}

void RelayChannel::lose_time(std::stop_token stop) {
  trouble_ = std::clamp<std::chrono::milliseconds>(trouble_ * 2, 50ms, kLongestTrouble);
  options_.clock->sleep_for(trouble_, stop);
}

bool RelayChannel::drain() {
  const TimePoint deadline = now() + options_.drain_timeout;
  if (!owner_) {
    return true;
  }
  try {
    while (!batches_.empty() && now() < deadline) {
      if (!collect()) {
        batches_.front().outcomes.wait_for(kLongestRest);
      }
      bury_condemned();
      park_followers();
      cursor_->checkpoint(pending_.settled_through());
    }
    const bool drained = batches_.empty();
    park_followers();
    cursor_->checkpoint(pending_.settled_through());
    cursor_->release();
    abandon();
    tell_status();
    if (!drained) {
      log(LogLevel::warn,
          "relay of " + name_ + ": stopped before the broker had answered for everything; it will be sent again");
    }
    return drained;
  } catch (...) {
    cursor_->release();
    abandon();
    tell_status();
    throw;
  }
}

Clock::TimePoint RelayChannel::now() const {
  if (options_.clock != &Clock::system()) {
    return options_.clock->now();
  }
  return wall_start_ + std::chrono::duration_cast<Clock::Duration>(std::chrono::steady_clock::now() - steady_start_);
}

void RelayChannel::log(LogLevel level, const std::string& message) const noexcept {
  try {
    if (options_.logger) {
      options_.logger->log(level, message);
    }
  } catch (...) {  // a logger's own failure is nobody's
  }
}

}  // namespace penstock
