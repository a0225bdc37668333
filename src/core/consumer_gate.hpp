// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "core/breaker.hpp"
#include "penstock/consumer.hpp"

namespace penstock::consumer {

class Journal;

/// Whether a consumer may work now: not while its handler fails at everything (rule 17), nor while a provider is away without
/// which the handler can do nothing. Thread safety: any thread, but for `moved`. Lifetime: options and journal must outlive it.
class Gate {
 public:
  Gate(const ConsumerOptions& options, Journal& journal);

  /// Whether another job may begin beside those that run; on trial only one at a time.
  [[nodiscard]] bool admits(int running);
  /// Whether anything is held back.
  [[nodiscard]] bool held() { return state() != State::closed; }
  /// Whether the source is to be paused.
  [[nodiscard]] bool holds_intake() { return state() == State::open; }
  /// When to look again, from now; zero while nothing is held back.
  [[nodiscard]] std::chrono::milliseconds wait();
  /// Whether the state is another than at the last call. For one caller at a time.
  [[nodiscard]] bool moved();

  /// What became of a message that was handled. What was postponed is not judged.
  void judge(const Message& message, int attempt, bool failed, const std::string& error);
  /// So much fails that nothing is to be dead-lettered.
  [[nodiscard]] bool systemic() { return own_.state() != State::closed; }
  /// Why intake is held; empty when it is not.
  [[nodiscard]] std::string reason();

 private:
  using State = CircuitBreaker::State;
  State state();

  const ConsumerOptions& options_;
  Journal& journal_;
  Breaker own_;
  State last_ = State::closed;
};

}  // namespace penstock::consumer
