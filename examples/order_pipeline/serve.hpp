// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <stop_token>
#include <thread>

namespace shop {

/// Without SO_REUSEPORT, which httplib sets by default: two processes on one port would each get some of the requests.
inline void own_the_port(httplib::Server& server) {
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
}

/// Serves on the bound port until `stop`. `Server::stop` does nothing before the server listens, so it is repeated until it has
/// left.
inline void serve_until(httplib::Server& server, const std::stop_token& stop) {
  std::atomic<bool> left{false};
  std::jthread stopper{[&] {
    while (!left) {
      if (stop.stop_requested()) server.stop();
      std::this_thread::sleep_for(std::chrono::milliseconds{20});
    }
  }};
  server.listen_after_bind();
  left = true;
}

}  // namespace shop
