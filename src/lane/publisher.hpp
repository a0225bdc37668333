// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <future>
#include <span>

#include "lane/routing_key.hpp"
#include "lane/sender.hpp"
#include "lane/settings.hpp"
#include "penstock/publisher.hpp"

namespace penstock::lane {

/// One queue or exchange as a destination. See Publisher and Sender.
class LanePublisher final : public Publisher {
 public:
  LanePublisher(const Settings& settings, Target target);
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override;

 private:
  RoutingKey key_;
  Sender sender_;
};

}  // namespace penstock::lane
