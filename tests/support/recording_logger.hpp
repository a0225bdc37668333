// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "penstock/logger.hpp"

namespace penstock::test {

/// Keeps what is logged as an error. Any thread.
class RecordingLogger final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    const std::lock_guard lock{mutex_};
    if (level == LogLevel::error) {
      errors_.push_back(message);
    }
  }
  std::vector<std::string> errors() {
    const std::lock_guard lock{mutex_};
    return errors_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

}  // namespace penstock::test
