// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "penstock/envelope.hpp"
#include "penstock/source.hpp"

namespace penstock::test {

/// A complete event of a key, numbered.
inline Event numbered(const std::string& key, int number) {
  Event event;
  event.id = (key.empty() ? "free" : key) + "-" + std::to_string(number);
  event.source = "/test";
  event.type = "test.happened.v1";
  event.key = key;
  event.data = "{\"n\":" + std::to_string(number) + "}";
  event.content_type = "application/json";
  event.time = "2026-01-01T00:00:00Z";
  return event;
}

/// What a broker did and was told, scripted by a test. Shared by the test and the source it gives away.
class Script {
 public:
  SourceTraits traits{.ordered = true, .replayable = true, .delays = false};
  std::string channel = "jobs";

  void deliver(const Event& event, std::uint32_t deliveries = 0) {
    Message message;
    message.event = event;
    message.wire = encode(event, Binding::kafka);
    message.origin.deliveries = deliveries;
    deliver(std::move(message));
  }
  void deliver(Message message) {
    const std::lock_guard guard{mutex_};
    message.origin.backend = "memory";
    message.origin.channel = channel;
    if (message.origin.partition < 0) {
      message.origin.partition = 0;
      message.origin.position = static_cast<std::int64_t>(next_receipt_);
    }
    message.receipt = next_receipt_++;
    waiting_.push_back(std::move(message));
    changed_.notify_all();
  }

  [[nodiscard]] std::vector<std::string> acked() const { return copy(acked_); }
  [[nodiscard]] std::vector<std::string> touched() const { return copy(touched_); }
  [[nodiscard]] std::vector<std::pair<std::string, std::chrono::milliseconds>> retried() const { return copy(retried_); }
  [[nodiscard]] std::size_t waiting() const { return copy(waiting_).size(); }
  /// Delivered and neither acknowledged nor handed back.
  [[nodiscard]] std::size_t unsettled() const { return copy(unsettled_); }
  [[nodiscard]] std::size_t most_unsettled() const { return copy(most_unsettled_); }
  [[nodiscard]] bool paused() const { return copy(paused_); }
  [[nodiscard]] bool closed() const { return copy(closed_); }
  [[nodiscard]] int polls() const { return copy(polls_); }

 private:
  friend class ScriptedSource;

  template <class T>
  T copy(const T& value) const {
    const std::lock_guard guard{mutex_};
    return value;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Message> waiting_;
  std::vector<std::string> acked_;
  std::vector<std::string> touched_;
  std::vector<std::pair<std::string, std::chrono::milliseconds>> retried_;
  std::uint64_t next_receipt_ = 1;
  std::size_t unsettled_ = 0;
  std::size_t most_unsettled_ = 0;
  int polls_ = 0;
  bool paused_ = false;
  bool closed_ = false;
};

class ScriptedSource final : public Source {
 public:
  explicit ScriptedSource(std::shared_ptr<Script> script) : script_{std::move(script)}, channel_{script_->channel} {}

  [[nodiscard]] SourceTraits traits() const noexcept override { return script_->traits; }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }
  void open(const std::string& /*group*/, std::shared_ptr<Logger> /*logger*/) override {}

  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) override {
    std::unique_lock lock{script_->mutex_};
    ++script_->polls_;
    const auto ready = [this] { return !script_->waiting_.empty() && !script_->paused_; };
    script_->changed_.wait_for(lock, wait, ready);
    std::vector<Message> messages;
    while (ready() && messages.size() < max) {
      messages.push_back(std::move(script_->waiting_.front()));
      script_->waiting_.pop_front();
      script_->most_unsettled_ = std::max(script_->most_unsettled_, ++script_->unsettled_);
    }
    return messages;
  }
  void ack(const Message& message) override {
    const std::lock_guard guard{script_->mutex_};
    script_->acked_.push_back(message.id());
    --script_->unsettled_;
  }
  void retry(const Message& message, std::chrono::milliseconds delay) override {
    const std::lock_guard guard{script_->mutex_};
    script_->retried_.emplace_back(message.id(), delay);
    --script_->unsettled_;
  }
  void touch(const Message& message) override {
    const std::lock_guard guard{script_->mutex_};
    script_->touched_.push_back(message.id());
  }
  void pause(bool paused) override {
    const std::lock_guard guard{script_->mutex_};
    script_->paused_ = paused;
  }
  void close(std::chrono::milliseconds /*timeout*/) override {
    const std::lock_guard guard{script_->mutex_};
    script_->closed_ = true;
  }

 private:
  std::shared_ptr<Script> script_;
  std::string channel_;
};

}  // namespace penstock::test
