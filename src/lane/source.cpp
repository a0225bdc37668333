// SPDX-License-Identifier: Apache-2.0
#include "lane/source.hpp"

#include <chrono>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lane/subscription.hpp"

namespace penstock::lane {

LaneSource::LaneSource(const Settings& settings, std::string channel, LaneSourceOptions options)
    : settings_{settings}, channel_{std::move(channel)}, queue_{settings_.queue_of(channel_)}, options_{options} {
  if (options_.prefetch == 0) {
    throw std::invalid_argument{"LaneSourceOptions::prefetch is 0, which means no limit to RabbitMQ; give a number from 1"};
  }
}

LaneSource::~LaneSource() = default;

// A message that is given back returns behind later ones, so RabbitMQ's order ends with the first failure.
SourceTraits LaneSource::traits() const noexcept { return {.ordered = false, .replayable = false, .delays = true}; }

void LaneSource::open(const std::string& group, std::shared_ptr<Logger> logger) {
  if (subscription_) throw std::logic_error{"the source of '" + queue_ + "' is open already; make another one"};
  if (logger) settings_.logger = std::move(logger);
  subscription_ = std::make_unique<Subscription>(settings_, queue_, options_.prefetch, group);
}

Subscription& LaneSource::subscription() {
  if (!subscription_) throw std::logic_error{"the source of '" + queue_ + "' is not open; call open first"};
  return *subscription_;
}

std::vector<Message> LaneSource::poll(std::size_t max, std::chrono::milliseconds wait) {
  std::vector<Message> messages = subscription().poll(max, wait);
  for (Message& message : messages) message.origin.channel = channel_;
  return messages;
}
void LaneSource::ack(const Message& message) { subscription().ack(message); }
void LaneSource::retry(const Message& message, std::chrono::milliseconds delay) { subscription().retry(message, delay); }
void LaneSource::pause(bool paused) { subscription().pause(paused); }
void LaneSource::close(std::chrono::milliseconds timeout) {
  if (subscription_) subscription_->close(timeout);
}

}  // namespace penstock::lane
