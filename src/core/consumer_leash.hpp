// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>

#include "penstock/clock.hpp"

namespace penstock::consumer {

/// The time one worker's handler has. Without a timeout it is not felt at all.
///
/// Thread safety: `Run` on the worker's thread, `expire` on another. Lifetime: must outlive its runs.
class Leash {
 public:
  using TimePoint = Clock::TimePoint;

  Leash(std::chrono::milliseconds timeout, std::function<TimePoint()> now) : timeout_{timeout}, now_{std::move(now)} {}
  Leash(const Leash&) = delete;
  Leash& operator=(const Leash&) = delete;

  /// One call of a handler.
  class Run {
   public:
    Run(Leash& leash, const std::stop_token& stop);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    /// Requested when the consumer stops or the time is over.
    [[nodiscard]] const std::stop_token& token() const noexcept { return token_; }
    [[nodiscard]] std::optional<TimePoint> deadline() const noexcept { return deadline_; }
    [[nodiscard]] bool expired() const { return deadline_ && leash_.now_() >= *deadline_; }

   private:
    struct Pass {
      std::stop_source& source;
      void operator()() const { source.request_stop(); }
    };

    Leash& leash_;
    std::optional<TimePoint> deadline_;
    std::stop_source source_{std::nostopstate};
    std::stop_token token_;
    std::optional<std::stop_callback<Pass>> passed_on_;
  };

  /// Triggers the token of the run whose time is over.
  void expire(TimePoint now);
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return timeout_; }

 private:
  const std::chrono::milliseconds timeout_;
  const std::function<TimePoint()> now_;
  std::mutex mutex_;
  std::optional<TimePoint> until_;
  std::stop_source running_{std::nostopstate};
};

/// Handlers beside each other, or one of them alone. Who wants to be alone is let in before others who come later.
///
/// Thread safety: any thread.
class Solitude {
 public:
  void enter(bool alone);
  void leave(bool alone);

  class Stay {
   public:
    Stay(Solitude& solitude, bool alone) : solitude_{solitude}, alone_{alone} { solitude_.enter(alone_); }
    ~Stay() { solitude_.leave(alone_); }
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;

   private:
    Solitude& solitude_;
    const bool alone_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int together_ = 0;
  int want_alone_ = 0;
  bool alone_ = false;
};

}  // namespace penstock::consumer
