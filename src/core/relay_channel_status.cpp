// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/relay_channel.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;

constexpr auto kSampled = 500ms;
constexpr auto kRateOver = 10s;
constexpr auto kBacklogEvery = 1s;
constexpr auto kBacklogOfOthersEvery = 20s;

}  // namespace

RelayStatus::PerChannel RelayChannel::status() const {
  const TimePoint at = now();
  const std::lock_guard lock{status_mutex_};
  RelayStatus::PerChannel status = status_;
  if (!samples_.empty() && at > samples_.front().first) {
    const std::chrono::duration<double> passed = at - samples_.front().first;
    status.rate = static_cast<double>(status.published - samples_.front().second) / std::max(passed.count(), 1.0);
  }
  return status;
}

void RelayChannel::tell_status() {
  const TimePoint at = now();
  const std::lock_guard lock{status_mutex_};
  status_.owner = owner_;
  status_.published = published_;
  status_.buried = buried_;
  status_.parked = parked_;
  status_.in_flight = pending_.size();
  status_.in_flight_bytes = pending_.bytes();
  const auto failing =
      static_cast<std::size_t>(std::count_if(held_.begin(), held_.end(), [](const auto& key) { return key.second; }));
  status_.fenced_keys = pending_.fenced_keys() + failing;
  status_.held_keys = held_.size() - failing;
  status_.systemic = outage_ && outage_->rejecting;
  status_.away = outage_ && !outage_->rejecting;
  if (samples_.empty() || at - samples_.back().first >= kSampled) {
    samples_.emplace_back(at, published_);
  }
  // The oldest that is kept is as old as the rate's time, or the next older.
  while (samples_.size() > 1 && at - samples_[1].first >= kRateOver) {
    samples_.pop_front();
  }
}

/// What nobody asks the log for when the answer is known: an owner that has read everything and settled it has no backlog.
void RelayChannel::measure_backlog() {
  if (now() < next_backlog_) {
    return;
  }
  next_backlog_ = now() + (owner_ ? Clock::Duration{kBacklogEvery} : Clock::Duration{kBacklogOfOthersEvery});
  const bool nothing = owner_ && drained_log_ && pending_.size() == 0;
  if (nothing && known_empty_) {
    return;
  }
  EventLog::Backlog backlog = cursor_->backlog();
  if (nothing) {
    backlog.events = 0;
    backlog.exact = true;
    backlog.age = 0ms;
  }
  known_empty_ = nothing;
  const std::lock_guard lock{status_mutex_};
  status_.backlog = std::move(backlog);
}

void RelayChannel::fail(const std::string& error) {
  const TimePoint at = options_.clock->now();
  const std::lock_guard lock{status_mutex_};
  status_.last_error = error;
  status_.last_error_at = at;
}

}  // namespace penstock
