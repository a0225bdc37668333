// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "penstock/export.hpp"

namespace penstock {

class Random;

/// How a delay is spread, so that what failed together does not come back together.
enum class Jitter : std::uint8_t {
  none,         ///< the delay itself
  full,         ///< uniform in [0, delay]
  equal,        ///< delay/2 + uniform in [0, delay/2]
  decorrelated  ///< uniform in [first delay, 3 · the delay before], at most the cap; of the policy's shape only the first
                ///< counts
};

enum class ErrorClass : std::uint8_t { transient, permanent };

/// A failed attempt, as a RetryPolicy sees it.
struct Failure {
  int attempt = 1;  ///< its number, from 1
  /// What kind of error it was: the class that a Verdict names, or the type of the exception and all types it is derived from.
  std::vector<std::string> classes{};
  std::string error{};                                  ///< `what()`, or the Verdict's reason
  std::exception_ptr thrown{};                          ///< null for a Verdict
  std::chrono::milliseconds elapsed{0};                 ///< since the first attempt began
  std::optional<std::chrono::milliseconds> previous{};  ///< the delay before this attempt
  std::chrono::milliseconds not_before{0};              ///< a provider's Retry-After: a lower bound, whatever the cap
};

/// When a failed message is tried again, and when that ends. A value and a pure function:
///
///     auto policy = RetryPolicy::exponential(200ms).cap(30s).attempts(8).within(1h).jitter(Jitter::full)
///                       .on<CardDeclined>(RetryPolicy::none())                    // a permanent class: never
///                       .on("rate_limited", RetryPolicy::fixed(5s).attempts(50));  // Verdict::retry(…).as("rate_limited")
///     policy.describe();  // "exponential 200ms ×2, cap 30s, …: 0ms..200ms, 0ms..400ms, …"
///
/// Attempts count from 1, include the first and are those of the message, whatever their classes. Delays never overflow.
/// Without `cap`, the cap is one hour, or the longest delay given if that is more; without `attempts`, eight.
/// Thread safety: a value; const calls from any thread, given a Random that allows it.
class PENSTOCK_EXPORT RetryPolicy {
 public:
  using Duration = std::chrono::milliseconds;
  using Predicate = std::function<bool(const Failure&)>;
  /// The answer to a failure: `delay`, or why there is no further attempt: "permanent" (the rule for its class allows none),
  /// "attempts exhausted" or "out of time".
  struct Next {
    std::optional<Duration> delay{};
    std::string_view ended{};
  };

  static RetryPolicy none();       ///< one attempt
  static RetryPolicy immediate();  ///< again at once
  static RetryPolicy fixed(Duration delay);
  static RetryPolicy linear(Duration step);                            ///< step · failures
  static RetryPolicy exponential(Duration base, double factor = 2.0);  ///< base · factor^(failures - 1)
  static RetryPolicy schedule(std::vector<Duration> delays);           ///< one entry per retry; attempts = entries + 1

  /// Each throws std::invalid_argument, naming the value, for a negative time or fewer than one attempt.
  RetryPolicy& cap(Duration longest);
  RetryPolicy& attempts(int most);
  RetryPolicy& within(Duration total);  ///< no attempt begins later than this after the first one did
  RetryPolicy& jitter(Jitter kind);

  /// Another policy for a class of errors. The first rule that matches decides. Throws std::invalid_argument for an empty name
  /// and for a policy that has rules itself.
  RetryPolicy& on(std::string error_class, RetryPolicy policy);
  /// For exceptions of a type, and of types derived from it.
  template <class Exception>
  RetryPolicy& on(RetryPolicy policy) {
    return on(type_name(typeid(Exception)), std::move(policy));
  }
  /// For failures that a function picks; the name is for `describe`. It must not throw; if it does, it has not matched.
  RetryPolicy& when(std::string name, Predicate matches, RetryPolicy policy);

  [[nodiscard]] Next after(const Failure& failure, Random& random) const;
  /// The delay after failure number `attempt` (from 1) of no special class; empty when it was the last or the error is
  /// permanent.
  [[nodiscard]] std::optional<Duration> delay(int attempt, ErrorClass error, Random& random) const;
  [[nodiscard]] int max_attempts() const noexcept { return attempts_; }

  /// The policy with the delays it will come to, as ranges where there is jitter; each rule on a line of its own.
  [[nodiscard]] std::string describe() const;

  /// {"kind": "exponential", "delay": "200ms", "factor": 2.0, "cap": "30s", "attempts": 8, "within": "1h", "jitter": "full",
  ///  "on": [{"error": "shop::CardDeclined", "retry": {"kind": "none"}}]}, with "delays" for the kind "schedule". Throws
  /// std::logic_error when there is a rule by `when`, which is code.
  [[nodiscard]] std::string to_json() const;
  /// Throws std::invalid_argument that names the field, its value and the remedy.
  static RetryPolicy from_json(std::string_view json);

  /// As classes of errors name a type: "shop::CardDeclined".
  static std::string type_name(const std::type_info& type);

 private:
  enum class Kind : std::uint8_t { immediate, fixed, linear, exponential, schedule };
  struct Rule;
  class Json;

  RetryPolicy(Kind kind, std::vector<Duration> delays, int attempts);
  void add(Rule rule);
  [[nodiscard]] const RetryPolicy& for_(const Failure& failure) const;
  [[nodiscard]] Duration longest() const;
  [[nodiscard]] Duration plain(std::size_t retry) const;
  [[nodiscard]] Duration spread(const Failure& failure, Random& random) const;
  [[nodiscard]] std::pair<Duration, Duration> range(std::size_t retry) const;
  [[nodiscard]] std::string title() const;
  [[nodiscard]] std::string rules_text() const;

  Kind kind_;
  std::vector<Duration> delays_;
  double factor_ = 1.0;
  int attempts_;
  std::optional<Duration> cap_{};
  std::optional<Duration> within_{};
  Jitter jitter_ = Jitter::none;
  std::shared_ptr<const std::vector<Rule>> rules_{};
};

}  // namespace penstock
