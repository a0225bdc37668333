// SPDX-License-Identifier: Apache-2.0
#include "penstock/circuit_breaker.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <utility>

#include "core/breaker.hpp"
#include "core/text.hpp"
#include "penstock/call_refused.hpp"

namespace penstock {

namespace {

using std::chrono::milliseconds;

CircuitBreakerOptions checked(CircuitBreakerOptions options) {
  const auto refuse = [](const std::string& option, const std::string& value, const std::string& remedy) {
    throw std::invalid_argument{"CircuitBreakerOptions::" + option + " is " + value + ": " + remedy};
  };
  if (options.name.empty()) {
    refuse("name", "''", "give the provider's name");
  }
  if (options.failures < 1 || options.failures > options.of) {
    refuse("failures", std::to_string(options.failures), "give 1 to `of`, which is " + std::to_string(options.of));
  }
  if (options.probes < 1) {
    refuse("probes", "0", "give at least 1, or it would never close");
  }
  if (options.clock == nullptr || options.random == nullptr) {
    refuse(options.clock == nullptr ? "clock" : "random", "null", "leave it out for the system's");
  }
  return options;
}

}  // namespace

class CircuitBreaker::Impl {
 public:
  explicit Impl(CircuitBreakerOptions given)
      : options{checked(std::move(given))},
        breaker{{.rejected = options.failures, .of = options.of, .keys = 1}, options.pause, *options.clock, *options.random} {}

  std::uint64_t enter() {
    const State state = breaker.state();
    if (state == State::open) {
      refuse("is open", breaker.retry_in());
    }
    if (state == State::half_open) {
      const std::lock_guard guard{mutex};
      if (probing >= options.probes) {
        refuse("tries whether it is back", longest_look);
      }
      ++probing;
      return probe;
    }
    return ++calls;
  }

  void leave(std::uint64_t number, bool judged, bool failed) {
    if (number == probe) {
      const std::lock_guard guard{mutex};
      --probing;
    }
    if (!judged || (!failed && breaker.quiet())) {
      return;
    }
    // What began before it opened says nothing of how it is now.
    if (number != probe && breaker.state() != State::closed) {
      return;
    }
    report(breaker.judged(number, {}, failed, false));
  }

  const CircuitBreakerOptions options;
  Breaker breaker;

 private:
  static constexpr std::uint64_t probe = 0;
  static constexpr milliseconds longest_look{1'000};

  [[noreturn]] void refuse(const std::string& why, milliseconds retry_in) const {
    throw CallRefused{
        "the circuit breaker of " + options.name + " " + why + "; again in " + std::to_string(retry_in.count()) + " ms",
        retry_in};
  }

  void report(Breaker::Change change) {
    if (!options.logger || change == Breaker::Change::none) {
      return;
    }
    const std::string name = "circuit breaker " + text::clean(options.name, 100);
    const std::string wait = std::to_string(breaker.retry_in().count()) + " ms";
    try {
      switch (change) {
        case Breaker::Change::none: break;
        case Breaker::Change::opened:
          options.logger->log(LogLevel::error, name + ": too many calls failed, it is open for " + wait);
          break;
        case Breaker::Change::opened_again:
          options.logger->log(LogLevel::warn, name + ": still fails, open for " + wait);
          break;
        case Breaker::Change::closed: options.logger->log(LogLevel::info, name + ": a call succeeded, it is closed"); break;
      }
    } catch (...) {  // a logger must not throw; what it throws is dropped
      return;
    }
  }

  std::atomic<std::uint64_t> calls{0};
  std::mutex mutex;
  std::size_t probing = 0;
};

CircuitBreaker::CircuitBreaker(CircuitBreakerOptions options) : impl_{std::make_shared<Impl>(std::move(options))} {}

CircuitBreaker::Call CircuitBreaker::call() { return {impl_, impl_->enter()}; }

CircuitBreaker::State CircuitBreaker::state() const { return impl_->breaker.state(); }

milliseconds CircuitBreaker::retry_in() const { return impl_->breaker.retry_in(); }

const std::string& CircuitBreaker::name() const noexcept { return impl_->options.name; }

CircuitBreaker::Call::~Call() {
  if (impl_) {
    impl_->leave(number_, true, true);
  }
}

void CircuitBreaker::Call::succeeded() {
  if (const auto impl = std::exchange(impl_, nullptr)) {
    impl->leave(number_, true, false);
  }
}

void CircuitBreaker::Call::failed() {
  if (const auto impl = std::exchange(impl_, nullptr)) {
    impl->leave(number_, true, true);
  }
}

void CircuitBreaker::Call::forget() {
  if (const auto impl = std::exchange(impl_, nullptr)) {
    impl->leave(number_, false, false);
  }
}

const char* to_string(CircuitBreaker::State state) noexcept {
  switch (state) {
    case CircuitBreaker::State::closed: return "closed";
    case CircuitBreaker::State::open: return "open";
    case CircuitBreaker::State::half_open: return "half open";
  }
  return "closed";
}

}  // namespace penstock
