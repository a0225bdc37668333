// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "support/consumer_run.hpp"
#include "support/scripted_source.hpp"

namespace penstock::test {

using namespace std::chrono_literals;

/// Opens once, for all who wait.
class Gate {
 public:
  void open() {
    const std::lock_guard guard{mutex_};
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, 30s, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

/// What handlers saw, from several threads.
class Seen {
 public:
  void add(const std::string& what) {
    const std::lock_guard guard{mutex_};
    all_.push_back(what);
  }
  [[nodiscard]] std::vector<std::string> all() const {
    const std::lock_guard guard{mutex_};
    return all_;
  }
  [[nodiscard]] std::size_t size() const { return all().size(); }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> all_;
};

inline bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// A source, a store and a clock in memory, and a consumer between them.
class ConsumerTest : public ::testing::Test {
 protected:
  ConsumerTest() {
    options.group = "shipping";
    options.retry = RetryPolicy::fixed(1s).attempts(3);
    options.clock = &clock;
  }

  std::unique_ptr<Running> run(Handler handler) { return run(std::move(handler), store); }
  std::unique_ptr<Running> run(Handler handler, Datastore& datastore) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), datastore, options, std::move(handler)));
  }
  std::unique_ptr<Running> run_without_store(const AtLeastOnce& channels, Handler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), channels, options, std::move(handler)));
  }

  testing::ManualClock clock;
  testing::MemoryDatastore store{clock};
  std::shared_ptr<Script> script = std::make_shared<Script>();
  ConsumerOptions options;
  Seen seen;
};

using Strings = std::vector<std::string>;

}  // namespace penstock::test
