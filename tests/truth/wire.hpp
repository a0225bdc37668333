// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace penstock::truth {

/// A wire between clients and a server on 127.0.0.1 that can be cut, slowed and made to lose one direction. It never blocks on
/// either side: a server that stands still stops what goes to it and nothing else.
/// Thread safety: any.
class Wire {
 public:
  using Clock = std::chrono::steady_clock;

  /// Listens on `port`, 0 for any.
  Wire(std::uint16_t port, std::uint16_t target)
      : target_{target}, listener_{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)} {
    const int on = 1;
    ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in here = loopback(port);
    socklen_t size = sizeof here;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&here), size) != 0 || ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&here), &size) != 0) {
      throw std::runtime_error{"the wire cannot listen"};
    }
    port_ = ntohs(here.sin_port);
    thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
  }
  ~Wire() {
    thread_.request_stop();
    thread_.join();
    for (Link& link : links_) end(link);
    ::close(listener_);
  }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// Ends every connection there is.
  void cut() { cut_ = true; }
  /// What is read arrives so much later.
  void delay(std::chrono::milliseconds by) { delay_ms_ = by.count(); }
  /// A few bytes at a time: every frame comes in pieces.
  void drip(bool on) { drip_ = on; }
  /// Carries nothing and ends nothing; new connections stay unanswered: a half-open connection.
  void stall(bool on) { stalled_ = on; }
  /// What clients say is lost. A connection that lost something must be cut afterwards.
  void lose_requests(bool on) { lose_requests_ = on; }
  /// What the server says is lost, as far as it has not arrived yet.
  void lose_answers(bool on) { lose_answers_ = on; }

 private:
  struct Piece {
    Clock::time_point due;
    std::string bytes;
  };
  struct Flow {
    int from = -1;
    int to = -1;
    std::deque<Piece> pieces;
    std::size_t held = 0;
    bool ended = false;
  };
  struct Link {
    Flow up;    ///< client to server
    Flow down;  ///< server to client
  };
  static constexpr std::size_t most_held = std::size_t{1} << 20U;
  static constexpr std::size_t drop_of = 700;

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  static void end(const Link& link) {
    ::close(link.up.from);
    ::close(link.up.to);
  }

  void accept_one() {
    const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) return;
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const sockaddr_in there = loopback(target_);
    if (::connect(server, reinterpret_cast<const sockaddr*>(&there), sizeof there) != 0 && errno != EINPROGRESS) {
      ::close(client);
      ::close(server);
      return;
    }
    Link link;
    link.up.from = link.down.to = client;
    link.up.to = link.down.from = server;
    links_.push_back(std::move(link));
  }

  /// False when the connection is over.
  bool take(Flow& flow, bool lose) {
    std::array<char, 65'536> buffer{};
    const ssize_t got = ::recv(flow.from, buffer.data(), buffer.size(), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
    if (got == 0) {
      flow.ended = true;
      return !flow.pieces.empty();
    }
    if (lose) return true;
    flow.held += static_cast<std::size_t>(got);
    flow.pieces.push_back(
        {Clock::now() + std::chrono::milliseconds{delay_ms_}, std::string{buffer.data(), static_cast<std::size_t>(got)}});
    return true;
  }
  bool give(Flow& flow, Clock::time_point now) const {
    std::size_t allowance = drip_ ? drop_of : most_held;
    while (!flow.pieces.empty() && flow.pieces.front().due <= now && allowance > 0) {
      std::string& bytes = flow.pieces.front().bytes;
      const ssize_t sent = ::send(flow.to, bytes.data(), std::min(bytes.size(), allowance), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
      flow.held -= static_cast<std::size_t>(sent);
      allowance -= static_cast<std::size_t>(sent);
      if (static_cast<std::size_t>(sent) == bytes.size()) {
        flow.pieces.pop_front();
      } else {
        bytes.erase(0, static_cast<std::size_t>(sent));
      }
    }
    return !(flow.ended && flow.pieces.empty());
  }

  void run(const std::stop_token& stop) {
    constexpr int tick_ms = 5;
    while (!stop.stop_requested()) {
      if (cut_.exchange(false)) {
        for (const Link& link : links_) end(link);
        links_.clear();
      }
      if (stalled_) {
        std::this_thread::sleep_for(std::chrono::milliseconds{tick_ms});
        continue;
      }
      std::vector<pollfd> watched{{listener_, POLLIN, 0}};
      const bool immediate = delay_ms_ == 0 && !drip_;
      for (const Link& link : links_) {
        const auto events = [&](const Flow& in, const Flow& out) {
          return static_cast<short>((!in.ended && in.held < most_held ? POLLIN : 0) |
                                    (immediate && !out.pieces.empty() ? POLLOUT : 0));
        };
        watched.push_back({link.up.from, events(link.up, link.down), 0});
        watched.push_back({link.up.to, events(link.down, link.up), 0});
      }
      ::poll(watched.data(), watched.size(), tick_ms);
      const auto now = Clock::now();
      std::size_t at = 1;
      for (auto link = links_.begin(); link != links_.end(); at += 2) {
        constexpr short readable = POLLIN | POLLHUP | POLLERR;
        const bool alive = ((watched[at].revents & readable) == 0 || take(link->up, lose_requests_)) &&
                           ((watched[at + 1].revents & readable) == 0 || take(link->down, lose_answers_)) &&
                           give(link->up, now) && give(link->down, now);
        if (alive) {
          ++link;
        } else {
          end(*link);
          link = links_.erase(link);
        }
      }
      if (!immediate) std::this_thread::sleep_for(std::chrono::milliseconds{tick_ms});
      if (watched[0].revents != 0) accept_one();
    }
  }

  std::uint16_t target_;
  std::uint16_t port_ = 0;
  int listener_;
  std::list<Link> links_;
  std::atomic<std::int64_t> delay_ms_{0};
  std::atomic<bool> cut_{false};
  std::atomic<bool> drip_{false};
  std::atomic<bool> stalled_{false};
  std::atomic<bool> lose_requests_{false};
  std::atomic<bool> lose_answers_{false};
  std::jthread thread_;
};

}  // namespace penstock::truth
