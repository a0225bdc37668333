// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"
#include "raw.hpp"

namespace penstock::bench {

/// One of the three brokers, as both sides reach it.
struct Backend {
  std::string name{};
  std::string client{};
  double drain_events = 0;
  double publish_events = 0;
  Json settings = Json::object();
  std::function<std::unique_ptr<RawBroker>(const Config&)> raw{};
  std::function<Channel(const Config&, const std::string& destination)> channel{};  ///< over a connection of its own
  std::function<std::unique_ptr<Source>(const Config&, const std::string& destination)> source{};
};

/// Those whose servers were started.
std::vector<Backend> backends(const Config& config);

/// A topic, queue or stream of its own, removed at the end.
class Destination {
 public:
  explicit Destination(RawBroker& broker);
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  RawBroker& broker_;
  std::string name_;
};

/// The bare client publishes so many events from memory, to a destination of their own.
Samples publish_raw(const Config& config, const Backend& backend, std::size_t events);

}  // namespace penstock::bench
