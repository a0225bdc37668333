// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace penstock {

/// What a handler says of a message. An exception counts as `retry` with its `what()`, a CallRefused as `postpone`.
/// Thread safety and lifetime: a value.
class Verdict {
 public:
  enum class Kind : std::uint8_t { done, retry, reject, postpone };

  /// The effect is complete: commit it, with what was emitted, and settle the message.
  static Verdict done() { return {Kind::done, {}, {}}; }
  /// A passing failure: undo, and try again when the RetryPolicy says.
  static Verdict retry(std::string reason) { return {Kind::retry, std::move(reason), {}}; }
  /// As `retry`, but not before `delay` (a provider's Retry-After). Counts as an attempt.
  static Verdict retry_after(std::chrono::milliseconds delay, std::string reason = "retry requested by the handler") {
    return {Kind::retry, std::move(reason), delay};
  }
  /// It will never work: undo, and dead-letter it now.
  static Verdict reject(std::string reason) { return {Kind::reject, std::move(reason), {}}; }
  /// Not now, and not the message's fault: undo, and try again after `delay`. No attempt is counted; a message that was still
  /// postponed when ConsumerOptions::postpone_limit has passed since its first attempt becomes a dead letter.
  static Verdict postpone(std::chrono::milliseconds delay, std::string reason) {
    return {Kind::postpone, std::move(reason), delay};
  }
  /// The message is of a version that this process does not know, as during a rolling deploy: postponed, for a process that
  /// does. `what` is the version, as in "shop.order.placed.v3".
  static Verdict unknown_version(std::string_view what, std::chrono::milliseconds delay = std::chrono::seconds{30}) {
    return postpone(delay, "unknown version: " + std::string{what}).as("unknown_version");
  }

  /// Names the class of the error, for RetryPolicy::on.
  Verdict as(std::string error_class) && {
    error_class_ = std::move(error_class);
    return std::move(*this);
  }

  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  [[nodiscard]] std::optional<std::chrono::milliseconds> delay() const noexcept { return delay_; }
  [[nodiscard]] const std::string& error_class() const noexcept { return error_class_; }

 private:
  Verdict(Kind kind, std::string reason, std::optional<std::chrono::milliseconds> delay)
      : kind_{kind}, reason_{std::move(reason)}, delay_{delay} {}

  Kind kind_;
  std::string reason_;
  std::optional<std::chrono::milliseconds> delay_;
  std::string error_class_{};
};

}  // namespace penstock
