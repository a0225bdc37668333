// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace penstock {

/// What a handler says of a message. An exception counts as `retry` with its `what()`.
class Verdict {
 public:
  enum class Kind : std::uint8_t { done, retry, reject };

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

  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  [[nodiscard]] std::optional<std::chrono::milliseconds> delay() const noexcept { return delay_; }

 private:
  Verdict(Kind kind, std::string reason, std::optional<std::chrono::milliseconds> delay)
      : kind_{kind}, reason_{std::move(reason)}, delay_{delay} {}

  Kind kind_;
  std::string reason_;
  std::optional<std::chrono::milliseconds> delay_;
};

}  // namespace penstock
