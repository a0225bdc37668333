// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "penstock/export.hpp"

namespace penstock {

enum class LogLevel : std::uint8_t { debug, info, warn, error };

/// Where the library speaks. Without one it is silent. Messages never hold a payload or a secret.
/// Thread safety: `log` is called from any thread, also from several at once. It must not throw; what it throws is dropped.
class PENSTOCK_EXPORT Logger {
 public:
  virtual ~Logger() = default;
  virtual void log(LogLevel level, const std::string& message) = 0;
};

/// Writes through a spdlog logger, or anything with `debug`, `info`, `warn` and `error` that take a string:
///
///     auto logger = penstock::log_to(spdlog::default_logger());
///
/// A template, so that penstock itself neither includes nor links spdlog. Shares ownership of the logger.
template <class Target>
std::shared_ptr<Logger> log_to(std::shared_ptr<Target> target) {
  class Adapter final : public Logger {
   public:
    explicit Adapter(std::shared_ptr<Target> to) : target_{std::move(to)} {}
    void log(LogLevel level, const std::string& message) override {
      switch (level) {
        case LogLevel::debug: target_->debug(message); break;
        case LogLevel::info: target_->info(message); break;
        case LogLevel::warn: target_->warn(message); break;
        case LogLevel::error: target_->error(message); break;
      }
    }

   private:
    std::shared_ptr<Target> target_;
  };
  return std::make_shared<Adapter>(std::move(target));
}

}  // namespace penstock
