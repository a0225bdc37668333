// SPDX-License-Identifier: Apache-2.0
// What follows from a channel's answers.
#include <algorithm>
#include <utility>

#include "core/relay_channel.hpp"
#include "core/text.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kSilentFailures = 50;  // failures without a single judgement in between: the broker is away
constexpr auto kShortestBackOff = 5ms;
constexpr auto kPatience = 10s;  // with an event that fails, before it is set aside
constexpr auto kParkEvery = 50ms;
constexpr int kFailuresInACrowd = 3;          // the same where others need the room
constexpr std::size_t kLongestError = 4'000;  // bytes of it that are kept, as text that a database takes

}  // namespace

void RelayChannel::judge(const std::vector<std::uint64_t>& sequences, Outcomes outcomes) {
  const bool probing = outage_.has_value();
  std::vector<std::uint64_t> rejections;
  std::vector<std::uint64_t> failures;
  std::size_t in_vain = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::uint64_t sequence = sequences[i];
    RelayPending::Item& item = pending_.item(sequence);
    Outcome& outcome = outcomes[i];
    if (outcome.status == Outcome::Status::confirmed) {
      confirmed(sequence);
      continue;
    }
    if (pending_.is_behind(sequence)) {
      // Sent along with an earlier one of its key that failed. What its own outcome is shows when it is its turn.
      ++in_vain;
      pending_.put_back(sequence);
      continue;
    }
    item.error = outcome.error.empty() ? to_string(outcome.status) : text::clean(outcome.error, kLongestError);
    fail(item.error);
    if (outcome.status == Outcome::Status::rejected) {
      health_.judged(sequence, item.entry.event.key, true, std::exchange(item.judged, true));
      rejections.push_back(sequence);
    } else {
      failures.push_back(sequence);
    }
  }
  const std::size_t judged = sequences.size() - failures.size() - in_vain;
  if (judged > 0) {
    silent_failures_ = 0;
  }
  if (const bool systemic = health_.systemic(); systemic && !outage_ && !rejections.empty()) {
    begin_outage(true, pending_.item(rejections.back()).error);
  } else if (!systemic && !outage_) {
    said_rejecting_ = false;
  }
  health_.trim();
  for (const std::uint64_t sequence : rejections) {
    rejected(sequence, rejections.size() < judged);
  }
  for (const std::uint64_t sequence : failures) {
    failed(sequence);
  }
  if (probing && outage_) {
    outage_->until = now() + back_off(outage_->probes + 1);
  }
}

void RelayChannel::settle(std::uint64_t sequence) { spent_.push_back(pending_.settle(sequence)); }

void RelayChannel::confirmed(std::uint64_t sequence) {
  health_.judged(sequence, {}, false, pending_.item(sequence).judged);
  settle(sequence);
  ++published_;
  end_outage();
}

void RelayChannel::rejected(std::uint64_t sequence, bool proven) {
  RelayPending::Item& item = pending_.item(sequence);
  if (outage_) {
    pending_.fence(sequence, now() + back_off(1));
    return;
  }
  ++item.rejections;
  item.proven += proven ? 1 : 0;
  if (std::max(item.rejections, item.proven) >= options_.rejections) {
    pending_.hold(sequence);
    condemned_.push_back(sequence);
  } else {
    pending_.fence(sequence, now() + back_off(item.rejections));
  }
}

void RelayChannel::failed(std::uint64_t sequence) {
  RelayPending::Item& item = pending_.item(sequence);
  if (item.failures++ == 0) {
    item.failing_since = now();
  }
  pending_.fence(sequence, now() + back_off(item.failures));
  if (++silent_failures_ >= kSilentFailures && !outage_) {
    begin_outage(false, item.error);
  }
}

// Rule 17: when it is the channel that fails and not the event, nothing is given up for it.
void RelayChannel::begin_outage(bool rejecting, const std::string& error) {
  outage_.emplace();
  outage_->rejecting = rejecting;
  outage_->until = now() + back_off(1);
  std::erase_if(condemned_, [this](std::uint64_t sequence) {
    const bool judged = pending_.item(sequence).entry.defect.empty();
    if (judged) {
      pending_.fence(sequence, now());
    }
    return judged;
  });
  pending_.forgive();
  if (!rejecting) {
    log(LogLevel::error, "relay of " + name_ + ": the broker seems to be away: " + error);
  } else if (!std::exchange(said_rejecting_, true)) {
    log(LogLevel::error, "relay of " + name_ + ": it rejects what it is sent, so nothing more is dead-lettered: " + error);
  }
}

