// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/memory_broker.hpp"

#include <chrono>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "penstock/envelope.hpp"
#include "penstock/uuid.hpp"
#include "testing/memory_broker_channel.hpp"

namespace penstock::testing {
namespace memory {
namespace {

class MemoryPublisher final : public Publisher {
 public:
  MemoryPublisher(std::shared_ptr<ChannelState> channel, std::size_t largest_message)
      : channel_{std::move(channel)}, largest_message_{largest_message} {}

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override {
    static_cast<void>(timeout);  // the outcome is known at once
    std::vector<std::optional<Wire>> wires(events.size());
    Outcomes outcomes(events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      if (const std::size_t size = events[i].data ? events[i].data->size() : 0; size > largest_message_) {
        outcomes[i] = {Outcome::Status::rejected, "the payload has " + std::to_string(size) +
                                                      " bytes; the memory broker takes " + std::to_string(largest_message_)};
        continue;
      }
      try {
        wires[i] = encode(events[i], Binding::kafka);
      } catch (const InvalidEvent& error) {
        outcomes[i] = {Outcome::Status::rejected, error.what()};
      }
    }
    std::promise<Outcomes> promise;
    promise.set_value(channel_->store(std::move(wires), std::move(outcomes)));
    return promise.get_future();
  }

 private:
  std::shared_ptr<ChannelState> channel_;
  std::size_t largest_message_;
};

}  // namespace

std::shared_ptr<Publisher> make_publisher(std::shared_ptr<ChannelState> channel, std::size_t largest_message) {
  return std::make_shared<MemoryPublisher>(std::move(channel), largest_message);
}

}  // namespace memory

class MemoryBroker::Impl {
 public:
  explicit Impl(MemoryBrokerOptions options) : options_{options}, random_{Random::seeded(options.seed)} {
    if (options_.clock == nullptr)
      throw std::invalid_argument{"MemoryBrokerOptions::clock is null; leave it out or give a Clock"};
  }

  [[nodiscard]] const MemoryBrokerOptions& options() const noexcept { return options_; }
  [[nodiscard]] Random& random() noexcept { return *random_; }

  std::shared_ptr<memory::ChannelState> find(const std::string& name) {
    const std::lock_guard lock{mutex_};
    auto& channel = channels_[name];
    if (!channel) channel = std::make_shared<memory::ChannelState>(name, options_, down_);
    return channel;
  }

  void set_down(bool down) {
    const std::lock_guard lock{mutex_};
    down_ = down;
    for (const auto& [name, channel] : channels_) channel->set_down(down);
  }

  std::vector<std::shared_ptr<memory::ChannelState>> channels() {
    const std::lock_guard lock{mutex_};
    std::vector<std::shared_ptr<memory::ChannelState>> all;
    all.reserve(channels_.size());
    for (const auto& [name, channel] : channels_) all.push_back(channel);
    return all;
  }

 private:
  const MemoryBrokerOptions options_;
  std::unique_ptr<Random> random_;
  std::mutex mutex_;  ///< taken before a channel's own, never after
  std::map<std::string, std::shared_ptr<memory::ChannelState>> channels_;
  bool down_ = false;
};

namespace {

void append_events(const memory::ChannelState& channel, std::vector<Event>& events) {
  for (const auto& record : channel.stored()) {
    try {
      events.push_back(decode(record->wire, Binding::kafka));
    } catch (const MalformedMessage&) {  // a stranger's bytes are no event
    }
  }
}

}  // namespace

MemoryBroker::MemoryBroker(MemoryBrokerOptions options) : impl_{std::make_shared<Impl>(options)} {}
MemoryBroker::~MemoryBroker() = default;
MemoryBroker::MemoryBroker(MemoryBroker&&) noexcept = default;
MemoryBroker& MemoryBroker::operator=(MemoryBroker&&) noexcept = default;

void MemoryBroker::declare(const std::string& channel, int partitions) { impl_->find(channel)->declare(partitions); }

Channel MemoryBroker::channel(const std::string& name) {
  return {"memory", name, memory::make_publisher(impl_->find(name), impl_->options().largest_message)};
}

std::unique_ptr<Source> MemoryBroker::source(const std::string& channel, MemorySourceOptions options) {
  return memory::make_source(impl_->find(channel), *impl_->options().clock, options);
}

Outcome MemoryBroker::publish(const std::string& channel, Event event) {
  const Clock::TimePoint now = impl_->options().clock->now();
  if (event.id.empty()) event.id = uuid7(now, impl_->random());
  if (event.source.empty()) event.source = "/penstock/testing";
  if (event.time.empty()) event.time = format_time(now);
  if (event.content_type.empty() && event.data) event.content_type = "application/json";
  return this->channel(channel).publisher->publish(event, std::chrono::milliseconds{0});
}

void MemoryBroker::put(const std::string& channel, Wire wire) { impl_->find(channel)->put(std::move(wire)); }

std::vector<Event> MemoryBroker::published(const std::string& channel) const {
  std::vector<Event> events;
  append_events(*impl_->find(channel), events);
  return events;
}

std::vector<Event> MemoryBroker::dead_letters() const {
  constexpr std::string_view suffix = ".dead";
  std::vector<Event> events;
  for (const auto& channel : impl_->channels()) {
    if (std::string_view{channel->name()}.ends_with(suffix)) append_events(*channel, events);
  }
  return events;
}

std::size_t MemoryBroker::pending(const std::string& channel, const std::string& group) const {
  return impl_->find(channel)->pending(group);
}

bool MemoryBroker::wait_settled(const std::string& channel, const std::string& group,
                                std::chrono::milliseconds patience) const {
  return impl_->find(channel)->wait_settled(group, patience);
}

std::string MemoryBroker::describe(const std::string& channel) const { return impl_->find(channel)->describe(); }

void MemoryBroker::set_down(bool down) { impl_->set_down(down); }

void MemoryBroker::fail_next(const std::string& channel, std::size_t count, Outcome::Status status) {
  impl_->find(channel)->fail_next(count, status);
}

void MemoryBroker::lose_acks(const std::string& channel, std::size_t count) { impl_->find(channel)->lose_acks(count); }

void MemoryBroker::set_faults(const std::string& channel, const MemoryFaults& faults) {
  impl_->find(channel)->set_faults(faults);
}

void MemoryBroker::rebalance(const std::string& channel, const std::string& group) { impl_->find(channel)->rebalance(group); }

}  // namespace penstock::testing
