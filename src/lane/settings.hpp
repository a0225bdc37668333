// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "lane/topology.hpp"
#include "lane/url.hpp"
#include "penstock/logger.hpp"

namespace penstock::lane {

/// What everything made by one Lane shares.
struct Settings {
  Address address{};
  std::string prefix{};
  std::chrono::seconds heartbeat{};
  std::size_t window = 0;
  std::shared_ptr<Logger> logger{};
  std::shared_ptr<Topology> topology{};

  /// The queue of a channel. Throws std::invalid_argument when RabbitMQ would not take its name.
  [[nodiscard]] std::string queue_of(const std::string& channel) const {
    if (channel.empty()) check_queue_name(channel);
    check_queue_name(prefix + channel);
    return prefix + channel;
  }
  /// The same for an exchange.
  [[nodiscard]] std::string exchange_of(const std::string& name) const {
    check_exchange_name(prefix + name);
    return prefix + name;
  }
};

inline void log(const std::shared_ptr<Logger>& logger, LogLevel level, const std::string& message) noexcept {
  if (!logger) return;
  try {
    logger->log(level, message);
  } catch (...) {  // a logger that fails is no reason to stop
  }
}

}  // namespace penstock::lane
