// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

namespace penstock::postgres {

/// Something to sleep on that a socket or another thread ends.
/// Thread safety: `signal` from any thread, the rest from one.
class Waker {
 public:
  Waker();  ///< throws std::system_error
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  void signal() noexcept;
  /// Sleeps until a signal (also one from before), until the socket (none: -1) has something to read, or for `most`.
  struct Woken {
    bool by_signal = false;
    bool by_socket = false;
  };
  Woken wait(int socket, std::chrono::milliseconds most) noexcept;

 private:
  int event_;
  std::atomic<bool> signalled_{false};
};

/// The sleeping cursors of one process. Thread safety: any thread.
class WakeHub {
 public:
  void add(const std::shared_ptr<Waker>& waker);
  void signal() noexcept;

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Waker>> wakers_;
};

}  // namespace penstock::postgres
