// SPDX-License-Identifier: Apache-2.0
#include "lane/interrupt.hpp"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <mutex>
#include <system_error>

namespace penstock::lane {

Interrupt::Interrupt() : event_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {
  if (event_ < 0) throw std::system_error{errno, std::generic_category(), "eventfd"};
}

Interrupt::~Interrupt() { ::close(event_); }

void Interrupt::wake() noexcept {
  if (signalled_.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event_, &one, sizeof one);
}

void Interrupt::drain() noexcept {
  // In this order: a wake between the two leaves the event readable, so none is lost.
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_, &count, sizeof count);
  signalled_.store(false);
}

void Interrupt::attach(int socket) noexcept {
  const std::lock_guard lock{mutex_};
  socket_ = socket;
  if (cut_.load()) ::shutdown(socket_, SHUT_RDWR);
}

void Interrupt::detach() noexcept {
  const std::lock_guard lock{mutex_};
  socket_ = -1;
}

void Interrupt::cut() noexcept {
  cut_.store(true);
  {
    const std::lock_guard lock{mutex_};
    if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
  }
  wake();
}

}  // namespace penstock::lane
