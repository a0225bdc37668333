// SPDX-License-Identifier: Apache-2.0
#include "penstock/relay.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

#include "core/relay_channel.hpp"
#include "core/relay_unrouted.hpp"

namespace penstock {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw std::invalid_argument(message);
  }
}

void check(const std::vector<Route>& routes, const RelayOptions& options) {
  require(!routes.empty(), "Relay: there are no routes; give at least one {pattern, channel}");
  for (const Route& route : routes) {
    require(!route.pattern.empty(), "Relay: the route to channel '" + route.channel.name +
                                        "' has no pattern; give one such as \"shop.order.*\", or \"*\" for everything");
    require(route.pattern.front() != '!', "Relay: the pattern '" + route.pattern +
                                              "' begins with '!', which is for what no route matches; name what is wanted");
    require(!route.channel.name.empty() && route.channel.publisher != nullptr,
            "Relay: the route '" + route.pattern + "' has no channel; give it one made by a backend's channel()");
  }
  const auto positive = [](std::chrono::milliseconds value, const char* name) {
    require(value.count() > 0,
            "RelayOptions." + std::string{name} + " is " + std::to_string(value.count()) + " ms; give a time above zero");
  };
  require(options.batch > 0, "RelayOptions.batch is 0; give at least 1");
  require(options.in_flight > 0, "RelayOptions.in_flight is 0; give at least 1");
  require(options.in_flight_bytes > 0, "RelayOptions.in_flight_bytes is 0; give at least 1");
  require(options.systemic.rejected > 0 && options.systemic.rejected <= options.systemic.of && options.systemic.keys > 0,
          "RelayOptions.systemic is " + std::to_string(options.systemic.rejected) + " of " +
              std::to_string(options.systemic.of) + " with " + std::to_string(options.systemic.keys) +
              " keys; give at least 1 each, and no more `rejected` than `of`");
  require(options.rejections > 0,
          "RelayOptions.rejections is " + std::to_string(options.rejections) + "; give at least 1, the first try counts");
  positive(options.publish_timeout, "publish_timeout");
  positive(options.drain_timeout, "drain_timeout");
  positive(options.idle_wait, "idle_wait");
  require(options.clock != nullptr && options.random != nullptr,
          "RelayOptions.clock and .random must not be null; leave them out for the system's");
}

}  // namespace

class Relay::Impl {
 public:
  Impl(EventLog& log, std::vector<Route> routes, const RelayOptions& options) {
    check(routes, options);
    unrouted_ = watch_unrouted(log, routes, options);
    while (!routes.empty()) {
      // The routes to one channel share a cursor, so an event that matches several of them goes there once.
      const Channel channel = routes.front().channel;
      std::vector<std::string> patterns;
      std::erase_if(routes, [&](const Route& route) {
        const bool same = route.channel.backend == channel.backend && route.channel.name == channel.name;
        if (same && std::find(patterns.begin(), patterns.end(), route.pattern) == patterns.end()) {
          patterns.push_back(route.pattern);
        }
        return same;
      });
      channels_.push_back(std::make_unique<RelayChannel>(log, channel, std::move(patterns), options));
    }
  }

  bool run(std::stop_token stop) {
    if (started_.exchange(true)) {
      throw std::logic_error("Relay::run was called before; a relay runs once");
    }
    std::stop_source all;
    const std::stop_callback forward{std::move(stop), [&all] { all.request_stop(); }};
    std::atomic<bool> drained{true};
    std::vector<std::jthread> threads;
    try {
      const auto start = [&](RelayChannel& channel) {
        threads.emplace_back([&drained, &all, &channel] {
          if (!channel.run(all.get_token())) {
            drained = false;
          }
        });
      };
      for (const auto& channel : channels_) {
        start(*channel);
      }
      if (unrouted_) {
        start(*unrouted_);
      }
    } catch (...) {  // no more threads to be had: those that run are stopped, and joined
      all.request_stop();
      throw;
    }
    threads.clear();
    return drained;
  }

  [[nodiscard]] RelayStatus status() const {
    RelayStatus status;
    for (const auto& channel : channels_) {
      status.channels.push_back(channel->status());
    }
    if (unrouted_) {
      status.unrouted = unrouted_->status();
    }
    return status;
  }

 private:
  std::vector<std::unique_ptr<RelayChannel>> channels_;
  std::unique_ptr<RelayChannel> unrouted_;
  std::atomic<bool> started_{false};
};

Relay::Relay(EventLog& log, std::vector<Route> routes, const RelayOptions& options)
    : impl_{std::make_unique<Impl>(log, std::move(routes), options)} {}
Relay::~Relay() = default;

bool Relay::run(std::stop_token stop) { return impl_->run(std::move(stop)); }
RelayStatus Relay::status() const { return impl_->status(); }

}  // namespace penstock