// One event got through. The others are not kept waiting for the ends of their own back-offs.
void RelayChannel::end_outage() {
  if (!outage_) {
    return;
  }
  const bool rejecting = outage_->rejecting;
  outage_.reset();
  pending_.release_all();
  log(LogLevel::info, "relay of " + name_ + ": the channel takes events again" +
                          (rejecting ? "; what it still rejects is judged one by one" : ""));
}

void RelayChannel::bury_condemned() {
  while (!condemned_.empty()) {
    const std::uint64_t sequence = condemned_.front();
    const RelayPending::Item& item = pending_.item(sequence);
    const int rejections = std::max(item.rejections, item.proven);
    const bool holds = options_.after_dead_letter == AfterDeadLetter::hold;
    const std::string& defect = item.entry.defect;
    const std::string error = defect.empty() ? item.error : text::clean(defect, kLongestError);
    cursor_->bury(item.entry, channel_.name, error, rejections + item.failures, holds);
    log(LogLevel::error,
        "relay of " + name_ + ": event " + item.entry.event.id +
            (defect.empty() ? " was rejected " + std::to_string(rejections) + " times" : std::string{" cannot be read"}) +
            " and is now a dead letter: " + error);
    const std::string key = item.entry.event.key;
    condemned_.pop_front();
    settle(sequence);
    ++buried_;
    if (holds && !key.empty()) {
      hold_key(key, false);
    }
  }
}

void RelayChannel::withhold(std::uint64_t sequence) {
  if (pending_.withhold(sequence)) {
    if (followers_.empty()) {
      follows_since_ = now();
    }
    followers_.push_back(sequence);
  }
}

void RelayChannel::hold_key(const std::string& key, bool failing) {
  held_[key] = failing;
  for (const std::uint64_t sequence : pending_.of_key(key)) {
    withhold(sequence);
  }
}

// Rule 6: what keeps failing takes no room from others and holds back no checkpoint. While the broker is away it is not the
// event that fails.
void RelayChannel::set_aside() {
  if (outage_ || !pending_.any_fenced()) {
    return;
  }
  const bool crowded = pending_.size() >= options_.in_flight / 2 || pending_.bytes() >= options_.in_flight_bytes / 2;
  const bool starved = batches_.empty() && !pending_.any_ready() && room() == 0;
  for (const std::uint64_t sequence : pending_.fenced()) {
    const RelayPending::Item& item = pending_.item(sequence);
    const bool weary = item.entry.failures > 0 || now() - item.failing_since >= kPatience;
    if (item.failures == item.entry.failures || !(weary || starved || (crowded && item.failures >= kFailuresInACrowd))) {
      continue;
    }
    if (item.entry.event.key.empty()) {
      withhold(sequence);
    } else {
      hold_key(std::string{item.entry.event.key}, true);
    }
  }
}

/// A transaction for each would be slow; but they take room.
bool RelayChannel::parking_is_due() const {
  return followers_.size() >= std::min(options_.batch, options_.in_flight) / 4 || (drained_log_ && batches_.empty()) ||
         now() - follows_since_ >= kParkEvery;
}

// Settled in their order, the first of each key first: a key's next is free to go when the one before it is settled, but it is
// settled itself before anything is sent.
void RelayChannel::park_followers() {
  if (followers_.empty()) {
    return;
  }
  std::vector<EventLog::Parking> entries;
  entries.reserve(followers_.size());
  for (const std::uint64_t sequence : followers_) {
    const RelayPending::Item& item = pending_.item(sequence);
    entries.push_back({.entry = &item.entry});
    if (item.failures > 0) {
      entries.back().failures = item.failures;
      entries.back().delay = std::chrono::ceil<std::chrono::milliseconds>(back_off(item.failures));
      entries.back().error = item.error;
    }
  }
  cursor_->park(entries, channel_.name);
  for (const std::uint64_t sequence : followers_) {
    parked_ += pending_.item(sequence).entry.returned ? 0U : 1U;
    settle(sequence);
  }
  followers_.clear();
}

Clock::Duration RelayChannel::back_off(int failures) {
  // An event is never given up for failures that pass: when the policy has no more delays, its last one is repeated.
  const int attempt = std::clamp(failures, 1, std::max(1, options_.retry.max_attempts() - 1));
  const auto delay = options_.retry.delay(attempt, ErrorClass::transient, *options_.random);
  return std::max<Clock::Duration>(delay.value_or(1'000ms), kShortestBackOff);
}

}  // namespace penstock
