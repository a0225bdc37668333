// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <list>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace penstock::support {

/// A wire that can be cut: forwards TCP from a port of its own to one on 127.0.0.1, until told to cut its connections or to
/// carry nothing, as a half-open connection does. Harms nobody else's connections to that server.
class TcpProxy {
 public:
  explicit TcpProxy(std::uint16_t target) : target_{target}, listener_{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
    sockaddr_in here = loopback(0);
    socklen_t size = sizeof here;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&here), size) != 0 || ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&here), &size) != 0) {
      throw std::runtime_error{"the proxy cannot listen"};
    }
    port_ = ntohs(here.sin_port);
    thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
  }
  ~TcpProxy() {
    thread_.request_stop();
    thread_.join();
    ::close(listener_);
  }
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// How many connections were accepted so far.
  [[nodiscard]] int accepted() const noexcept { return accepted_; }
  /// How many pieces clients have sent so far: of one that waits for each answer, its requests.
  [[nodiscard]] int requests() const noexcept { return requests_; }
  /// Ends every connection there is.
  void cut() { cut_ = true; }
  /// Carries nothing, in either direction, and ends nothing; new connections stay unanswered.
  void stall(bool stalled) { stalled_ = stalled; }
  /// Carries only what the server says: what clients send is thrown away.
  void deafen(bool deaf) { deaf_ = deaf; }

 private:
  struct Pair {
    int client = -1;
    int server = -1;
  };

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void accept_one() {
    const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    ++accepted_;
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in there = loopback(target_);
    if (::connect(server, reinterpret_cast<const sockaddr*>(&there), sizeof there) != 0) {
      ::close(client);
      ::close(server);
      return;
    }
    pairs_.push_back({client, server});
  }

  bool forward(int from, int to, bool drop) {
    std::array<char, 65'536> buffer{};
    const ssize_t got = ::recv(from, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    if (drop) return true;
    for (ssize_t sent = 0; sent < got;) {
      const ssize_t step = ::send(to, buffer.data() + sent, static_cast<std::size_t>(got - sent), MSG_NOSIGNAL);
      if (step < 0) return false;
      sent += step;
    }
    return true;
  }

  static void end(const Pair& pair) {
    ::close(pair.client);
    ::close(pair.server);
  }

  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (cut_.exchange(false)) {
        for (const Pair& pair : pairs_) end(pair);
        pairs_.clear();
      }
      std::vector<pollfd> watched;
      if (!stalled_) {
        watched.push_back({listener_, POLLIN, 0});
        for (const Pair& pair : pairs_) {
          watched.push_back({pair.client, POLLIN, 0});
          watched.push_back({pair.server, POLLIN, 0});
        }
      }
      if (::poll(watched.data(), watched.size(), 5) <= 0) continue;
      std::size_t at = 1;
      for (auto pair = pairs_.begin(); pair != pairs_.end(); at += 2) {
        requests_ += watched[at].revents != 0 ? 1 : 0;
        const bool alive = (watched[at].revents == 0 || forward(pair->client, pair->server, deaf_)) &&
                           (watched[at + 1].revents == 0 || forward(pair->server, pair->client, false));
        if (alive) {
          ++pair;
        } else {
          end(*pair);
          pair = pairs_.erase(pair);
        }
      }
      if (watched[0].revents != 0) accept_one();
    }
    for (const Pair& pair : pairs_) end(pair);
  }

  std::uint16_t target_;
  std::uint16_t port_ = 0;
  int listener_;
  std::list<Pair> pairs_;
  std::atomic<int> accepted_{0};
  std::atomic<int> requests_{0};
  std::atomic<bool> cut_{false};
  std::atomic<bool> stalled_{false};
  std::atomic<bool> deaf_{false};
  std::jthread thread_;
};

}  // namespace penstock::support
