// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_gate.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "core/consumer_processor.hpp"

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

RetryPolicy pauses() {
  return RetryPolicy::exponential(1s).cap(30s).attempts(std::numeric_limits<int>::max()).jitter(Jitter::equal);
}

}  // namespace

Gate::Gate(const ConsumerOptions& options, Journal& journal)
    : options_{options}, journal_{journal}, own_{options.systemic, pauses(), *options.clock, *options.random} {}

/// Open when any is; on trial when any is.
Gate::State Gate::state() {
  State state = own_.state();
  for (const CircuitBreaker& provider : options_.depends_on) {
    const State other = provider.state();
    if (other == State::open || (other == State::half_open && state == State::closed)) {
      state = other;
    }
  }
  return state;
}

bool Gate::admits(int running) {
  switch (state()) {
    case State::closed: return true;
    case State::open: return false;
    case State::half_open: break;
  }
  return running == 0;
}

milliseconds Gate::wait() {
  milliseconds longest = own_.retry_in();
  for (const CircuitBreaker& provider : options_.depends_on) {
    longest = std::max(longest, provider.retry_in());
  }
  return longest;
}

bool Gate::moved() {
  const State now = state();
  return std::exchange(last_, now) != now;
}

void Gate::judge(const Message& message, int attempt, bool failed, const std::string& error) {
  if (options_.systemic.rejected == 0 || (!failed && own_.quiet())) {
    return;
  }
  const auto identity = std::hash<std::string>{}(message.event.source + '\n' + message.id());
  const auto change = own_.judged(identity, message.key(), failed, attempt > 1);
  const std::string wait = std::to_string(own_.retry_in().count()) + " ms";
  switch (change) {
    case Breaker::Change::none: break;
    case Breaker::Change::opened:
      journal_.log(LogLevel::error,
                   "so many of the last messages failed that nothing is dead-lettered any more: intake is paused, "
                   "and one message is tried in " +
                       wait + ": " + error);
      break;
    case Breaker::Change::opened_again:
      journal_.log(LogLevel::warn, "the message on trial failed; the next in " + wait + ": " + error);
      break;
    case Breaker::Change::closed: journal_.log(LogLevel::info, "a message went through again; goes on"); break;
  }
}

std::string Gate::reason() {
  if (own_.state() == State::open) {
    return "the handler fails at so many messages that it cannot be theirs";
  }
  for (const CircuitBreaker& provider : options_.depends_on) {
    if (provider.state() == State::open) {
      return "the circuit breaker of " + provider.name() + " is open";
    }
  }
  return {};
}

}  // namespace penstock::consumer
