// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "options.hpp"
#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"

namespace shop {

/// Where the pipeline's channels live: on Kafka, RabbitMQ and NATS, or all in memory. The roles do not know which.
class Brokers {
 public:
  virtual ~Brokers() = default;
  /// Creates what is missing: topic `order-events`, queue `fulfillment-jobs`, stream `notifications`, and `<channel>.dead` for
  /// each.
  virtual void declare() = 0;
  /// `name` is one of those channels.
  virtual penstock::Channel channel(const std::string& name) = 0;
  virtual std::unique_ptr<penstock::Source> source(const std::string& name) = 0;
};

std::unique_ptr<Brokers> real_brokers(const Options& options, std::shared_ptr<penstock::Logger> logger);
std::unique_ptr<Brokers> memory_brokers();

}  // namespace shop
