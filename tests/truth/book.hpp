// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "penstock/publisher.hpp"

namespace penstock::truth {

/// What was broken. Any thread.
class Faults {
 public:
  void add(std::string what) {
    const std::lock_guard lock{mutex_};
    ++count_;
    if (said_.size() < 40) said_.push_back(std::move(what));
  }
  [[nodiscard]] std::size_t count() const {
    const std::lock_guard lock{mutex_};
    return count_;
  }
  [[nodiscard]] std::vector<std::string> said() const {
    const std::lock_guard lock{mutex_};
    return said_;
  }

 private:
  mutable std::mutex mutex_;
  std::size_t count_ = 0;
  std::vector<std::string> said_;
};

/// All that is known of the numbered events of one channel. All its memory is there from the start, so that what grows is not
/// of it.
///
/// Thread safety: `draw` and `removed` any; the marks of a number belong to the thread that drew it, until all are joined;
/// `effect` any.
class Book {
 public:
  enum Mark : std::uint8_t {
    confirmed = 1,
    unknown = 2,
    refused = 4,   ///< rejected or retryable, at least once
    repeated = 8,  ///< submitted more than once
    never = 16,    ///< one that must not get through: too large
  };

  Book(std::string channel, std::size_t capacity)
      : channel_{std::move(channel)},
        marks_(capacity),
        when_(capacity),
        reasons_(capacity),
        eras_(capacity),
        stored_(capacity),
        effects_(capacity) {}

  [[nodiscard]] const std::string& channel() const noexcept { return channel_; }
  /// The next number, or the capacity when there is none left.
  std::size_t draw() {
    const std::size_t number = next_++;
    return number < marks_.size() ? number : marks_.size();
  }
  [[nodiscard]] bool full() const noexcept { return next_ >= marks_.size(); }
  [[nodiscard]] std::size_t drawn() const noexcept { return next_ < marks_.size() ? next_.load() : marks_.size(); }

  void submitted(std::size_t number) {
    if (marks_[number] != 0) marks_[number] |= repeated;
    eras_[number] = era_;
  }
  void settled(std::size_t number, const Outcome& outcome) {
    if (!outcome.confirmed()) reasons_[number] = intern(outcome);
    switch (outcome.status) {
      case Outcome::Status::confirmed:
        marks_[number] |= confirmed;
        when_[number] = static_cast<std::uint32_t>(
            std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start_).count());
        ++counts_.confirmed;
        break;
      case Outcome::Status::unknown:
        marks_[number] |= unknown;
        ++counts_.unknown;
        break;
      case Outcome::Status::rejected:
        marks_[number] |= refused;
        ++counts_.rejected;
        break;
      case Outcome::Status::retryable:
        marks_[number] |= refused;
        ++counts_.retryable;
        break;
    }
  }
  void forbid(std::size_t number) { marks_[number] |= never; }
  /// All that was stored, or was on its way, is gone.
  void removed() { ++era_; }

  [[nodiscard]] std::uint8_t mark(std::size_t number) const { return marks_[number]; }
  /// Confirmed, and submitted after the last removal: it must be there.
  [[nodiscard]] bool must(std::size_t number) const { return (marks_[number] & confirmed) != 0 && eras_[number] == era_; }
  /// Nothing but refusals, or never to be taken: it must not.
  [[nodiscard]] bool must_not(std::size_t number) const {
    return (marks_[number] & never) != 0 || ((marks_[number] & refused) != 0 && (marks_[number] & (confirmed | unknown)) == 0);
  }

  [[nodiscard]] std::chrono::milliseconds age() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start_);
  }
  /// When it was confirmed, in ms since the book was opened.
  [[nodiscard]] std::uint32_t when(std::size_t number) const { return when_[number]; }
  /// Its last outcome that was not a confirmation.
  [[nodiscard]] std::string reason(std::size_t number) const {
    const std::lock_guard lock{mutex_};
    return said_[reasons_[number]];
  }

  void found(std::size_t number) {
    if (stored_[number] < 255) ++stored_[number];
  }
  [[nodiscard]] std::uint8_t stored(std::size_t number) const { return stored_[number]; }
  /// How often it happened before.
  std::uint8_t effect(std::size_t number) {
    const std::uint8_t before = effects_[number].load();
    if (before < 255) ++effects_[number];
    return before;
  }
  [[nodiscard]] std::uint8_t effects(std::size_t number) const { return effects_[number].load(); }

  struct Counts {
    std::atomic<std::uint64_t> confirmed{0};
    std::atomic<std::uint64_t> rejected{0};
    std::atomic<std::uint64_t> retryable{0};
    std::atomic<std::uint64_t> unknown{0};
  };
  [[nodiscard]] const Counts& counts() const noexcept { return counts_; }

 private:
  std::uint16_t intern(const Outcome& outcome) {
    const std::lock_guard lock{mutex_};
    const std::string text = std::string{to_string(outcome.status)} + ": " + outcome.error;
    for (std::size_t i = 0; i < said_.size(); ++i) {
      if (said_[i] == text) return static_cast<std::uint16_t>(i);
    }
    if (said_.size() == 1'000) return 0;
    said_.push_back(text);
    return static_cast<std::uint16_t>(said_.size() - 1);
  }

  std::string channel_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint8_t> era_{0};
  std::vector<std::uint8_t> marks_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<std::uint32_t> when_;
  std::vector<std::uint16_t> reasons_;
  mutable std::mutex mutex_;
  std::vector<std::string> said_{"-"};
  std::vector<std::uint8_t> eras_;
  std::vector<std::uint8_t> stored_;
  std::vector<std::atomic<std::uint8_t>> effects_;
  Counts counts_;
};

}  // namespace penstock::truth
