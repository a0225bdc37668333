// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "penstock/logger.hpp"

namespace penstock::conduit {

/// Speaks to the user's Logger, if there is one. What repeats is said at most once per interval, with how often it was not.
/// Thread safety: any thread. Lifetime: shares the logger.
class ClientLog {
 public:
  ClientLog(std::shared_ptr<Logger> logger, std::string prefix, std::chrono::milliseconds interval = std::chrono::seconds{10});

  void say(LogLevel level, const std::string& text) noexcept;
  /// `kind` tells what counts as the same thing said again.
  void say_rarely(LogLevel level, const std::string& kind, const std::string& text) noexcept;
  /// A line of librdkafka's own, with a syslog level.
  void relay(int syslog_level, const char* facility, const char* text) noexcept;

 private:
  struct Last {
    std::chrono::steady_clock::time_point said{};
    std::uint64_t unsaid = 0;
  };

  std::shared_ptr<Logger> logger_;
  std::string prefix_;
  std::chrono::milliseconds interval_;
  std::mutex mutex_;
  std::map<std::string, Last> last_;
};

}  // namespace penstock::conduit
