// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <mutex>

namespace penstock::lane {

/// How other threads reach one that waits in poll or inside rabbitmq-c: `wake` ends its poll, `cut` its connection.
/// Thread safety: any thread.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  void wake() noexcept;
  /// To be called by the waiting thread before it looks for what it was woken for.
  void drain() noexcept;
  [[nodiscard]] int fd() const noexcept { return event_; }

  /// The socket in use; the owner detaches before it closes it.
  void attach(int socket) noexcept;
  void detach() noexcept;
  /// For good: shuts the socket down, and every later one too. A blocked send or receive returns.
  void cut() noexcept;
  [[nodiscard]] bool is_cut() const noexcept { return cut_.load(); }

 private:
  int event_;
  std::atomic<bool> signalled_{false};
  std::atomic<bool> cut_{false};
  std::mutex mutex_;
  int socket_ = -1;
};

}  // namespace penstock::lane
