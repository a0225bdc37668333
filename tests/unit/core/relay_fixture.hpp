// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/relay.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "unit/core/relay_fakes.hpp"

namespace penstock::test {

constexpr auto kCursor = "memory:orders";

template <class Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

inline std::vector<std::string> ids(const std::string& prefix, int count) {
  std::vector<std::string> result;
  for (int i = 0; i < count; ++i) {
    result.push_back(prefix + std::to_string(i));
  }
  return result;
}

class RelayTest : public ::testing::Test {
 protected:
  ScriptedLog log_;
  std::shared_ptr<ScriptedPublisher> publisher_ = std::make_shared<ScriptedPublisher>(confirmed);
  ::penstock::testing::ManualClock clock_;
  RelayOptions options_ = [] {
    RelayOptions options;
    options.idle_wait = 5ms;
    options.retry = RetryPolicy::fixed(5ms);

    return options;
  }();

  std::unique_ptr<Relay> relay_;
  std::optional<bool> drained_;
  std::jthread thread_;

  ~RelayTest() override { stop(); }

  void start() {
    relay_ = std::make_unique<Relay>(log_, std::vector<Route>{{"*", {"memory", "orders", publisher_}}}, options_);
    thread_ = std::jthread{[this](std::stop_token token) { drained_ = relay_->run(std::move(token)); }};
  }
  bool stop() {
    if (thread_.joinable()) {
      thread_.request_stop();
      thread_.join();
    }
    return drained_.value_or(false);
  }
  RelayStatus::PerChannel status() { return relay_->status().channels.at(0); }
  bool all_stored(std::size_t count) {
    return eventually([&] { return publisher_->stored().size() >= count; });
  }
};

}  // namespace penstock::test
