// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <utility>
#include <vector>

#include "beacon/ledger.hpp"

namespace penstock::beacon {

/// Letters between those who submit and the thread that sends, in their order. How many there may be is for the windows to say.
/// Thread safety: any thread posts, one collects.
class Mail {
 public:
  void post(Ledger::Letter letter) {
    bool first = false;
    {
      const std::lock_guard lock{mutex_};
      first = letters_.empty();
      letters_.push_back(std::move(letter));
    }
    if (first) posted_.notify_one();
  }

  /// Waits for letters and takes all, into `into`, which is empty. False when it is time to stop.
  bool collect(std::vector<Ledger::Letter>& into, const std::stop_token& stop) {
    std::unique_lock lock{mutex_};
    if (!posted_.wait(lock, stop, [this] { return !letters_.empty(); })) return false;
    std::swap(into, letters_);
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any posted_;
  std::vector<Ledger::Letter> letters_;
};

}  // namespace penstock::beacon
