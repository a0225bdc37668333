// SPDX-License-Identifier: Apache-2.0
#include "penstock/bulkhead.hpp"

#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "core/limits.hpp"
#include "penstock/call_refused.hpp"

namespace penstock {

namespace {

using std::chrono::milliseconds;

BulkheadOptions checked(BulkheadOptions options) {
  const auto refuse = [](const std::string& option, const std::string& value, const std::string& remedy) {
    throw std::invalid_argument{"BulkheadOptions::" + option + " is " + value + ": " + remedy};
  };
  if (options.name.empty()) {
    refuse("name", "''", "give the provider's name");
  }
  if (options.calls < 1) {
    refuse("calls", "0", "give at least 1");
  }
  if (options.patience < milliseconds{0}) {
    refuse("patience", std::to_string(options.patience.count()) + " ms", "give a time that is not negative");
  }
  if (options.clock == nullptr) {
    refuse("clock", "null", "leave it out for the system's");
  }
  return options;
}

class OwnPlaces final : public limits::Places {
 public:
  explicit OwnPlaces(BulkheadOptions given) : options{checked(std::move(given))} {}

  void enter(const std::stop_token& stop) override {
    std::unique_lock lock{mutex};
    const Clock::TimePoint until = options.clock->now() + options.patience;
    while (running >= options.calls) {
      if (stop.stop_requested()) {
        throw CallRefused{"stopped while waiting for a place at " + options.name, milliseconds{0}};
      }
      if (options.clock->now() >= until) {
        throw CallRefused{options.name + " has " + std::to_string(running) + " calls at once and takes no more",
                          options.patience};
      }
      options.clock->wait_until(left, lock, until, stop);
    }
    ++running;
  }

  void leave() override {
    const std::lock_guard guard{mutex};
    --running;
    left.notify_one();
  }

 private:
  const BulkheadOptions options;
  std::mutex mutex;
  std::condition_variable_any left;
  std::size_t running = 0;
};

}  // namespace

Bulkhead::Bulkhead(BulkheadOptions options) : places_{std::make_shared<OwnPlaces>(std::move(options))} {}

Bulkhead::Place Bulkhead::enter(const std::stop_token& stop) {
  places_->enter(stop);
  return Place{places_};
}

Bulkhead::Place::~Place() {
  if (places_) {
    places_->leave();
  }
}

}  // namespace penstock
