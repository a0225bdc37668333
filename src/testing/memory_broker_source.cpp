// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/spare_messages.hpp"
#include "testing/memory_broker_channel.hpp"

namespace penstock::testing::memory {
namespace {

/// As long as anybody waits: keeps the sum with the clock's time from overflowing.
std::chrono::milliseconds bounded(std::chrono::milliseconds wait) {
  return std::clamp(wait, std::chrono::milliseconds{0}, std::chrono::milliseconds{std::chrono::hours{24 * 365}});
}

class MemorySource final : public Source {
 public:
  MemorySource(std::shared_ptr<ChannelState> channel, Clock& clock, MemorySourceOptions options)
      : channel_{std::move(channel)}, clock_{clock} {
    if (options.prefetch == 0) throw std::invalid_argument{"prefetch is 0, so nothing would ever be delivered; at least 1"};
    member_.prefetch = options.prefetch;
  }
  ~MemorySource() override {
    if (member_.group != nullptr) channel_->leave(member_);
  }

  [[nodiscard]] SourceTraits traits() const noexcept override { return {.ordered = true, .replayable = true, .delays = true}; }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_->name(); }

  void open(const std::string& group, std::shared_ptr<Logger> logger) override {
    static_cast<void>(logger);
    if (opened_) throw std::logic_error{"the source of '" + channel() + "' was opened before; a source is opened once"};
    opened_ = true;
    channel_->join(member_, group);
  }

  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) override {
    return spare_.filled(max, [&](const MessageRoom& room) { return poll_into(room, max, wait); });
  }

  std::size_t poll_into(const MessageRoom& room, std::size_t max, std::chrono::milliseconds wait) override {
    require_open("poll");
    deliveries_.clear();
    channel_->poll(member_, max, clock_.now() + bounded(wait), deliveries_);
    for (const Delivery& delivery : deliveries_) fill(room(), delivery);
    return deliveries_.size();
  }

  void ack(const Message& message) override { channel_->ack(member_, message.receipt); }
  void ack_all(std::span<const Message* const> messages) override { channel_->ack(member_, messages); }
  void recycle(std::vector<Message> messages) override { spare_.put(std::move(messages)); }
  void retry(const Message& message, std::chrono::milliseconds delay) override {
    channel_->retry(member_, message.receipt, bounded(delay));
  }

  void pause(bool paused) override {
    require_open("pause");
    channel_->pause(member_, paused);
  }

  void close(std::chrono::milliseconds timeout) override {
    static_cast<void>(timeout);  // nothing is on its way: settlements take effect as they are made
    if (member_.group == nullptr) return;
    channel_->leave(member_);
  }

 private:
  void require_open(const char* what) const {
    if (member_.group == nullptr) {
      throw std::logic_error{std::string{what} + " on the source of '" + channel() + "', which is not open"};
    }
  }

  void fill(Message& message, const Delivery& delivery) const {
    message.wire = delivery.record->wire;
    message.origin.backend = "memory";
    message.origin.channel = channel_->name();
    message.origin.partition = static_cast<std::int32_t>(delivery.partition);
    message.origin.position = static_cast<std::int64_t>(delivery.offset);
    message.origin.deliveries = delivery.deliveries;
    message.origin.redelivered = delivery.deliveries > 1;
    message.receipt = delivery.tag;
    try {
      decode_into(message.wire, Binding::kafka, message.event);
    } catch (const MalformedMessage& error) {
      message.event = {};
      message.defect = error.what();
    }
  }

  std::shared_ptr<ChannelState> channel_;
  Clock& clock_;
  bool opened_ = false;
  Member member_;
  std::vector<Delivery> deliveries_;  ///< of the poll
  SpareMessages spare_;
};

}  // namespace

std::unique_ptr<Source> make_source(std::shared_ptr<ChannelState> channel, Clock& clock, MemorySourceOptions options) {
  return std::make_unique<MemorySource>(std::move(channel), clock, options);
}

}  // namespace penstock::testing::memory
