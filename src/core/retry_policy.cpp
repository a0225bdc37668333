// SPDX-License-Identifier: Apache-2.0
#include "core/retry_policy.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "core/error_class.hpp"
#include "penstock/random.hpp"

namespace penstock {
namespace {

using Duration = RetryPolicy::Duration;

constexpr Duration default_cap = std::chrono::hours{1};
constexpr int default_attempts = 8;
constexpr std::size_t most_shown = 20;  // delays of `describe`

struct Unit {
  std::string_view name;
  Duration::rep milliseconds;
};
constexpr std::array<Unit, 5> units{{{"d", 86'400'000}, {"h", 3'600'000}, {"min", 60'000}, {"s", 1'000}, {"ms", 1}}};

Duration checked(const char* what, Duration time) {
  if (time.count() < 0) {
    throw std::invalid_argument("RetryPolicy: " + std::string{what} + " of " + std::to_string(time.count()) +
                                " ms is negative; give zero or more");
  }
  return time;
}

/// Uniform in [0, most].
std::int64_t uniform(std::int64_t most, Random& random) {
  const double drawn = std::floor(random.unit() * (static_cast<double>(most) + 1.0));
  return drawn >= static_cast<double>(most) ? most : static_cast<std::int64_t>(drawn);
}

/// `base · factor`, at most `cap`: in floating point until it is known to be below, so that nothing overflows.
Duration grown(Duration base, double factor, Duration cap) {
  const double product = base.count() == 0 ? 0.0 : static_cast<double>(base.count()) * factor;
  return product < static_cast<double>(cap.count()) ? Duration{static_cast<Duration::rep>(product)} : cap;
}

}  // namespace

namespace retry {

std::string to_text(Duration time) {
  const auto unit = std::find_if(units.begin(), units.end(), [&](const Unit& candidate) {
    return time.count() != 0 && time.count() % candidate.milliseconds == 0;
  });
  const Unit& chosen = unit == units.end() ? units.back() : *unit;
  return std::to_string(time.count() / chosen.milliseconds) + std::string{chosen.name};
}

std::optional<Duration> from_text(std::string_view text) {
  Duration::rep number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view name = text.substr(static_cast<std::size_t>(end - text.data()));
  const auto* const unit = std::find_if(units.begin(), units.end(), [&](const Unit& known) { return known.name == name; });
  if (error != std::errc{} || number < 0 || text.front() == '-' || unit == units.end() ||
      number > std::numeric_limits<Duration::rep>::max() / unit->milliseconds) {
    return std::nullopt;
  }
  return Duration{number * unit->milliseconds};
}

const char* to_text(Jitter jitter) noexcept {
  switch (jitter) {
    case Jitter::none: return "none";
    case Jitter::full: return "full";
    case Jitter::equal: return "equal";
    case Jitter::decorrelated: return "decorrelated";
  }
  return "none";
}

}  // namespace retry

RetryPolicy::RetryPolicy(Kind kind, std::vector<Duration> delays, int attempts)
    : kind_{kind}, delays_{std::move(delays)}, attempts_{attempts} {
  for (const Duration delay : delays_) checked("a delay", delay);
}

RetryPolicy RetryPolicy::none() { return {Kind::immediate, {}, 1}; }

RetryPolicy RetryPolicy::immediate() { return {Kind::immediate, {}, default_attempts}; }

RetryPolicy RetryPolicy::fixed(Duration delay) { return {Kind::fixed, {delay}, default_attempts}; }

RetryPolicy RetryPolicy::linear(Duration step) { return {Kind::linear, {step}, default_attempts}; }

RetryPolicy RetryPolicy::exponential(Duration base, double factor) {
  if (!std::isfinite(factor) || factor < 1.0) {
    throw std::invalid_argument("RetryPolicy: a factor of " + std::to_string(factor) + " makes delays shorter; give 1 or more");
  }
  RetryPolicy policy{Kind::exponential, {base}, default_attempts};
  policy.factor_ = factor;
  return policy;
}

RetryPolicy RetryPolicy::schedule(std::vector<Duration> delays) {
  if (delays.size() >= static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw std::invalid_argument("RetryPolicy: a schedule of " + std::to_string(delays.size()) + " delays is too long");
  }
  const int attempts = static_cast<int>(delays.size()) + 1;
  return {Kind::schedule, std::move(delays), attempts};
}

RetryPolicy& RetryPolicy::cap(Duration longest) {
  cap_ = checked("a cap", longest);
  return *this;
}

RetryPolicy& RetryPolicy::attempts(int most) {
  if (most < 1) {
    throw std::invalid_argument("RetryPolicy: " + std::to_string(most) +
                                " attempts is less than one; the first try counts, so give 1 or more");
  }
  attempts_ = most;
  return *this;
}

RetryPolicy& RetryPolicy::within(Duration total) {
  within_ = checked("a total time", total);
  return *this;
}

RetryPolicy& RetryPolicy::jitter(Jitter kind) {
  jitter_ = kind;
  return *this;
}

RetryPolicy& RetryPolicy::on(std::string error_class, RetryPolicy policy) {
  add({std::move(error_class), {}, std::move(policy)});
  return *this;
}

RetryPolicy& RetryPolicy::when(std::string name, Predicate matches, RetryPolicy policy) {
  if (!matches) {
    throw std::invalid_argument("RetryPolicy: the rule '" + name + "' has no function; give one, or use on()");
  }
  add({std::move(name), std::move(matches), std::move(policy)});
  return *this;
}

void RetryPolicy::add(Rule rule) {
  if (rule.name.empty()) {
    throw std::invalid_argument("RetryPolicy: a rule's name is ''; give the class of errors that it is for");
  }
  if (rule.policy.rules_) {
    throw std::invalid_argument("RetryPolicy: the policy of the rule '" + rule.name +
                                "' has rules itself; give all rules to the outer policy");
  }
  auto rules = rules_ ? std::make_shared<std::vector<Rule>>(*rules_) : std::make_shared<std::vector<Rule>>();
  rules->push_back(std::move(rule));
  rules_ = std::move(rules);
}

std::string RetryPolicy::type_name(const std::type_info& type) { return error_class::name_of(type); }

// --- delays -----------------------------------------------------------------------------------------------------------------

const RetryPolicy& RetryPolicy::for_(const Failure& failure) const {
  if (!rules_) return *this;
  const auto matches = [&](const Rule& rule) {
    if (!rule.matches) {
      return std::find(failure.classes.begin(), failure.classes.end(), rule.name) != failure.classes.end();
    }
    try {
      return rule.matches(failure);
    } catch (...) {  // as promised
      return false;
    }
  };
  const auto rule = std::find_if(rules_->begin(), rules_->end(), matches);
  return rule == rules_->end() ? *this : rule->policy;
}

Duration RetryPolicy::longest() const {
  if (cap_) return *cap_;
  return delays_.empty() ? default_cap : std::max(default_cap, *std::max_element(delays_.begin(), delays_.end()));
}

Duration RetryPolicy::plain(std::size_t retry) const {
  if (delays_.empty()) return Duration{0};
  const Duration most = longest();
  const auto number = static_cast<double>(retry);
  switch (kind_) {
    case Kind::immediate: return Duration{0};
    case Kind::fixed: break;
    case Kind::linear: return grown(delays_.front(), number + 1.0, most);
    case Kind::exponential: return grown(delays_.front(), std::pow(factor_, number), most);
    case Kind::schedule: return std::min(delays_[std::min(retry, delays_.size() - 1)], most);
  }
  return std::min(delays_.front(), most);
}

std::pair<Duration, Duration> RetryPolicy::range(std::size_t retry) const {
  const Duration wait = plain(retry);
  switch (jitter_) {
    case Jitter::none: break;
    case Jitter::full: return {Duration{0}, wait};
    case Jitter::equal: return {wait / 2, wait};
    case Jitter::decorrelated: return {plain(0), grown(plain(0), std::pow(3.0, static_cast<double>(retry) + 1.0), longest())};
  }
  return {wait, wait};
}

Duration RetryPolicy::spread(const Failure& failure, Random& random) const {
  auto [least, most] = range(failure.attempt < 1 ? 0 : static_cast<std::size_t>(failure.attempt) - 1);
  if (jitter_ == Jitter::none) return most;
  if (jitter_ == Jitter::decorrelated && failure.previous) {
    most = grown(std::max(*failure.previous, least), 3.0, longest());
  }
  return least + Duration{uniform((most - least).count(), random)};
}

RetryPolicy::Next RetryPolicy::after(const Failure& failure, Random& random) const {
  const RetryPolicy& policy = for_(failure);
  if (failure.attempt >= policy.attempts_) {
    return {std::nullopt, &policy != this && policy.attempts_ == 1 ? "permanent" : "attempts exhausted"};
  }
  const Duration wait = std::max(policy.spread(failure, random), failure.not_before);
  // A rule without a bound of its own in time shares the outer one.
  const std::optional<Duration>& total = policy.within_ ? policy.within_ : within_;
  if (total && (failure.elapsed > *total || wait > *total - failure.elapsed)) {
    return {std::nullopt, "out of time"};
  }
  return {wait, {}};
}

std::optional<Duration> RetryPolicy::delay(int attempt, ErrorClass error, Random& random) const {
  if (error == ErrorClass::permanent) return std::nullopt;
  return after({.attempt = attempt}, random).delay;
}

// --- text -------------------------------------------------------------------------------------------------------------------

std::string RetryPolicy::title() const {
  std::string text;
  switch (kind_) {
    case Kind::immediate: text = "immediate"; break;
    case Kind::fixed: text = "fixed " + retry::to_text(delays_.front()); break;
    case Kind::linear: text = "linear " + retry::to_text(delays_.front()); break;
    case Kind::exponential: {
      std::array<char, 32> factor{};
      const auto end = std::to_chars(factor.data(), factor.data() + factor.size(), factor_).ptr;
      text = "exponential " + retry::to_text(delays_.front()) + " ×" + std::string{factor.data(), end};
      break;
    }
    case Kind::schedule: text = "schedule"; break;
  }
  if (cap_) text += ", cap " + retry::to_text(*cap_);
  if (jitter_ != Jitter::none) text += std::string{", jitter "} + retry::to_text(jitter_);
  if (within_) text += ", within " + retry::to_text(*within_);
  return text + ", " + std::to_string(attempts_) + (attempts_ == 1 ? " attempt" : " attempts");
}

std::string RetryPolicy::describe() const {
  const auto retries = static_cast<std::size_t>(attempts_ - 1);
  const auto shown = [this](std::size_t number) {
    const auto [least, most] = range(number);
    return least == most ? retry::to_text(most) : retry::to_text(least) + ".." + retry::to_text(most);
  };
  std::string text = title();
  for (std::size_t number = 0; number < std::min(retries, most_shown); ++number) {
    // Once nothing changes any more, it is said once.
    const bool same = retries - number > 2 && number + 1 >= delays_.size() && shown(number) == shown(retries - 1);
    text += (number == 0 ? ": " : ", ") + shown(number);
    if (same) {
      return text + " each" + (rules_ ? rules_text() : std::string{});
    }
  }
  if (retries > most_shown) text += ", … " + shown(retries - 1);
  return text + (rules_ ? rules_text() : std::string{});
}

std::string RetryPolicy::rules_text() const {
  std::string text;
  for (const Rule& rule : *rules_) {
    text += "\n  on " + rule.name + ": " + (rule.policy.attempts_ == 1 ? "never" : rule.policy.describe());
  }
  return text;
}

}  // namespace penstock
