// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "penstock/clock.hpp"
#include "penstock/export.hpp"
#include "penstock/logger.hpp"
#include "penstock/random.hpp"
#include "penstock/retry_policy.hpp"

namespace penstock {

struct CircuitBreakerOptions {
  std::string name{};        ///< required: of the provider, for errors, log and status
  std::size_t failures = 5;  ///< it opens when so many …
  std::size_t of = 10;       ///< … of the last calls have failed
  RetryPolicy pause = RetryPolicy::exponential(std::chrono::milliseconds{1'000})
                          .cap(std::chrono::minutes{1})
                          .attempts(std::numeric_limits<int>::max())
                          .jitter(Jitter::equal);  ///< how long it stays open, by how often in a row it opened
  std::size_t probes = 1;                          ///< calls let through at once while it is half open
  Clock* clock = &Clock::system();
  Random* random = &Random::system();
  std::shared_ptr<Logger> logger{};
};

/// Keeps calls from a provider that is failing. Closed, all calls go through. Open, none does: `call` throws CallRefused, which
/// says when to come again. After the pause it is half open: `probes` calls at a time go through; the first success closes it,
/// a failure opens it for a longer pause.
///
///     CircuitBreaker payments{{.name = "payments"}};
///     ... in a handler:
///     auto call = payments.call();                    // throws CallRefused: let it pass
///     const Answer answer = provider.charge(order);   // throws: a failure
///     call.succeeded();                               // "card declined" is an answer, too
///
/// Where a handler can do nothing without the provider, name it in ConsumerOptions::depends_on: the source is then paused while
/// it is open. Its state is this process's own.
///
/// Thread safety: any thread. Lifetime: a handle; copies share one breaker, and calls may outlive them. Clock and Random must
/// outlive all of them.
class PENSTOCK_EXPORT CircuitBreaker {
  class Impl;

 public:
  enum class State : std::uint8_t { closed, open, half_open };

  /// A call that was let through. What is not said to have succeeded has failed.
  class PENSTOCK_EXPORT Call {
   public:
    Call(Call&&) noexcept = default;
    Call& operator=(Call&&) = delete;
    ~Call();
    void succeeded();
    void failed();
    void forget();  ///< it was cancelled: neither

   private:
    friend class CircuitBreaker;
    Call(std::shared_ptr<Impl> impl, std::uint64_t number) : impl_{std::move(impl)}, number_{number} {}
    std::shared_ptr<Impl> impl_;
    std::uint64_t number_;
  };

  /// Throws std::invalid_argument, naming the option, the value and the remedy.
  explicit CircuitBreaker(CircuitBreakerOptions options);

  /// Does not block. Throws CallRefused.
  [[nodiscard]] Call call();
  [[nodiscard]] State state() const;
  /// Zero unless it is open.
  [[nodiscard]] std::chrono::milliseconds retry_in() const;
  [[nodiscard]] const std::string& name() const noexcept;

 private:
  std::shared_ptr<Impl> impl_;
};

PENSTOCK_EXPORT const char* to_string(CircuitBreaker::State state) noexcept;

}  // namespace penstock
