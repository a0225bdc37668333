// SPDX-License-Identifier: Apache-2.0
#include "core/relay_channel.hpp"

#include <algorithm>
#include <exception>
#include <set>

namespace penstock {
namespace {

using namespace std::chrono_literals;

// One event that fails for hours must not make what is remembered of the others grow for ever: reading pauses here.
constexpr std::uint64_t kLargestSpan = 1'000'000;

constexpr std::size_t kJudgements = 100;      // how many of the channel's last judgements count …
constexpr std::size_t kSystemicKeys = 20;     // … as systemic when so many different keys were rejected …
constexpr std::size_t kSystemicPercent = 80;  // … and so much of them
constexpr std::size_t kSilentFailures = 50;   // failures without a single judgement in between: the broker is away

constexpr auto kShortestBackOff = 5ms;
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
      options_{options} {
  status_.channel = name_;
}

RelayStatus::PerChannel RelayChannel::status() const {
  const std::lock_guard lock{status_mutex_};
  return status_;
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
    options_.clock->sleep_for(shorter(options_.idle_wait, 1'000ms), stop);
    return false;
  }
  owner_ = true;
  log(LogLevel::info, "relay of " + name_ + ": took the lease");
  next_read_ = now();
  poll_wait_ = 1ms;
  return true;
}

void RelayChannel::turn(std::stop_token stop) {
  bool moved = collect();
  if (!outage_) {
    pending_.release_due(now());
  }
  moved = read_more() || moved;
  moved = submit() || moved;
  bury_condemned();
  cursor_->checkpoint(pending_.settled_through());
  if (moved) {
    rest_ = 200us;
  } else {
    tell_status();
    rest(stop);
  }
}

bool RelayChannel::read_more() {
  if (pending_.size() >= options_.in_flight || now() < next_read_) {
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
  auto entries = cursor_->read(std::min(options_.batch, options_.in_flight - pending_.size()));
  if (entries.empty()) {
    // While something is on its way the wait is for the broker, and hints are not heard.
    next_read_ = now() + (batches_.empty() ? poll_wait_ : std::min(poll_wait_, kLongestDeafness));
    poll_wait_ = std::min(poll_wait_ * 2, options_.idle_wait);
    return false;
  }
  for (auto& entry : entries) {
    pending_.add(std::move(entry));
  }
  next_read_ = now();
  poll_wait_ = 1ms;
  return true;
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
  std::vector<Event> events;
  events.reserve(sequences.size());
  for (const std::uint64_t sequence : sequences) {
    events.push_back(std::move(pending_.item(sequence).entry.event));
  }
  const auto give_back = [&] {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      pending_.item(sequences[i]).entry.event = std::move(events[i]);
    }
  };
  std::future<Outcomes> outcomes;
  try {
    outcomes = channel_.publisher->submit(events, options_.publish_timeout);
  } catch (const std::exception& error) {
    std::promise<Outcomes> failed;
    failed.set_value(Outcomes(sequences.size(), Outcome{Outcome::Status::unknown, error.what()}));
    outcomes = failed.get_future();
  }
  give_back();
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
    const bool probing = outage_.has_value();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      judge(sequences[i], std::move(outcomes[i]));
    }
    if (probing && outage_) {
      outage_->until = now() + back_off(outage_->probes + 1);
    }
  }
  return any;
}

void RelayChannel::judge(std::uint64_t sequence, Outcome outcome) {
  RelayPending::Item& item = pending_.item(sequence);
  if (!outcome.confirmed()) {
    item.error = outcome.error.empty() ? to_string(outcome.status) : std::move(outcome.error);
    fail(item.error);
  }
  switch (outcome.status) {
    case Outcome::Status::confirmed:
      silent_failures_ = 0;
      judgements_.push_back({});
      pending_.settle(sequence);
      {
        const std::lock_guard lock{status_mutex_};
        ++status_.published;
      }
      end_outage();
      break;
    case Outcome::Status::rejected:
      silent_failures_ = 0;
      ++item.rejections;
      if (!outage_ && item.rejections >= options_.rejections) {
        pending_.hold(sequence);
        condemned_.push_back(sequence);
      } else {
        pending_.fence(sequence, now() + back_off(item.rejections));
      }
      note_rejection(sequence);
      break;
    case Outcome::Status::retryable:
    case Outcome::Status::unknown:
      ++item.failures;
      pending_.fence(sequence, now() + back_off(item.failures));
      if (++silent_failures_ >= kSilentFailures) {
        begin_outage("the broker seems to be away: " + item.error);
      }
      break;
  }
  while (judgements_.size() > kJudgements) {
    judgements_.pop_front();
  }
}

void RelayChannel::note_rejection(std::uint64_t sequence) {
  const std::string& key = pending_.item(sequence).entry.event.key;
  judgements_.push_back({key.empty() ? "#" + std::to_string(sequence) : "k" + key, true});
  std::set<std::string> whose;
  std::size_t rejected = 0;
  for (const Judgement& judgement : judgements_) {
    if (judgement.rejected) {
      ++rejected;
      whose.insert(judgement.whose);
    }
  }
  if (whose.size() >= kSystemicKeys && rejected * 100 >= judgements_.size() * kSystemicPercent) {
    begin_outage("it rejects whatever it is sent, so nothing more is dead-lettered: " + pending_.item(sequence).error);
  }
}

// Rule 17: when it is the channel that fails and not the event, nothing is given up for it.
void RelayChannel::begin_outage(const std::string& why) {
  if (outage_) {
    return;
  }
  outage_.emplace();
  outage_->until = now() + back_off(1);
  for (const std::uint64_t sequence : condemned_) {
    pending_.fence(sequence, now());
  }
  condemned_.clear();
  log(LogLevel::error, "relay of " + name_ + ": " + why);
}

// One event got through. The others are not kept waiting for the ends of their own back-offs.
void RelayChannel::end_outage() {
  if (!outage_) {
    return;
  }
  outage_.reset();
  judgements_.clear();
  pending_.forgive();
  pending_.release_all();
  log(LogLevel::info, "relay of " + name_ + ": the channel takes events again");
}

void RelayChannel::bury_condemned() {
  while (!condemned_.empty()) {
    const std::uint64_t sequence = condemned_.front();
    const RelayPending::Item& item = pending_.item(sequence);
    cursor_->bury(item.entry, channel_.name, item.error, item.rejections + item.failures);
    log(LogLevel::error, "relay of " + name_ + ": event " + item.entry.event.id + " was rejected " +
                             std::to_string(item.rejections) + " times and is now a dead letter: " + item.error);
    condemned_.pop_front();
    pending_.settle(sequence);
    const std::lock_guard lock{status_mutex_};
    ++status_.buried;
  }
}

void RelayChannel::rest(std::stop_token stop) {
  if (!batches_.empty()) {
    batches_.front().outcomes.wait_for(rest_);
    rest_ = shorter(rest_ * 2, kLongestRest);
    return;
  }
  const bool full = pending_.size() >= options_.in_flight || pending_.span() >= kLargestSpan;
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
      cursor_->checkpoint(pending_.settled_through());
    }
    const bool drained = batches_.empty();
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

Clock::Duration RelayChannel::back_off(int failures) {
  // An event is never given up for failures that pass: when the policy has no more delays, its last one is repeated.
  const int attempt = std::clamp(failures, 1, std::max(1, options_.retry.max_attempts() - 1));
  const auto delay = options_.retry.delay(attempt, ErrorClass::transient, *options_.random);
  return std::max<Clock::Duration>(delay.value_or(1'000ms), kShortestBackOff);
}

void RelayChannel::tell_status() {
  const std::lock_guard lock{status_mutex_};
  status_.owner = owner_;
  status_.in_flight = pending_.size();
  status_.fenced_keys = pending_.fenced_keys();
}

void RelayChannel::fail(const std::string& error) {
  const std::lock_guard lock{status_mutex_};
  status_.last_error = error;
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
