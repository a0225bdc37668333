// SPDX-License-Identifier: Apache-2.0
#include "brokers.hpp"

#include <array>
#include <stdexcept>

#include "penstock/beacon.hpp"
#include "penstock/conduit.hpp"
#include "penstock/lane.hpp"
#include "penstock/testing/memory_broker.hpp"

namespace shop {
namespace {

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

class RealBrokers final : public Brokers {
 public:
  RealBrokers(const Options& options, const std::shared_ptr<penstock::Logger>& logger)
      : conduit_{{.bootstrap_servers = options.kafka, .properties = {}, .logger = logger}},
        lane_{{.url = options.amqp, .logger = logger}},
        beacon_{{.url = options.nats, .logger = logger}} {}

  void declare() override {
    conduit_.declare({.name = "order-events", .partitions = 8});
    conduit_.declare({.name = "order-events.dead", .partitions = 1});
    lane_.declare(
        std::array{penstock::QueueSpec{.name = "fulfillment-jobs"}, penstock::QueueSpec{.name = "fulfillment-jobs.dead"}});
    beacon_.declare({.name = "notifications"});
    beacon_.declare({.name = "notifications.dead"});
  }

  penstock::Channel channel(const std::string& name) override {
    if (starts_with(name, "order-events")) return conduit_.channel(name);
    if (starts_with(name, "fulfillment-jobs")) return lane_.channel(name);
    if (starts_with(name, "notifications")) return beacon_.channel(name);
    throw std::invalid_argument{"the pipeline has no channel '" + name + "'"};
  }

  std::unique_ptr<penstock::Source> source(const std::string& name) override {
    if (name == "order-events") return conduit_.source(name, {.properties = {{"session.timeout.ms", "6000"}}});
    if (name == "fulfillment-jobs") return lane_.source(name, {.prefetch = 32});
    if (name == "notifications") return beacon_.source(name);
    throw std::invalid_argument{"the pipeline has no channel '" + name + "'"};
  }

 private:
  penstock::Conduit conduit_;
  penstock::Lane lane_;
  penstock::Beacon beacon_;
};

class MemoryBrokers final : public Brokers {
 public:
  void declare() override {
    broker_.declare("order-events", 8);
    for (const char* name :
         {"order-events.dead", "fulfillment-jobs", "fulfillment-jobs.dead", "notifications", "notifications.dead"}) {
      broker_.declare(name);
    }
  }
  penstock::Channel channel(const std::string& name) override { return broker_.channel(name); }
  std::unique_ptr<penstock::Source> source(const std::string& name) override { return broker_.source(name); }

 private:
  penstock::testing::MemoryBroker broker_;
};

}  // namespace

std::unique_ptr<Brokers> real_brokers(const Options& options, std::shared_ptr<penstock::Logger> logger) {
  return std::make_unique<RealBrokers>(options, logger);
}
std::unique_ptr<Brokers> memory_brokers() { return std::make_unique<MemoryBrokers>(); }

}  // namespace shop
