// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <future>
#include <span>
#include <string>

#include "lane/sender.hpp"
#include "lane/settings.hpp"
#include "penstock/publisher.hpp"

namespace penstock::lane {

/// One queue as a destination. See Publisher and Sender.
class LanePublisher final : public Publisher {
 public:
  LanePublisher(const Settings& settings, const std::string& queue);
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override;

 private:
  std::string queue_;
  Sender sender_;
};

}  // namespace penstock::lane
