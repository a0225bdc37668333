// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <stop_token>
#include <thread>
#include <utility>

#include "penstock/consumer.hpp"

namespace penstock::test {

/// A consumer that runs on a thread of its own until `stop`, or the end.
class Running {
 public:
  explicit Running(std::unique_ptr<Consumer> consumer) : consumer_{std::move(consumer)} {
    thread_ = std::jthread{[this](const std::stop_token& stop) { in_time_ = consumer_->run(stop); }};
  }
  /// What `run` returned.
  bool stop() {
    thread_.request_stop();
    thread_.join();
    return in_time_;
  }
  void request_stop() { thread_.request_stop(); }
  [[nodiscard]] ConsumerStatus status() const { return consumer_->status(); }

 private:
  std::unique_ptr<Consumer> consumer_;
  bool in_time_ = false;
  std::jthread thread_;
};

}  // namespace penstock::test
