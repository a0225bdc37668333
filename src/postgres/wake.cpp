// SPDX-License-Identifier: Apache-2.0
#include "postgres/wake.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace penstock::postgres {

Waker::Waker() : event_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {
  if (event_ < 0) {
    throw std::system_error(errno, std::generic_category(), "eventfd");
  }
}

Waker::~Waker() { ::close(event_); }

void Waker::signal() noexcept {
  if (!signalled_.exchange(true)) {
    const std::uint64_t one = 1;
    // It can only fail when the counter is full, and then it wakes as well.
    static_cast<void>(!::write(event_, &one, sizeof one));
  }
}

Waker::Woken Waker::wait(int socket, std::chrono::milliseconds most) noexcept {
  constexpr std::chrono::milliseconds longest{60'000};
  std::array<pollfd, 2> polled{pollfd{event_, POLLIN, 0}, pollfd{socket, POLLIN, 0}};
  ::poll(polled.data(), polled.size(), static_cast<int>(std::clamp(most, std::chrono::milliseconds{0}, longest).count()));
  if (polled[0].revents != 0) {
    std::uint64_t count = 0;
    static_cast<void>(!::read(event_, &count, sizeof count));
    signalled_ = false;
  }
  return {.by_signal = polled[0].revents != 0, .by_socket = polled[1].revents != 0};
}

void WakeHub::add(const std::shared_ptr<Waker>& waker) {
  const std::lock_guard lock{mutex_};
  wakers_.erase(std::remove_if(wakers_.begin(), wakers_.end(), [](const auto& weak) { return weak.expired(); }), wakers_.end());
  wakers_.push_back(waker);
}

void WakeHub::signal() noexcept {
  const std::lock_guard lock{mutex_};
  for (const auto& weak : wakers_) {
    if (const auto waker = weak.lock()) {
      waker->signal();
    }
  }
}

}  // namespace penstock::postgres
