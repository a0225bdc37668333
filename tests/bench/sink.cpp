// SPDX-License-Identifier: Apache-2.0
#include "sink.hpp"

#include <stdexcept>
#include <utility>

#include "harness.hpp"
#include "payload.hpp"

namespace penstock::bench {

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::future<Outcomes> InstantSink::submit(std::span<const Event> events, std::chrono::milliseconds /*timeout*/) {
  if (count_.load() == 0) {
    first_ = steady_seconds();
    first_batch_ = events.size();
  }
  count_ += events.size();
  std::promise<Outcomes> promise;
  promise.set_value(Outcomes(events.size(), Outcome{.status = Outcome::Status::confirmed}));
  last_ = steady_seconds();
  return promise.get_future();
}

TimedPublisher::TimedPublisher(std::shared_ptr<Publisher> inner, OnConfirmed on_confirmed)
    : inner_{std::move(inner)}, on_confirmed_{std::move(on_confirmed)}, thread_{[this] { loop(); }} {}

TimedPublisher::~TimedPublisher() {
  {
    const std::lock_guard lock{mutex_};
    ended_ = true;
  }
  changed_.notify_one();
}

std::future<Outcomes> TimedPublisher::submit(std::span<const Event> events, std::chrono::milliseconds timeout) {
  Waiting waiting{.events = {events.begin(), events.end()}, .inner = inner_->submit(events, timeout)};
  auto future = waiting.outer.get_future();
  {
    const std::lock_guard lock{mutex_};
    waiting_.push_back(std::move(waiting));
  }
  changed_.notify_one();
  return future;
}

void TimedPublisher::loop() {
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Waiting waiting = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    Outcomes outcomes = waiting.inner.get();
    const auto now = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i].confirmed()) on_confirmed_(waiting.events[i], now);
    }
    waiting.outer.set_value(std::move(outcomes));
    lock.lock();
  }
}

RunningRelay::RunningRelay(EventLog& log, Channel channel, RelayOptions options)
    : relay_{log, {{"*", std::move(channel)}}, std::move(options)}, thread_{[this](std::stop_token stop) {
        relay_.run(stop);
      }} {}

RunningRelay::~RunningRelay() = default;

void RunningRelay::await_published(std::size_t count) {
  Stopwatch idle;
  std::uint64_t seen = 0;
  for (;;) {
    const RelayStatus status = relay_.status();
    const auto& channel = status.channels.front();
    if (channel.published >= count) return;
    if (channel.published != seen) {
      seen = channel.published;
      idle = Stopwatch{};
    }
    if (idle.seconds() > 30) {
      throw std::runtime_error{"relay stands still at " + std::to_string(seen) + " of " + std::to_string(count) +
                               (channel.last_error.empty() ? "" : ": " + channel.last_error)};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
}

}  // namespace penstock::bench
