// SPDX-License-Identifier: Apache-2.0
#include "penstock/conduit.hpp"

#include <mutex>
#include <stdexcept>
#include <utility>

#include "conduit/producer.hpp"
#include "conduit/properties.hpp"
#include "conduit/source.hpp"
#include "conduit/topics.hpp"

namespace penstock {
namespace {

class TopicPublisher final : public Publisher {
 public:
  TopicPublisher(std::shared_ptr<conduit::Producer> producer, std::string topic)
      : producer_{std::move(producer)}, topic_{std::move(topic)} {}

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override {
    return producer_->submit(topic_, events, timeout);
  }
  [[nodiscard]] bool keeps_order() const noexcept override { return true; }

 private:
  std::shared_ptr<conduit::Producer> producer_;
  std::string topic_;
};

}  // namespace

class Conduit::Impl {
 public:
  explicit Impl(ConduitOptions options) : options_{std::move(options)} {
    // Both roles are checked now, so that a wrong property shows here and not in the middle of a run.
    static_cast<void>(conduit::producer_conf(options_));
    static_cast<void>(conduit::consumer_conf(options_, {}, {}));
    if (!options_.prefix.empty())
      conduit::check_topic_name(options_.prefix + "x", "ConduitOptions::prefix makes of 'x' the topic");
  }

  [[nodiscard]] const ConduitOptions& options() const noexcept { return options_; }

  /// Made when first needed: who only consumes has no producer.
  std::shared_ptr<conduit::Producer> producer() {
    const std::lock_guard lock{mutex_};
    if (!producer_) producer_ = std::make_shared<conduit::Producer>(options_);
    return producer_;
  }

 private:
  const ConduitOptions options_;
  std::mutex mutex_;
  std::shared_ptr<conduit::Producer> producer_;
};

Conduit::Conduit(ConduitOptions options) : impl_{std::make_shared<Impl>(std::move(options))} {}
Conduit::~Conduit() = default;
Conduit::Conduit(Conduit&&) noexcept = default;
Conduit& Conduit::operator=(Conduit&&) noexcept = default;

void Conduit::declare(const TopicSpec& topic, std::chrono::milliseconds timeout) {
  TopicSpec prefixed = topic;
  prefixed.name = impl_->options().prefix + topic.name;
  conduit::declare_topic(impl_->options(), prefixed, timeout);
}

Channel Conduit::channel(const std::string& topic) {
  if (topic.empty()) throw std::invalid_argument{"the topic's name is empty"};
  const std::string prefixed = impl_->options().prefix + topic;
  conduit::check_topic_name(prefixed);
  return {.backend = "kafka", .name = topic, .publisher = std::make_shared<TopicPublisher>(impl_->producer(), prefixed)};
}

std::unique_ptr<Source> Conduit::source(const std::string& topic, ConduitSourceOptions options) {
  return conduit::make_source(impl_->options(), topic, std::move(options));
}

}  // namespace penstock
