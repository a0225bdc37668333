// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lane/url.hpp"
#include "penstock/lane.hpp"
#include "penstock/logger.hpp"
#include "penstock/uuid.hpp"
#include "support/raw_amqp.hpp"

namespace penstock::lane_test {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

inline constexpr auto patience = 60s;

inline std::string url() {
  const char* value = std::getenv("PENSTOCK_AMQP_URL");
  if (value == nullptr || *value == '\0') {
    throw std::runtime_error{"PENSTOCK_AMQP_URL is not set: run the test through ctest or scripts/with-services"};
  }
  return value;
}

/// The server's address with another port, or other credentials.
inline std::string url_by(std::uint16_t port) { return "amqp://guest:guest@127.0.0.1:" + std::to_string(port) + "/%2f"; }
inline std::uint16_t port() { return static_cast<std::uint16_t>(lane::parse_url(url()).port); }

inline bool eventually(const std::function<bool()>& condition) {
  const auto deadline = SteadyClock::now() + patience;
  while (!condition()) {
    if (SteadyClock::now() > deadline) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

inline Event event(int number) {
  return {.id = uuid7(),
          .source = "/lane-test",
          .type = "lane.tested.v1",
          .key = "key-" + std::to_string(number),
          .data = "{\"number\":" + std::to_string(number) + "}",
          .content_type = "application/json"};
}
inline std::vector<Event> events(int count) {
  std::vector<Event> made;
  for (int i = 0; i < count; ++i) made.push_back(event(i));
  return made;
}

/// Keeps what was logged.
class Memo final : public Logger {
 public:
  void log(LogLevel /*level*/, const std::string& message) override {
    const std::lock_guard lock{mutex_};
    text_ += message + "\n";
  }
  [[nodiscard]] std::string text() const {
    const std::lock_guard lock{mutex_};
    return text_;
  }
  [[nodiscard]] bool has(std::string_view part) const { return text().find(part) != std::string::npos; }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

/// A queue of its own name for each test, removed at its end.
class LaneTest : public ::testing::Test {
 protected:
  ~LaneTest() override {
    for (const std::string& name : made_) {
      try {
        support::RawAmqp{url()}.remove(name);
      } catch (const std::exception&) {  // a test may have removed it
      }
    }
  }
  std::string fresh(const std::string& what = "queue") {
    made_.push_back("lane-test-" + what + "-" + uuid7());
    return made_.back();
  }
  /// A queue that is there already, so that declaring it takes no time: for tests in which RabbitMQ does not crash.
  std::string ready(QueueSpec::Kind kind = QueueSpec::Kind::quorum) {
    const auto queue = fresh();
    support::RawAmqp{url()}.declare_as_lane(queue, kind == QueueSpec::Kind::quorum);
    return queue;
  }
  void clean_up(const std::string& queue) { made_.push_back(queue); }

  /// The next messages, unsettled.
  static std::vector<Message> take(Source& source, std::size_t count) {
    std::vector<Message> taken;
    EXPECT_TRUE(eventually([&] {
      for (Message& message : source.poll(count - taken.size(), 50ms)) taken.push_back(std::move(message));
      return taken.size() == count;
    })) << taken.size()
        << " of " << count << " messages came";
    return taken;
  }

 private:
  std::vector<std::string> made_;
};

}  // namespace penstock::lane_test
