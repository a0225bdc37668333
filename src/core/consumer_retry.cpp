// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_retry.hpp"

#include <algorithm>
#include <utility>

#include "core/budget_meter.hpp"
#include "core/consumer_gate.hpp"

namespace penstock::consumer {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

/// What was refused together comes back one after the other.
milliseconds spread(milliseconds delay, Random& random) {
  const double quarter = static_cast<double>(delay.count()) / 4;
  return delay + milliseconds{static_cast<milliseconds::rep>(random.unit() * quarter)};
}

/// Parks it without counting the attempt.
Decision again(const Shared& shared, Handled& handled, milliseconds delay) {
  constexpr milliseconds longest = std::chrono::hours{24 * 365};
  --handled.attempt.number;
  return {.delay = spread(std::clamp(delay, shared.gate.wait(), longest), *shared.options.random)};
}

}  // namespace

Decision decide(const Shared& shared, const Message& message, Handled& handled, const Past& past) {
  const ConsumerOptions& options = shared.options;
  const Verdict& verdict = handled.verdict;
  const Attempt& attempt = handled.attempt;
  const milliseconds elapsed = past.elapsed + attempt.duration;
  if (verdict.kind() == Verdict::Kind::postpone) {
    const milliseconds delay = std::max(verdict.delay().value_or(0ms), 0ms);
    if (!shared.gate.systemic() && elapsed > options.postpone_limit) {
      --handled.attempt.number;
      return {.bury = true, .reason = "postponed too long: " + attempt.error};
    }
    return again(shared, handled, delay);
  }
  shared.gate.judge(message, attempt.number, true, attempt.error);
  Failure failure{.attempt = attempt.number,
                  .classes = std::move(handled.classes),
                  .error = attempt.error,
                  .thrown = std::move(handled.thrown),
                  .elapsed = elapsed,
                  .previous = past.previous,
                  .not_before = std::max(verdict.delay().value_or(0ms), 0ms)};
  if (!verdict.error_class().empty()) {
    failure.classes.push_back(verdict.error_class());
  }
  if (shared.gate.systemic()) {
    return again(shared, handled, std::max<milliseconds>(1s, failure.not_before));
  }
  if (verdict.kind() == Verdict::Kind::reject) {
    return {.bury = true, .reason = attempt.error};
  }
  const RetryPolicy::Next next = options.retry.after(failure, *options.random);
  if (!next.delay) {
    return {.bury = true, .reason = std::string{next.ended} + ": " + attempt.error};
  }
  return {.delay = shared.budget ? std::max(*next.delay, shared.budget->charge()) : *next.delay};
}

}  // namespace penstock::consumer
