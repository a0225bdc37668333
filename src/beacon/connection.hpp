// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "beacon/handle.hpp"
#include "beacon/servers.hpp"
#include "penstock/logger.hpp"

namespace penstock::beacon {

using SteadyClock = std::chrono::steady_clock;
using Instant = SteadyClock::time_point;
using std::chrono::milliseconds;

/// A Logger that may be absent, may throw and is not flooded: one line of a kind every ten seconds, with the number left out.
/// Thread safety: any thread.
class Speech {
 public:
  explicit Speech(std::shared_ptr<Logger> logger) : logger_{std::move(logger)} {}
  void say(LogLevel level, const std::string& text) noexcept;
  void say_rarely(LogLevel level, const std::string& kind, const std::string& text) noexcept;

 private:
  struct Last {
    Instant at{};
    std::uint64_t omitted = 0;
  };
  std::shared_ptr<Logger> logger_;
  std::mutex mutex_;
  std::map<std::string, Last> last_;
};

/// Waits between attempts: doubling from 50 ms to 5 s, half of it by chance.
class Backoff {
 public:
  milliseconds next();
  void reset() { failures_ = 0; }

 private:
  int failures_ = 0;
};

/// Who is told what the client library's threads have to say. Calls come from those threads, also after the connection has
/// gone, as long as the listener lives.
class Listener {
 public:
  virtual ~Listener() = default;
  /// A message for a subscription made with `Connection::listen`.
  virtual void on_message(natsMsg* message) { static_cast<void>(message); }
  virtual void on_error(const std::string& text) { static_cast<void>(text); }
  virtual void on_closed() {}
};

/// One life of a connection. It never reconnects by itself: then a publish on it either went out on this very connection or
/// fails as certainly not sent, nothing waits in a buffer to be sent later, and what it left unanswered is known the moment it
/// ends.
/// Thread safety: any thread. Lifetime: the destructor closes, sending what is buffered for at most half a second.
class Connection {
 public:
  /// Throws std::runtime_error with the reason. `announced` are further servers that an earlier connection heard of.
  Connection(const Servers& servers, const std::vector<std::string>& announced, const std::weak_ptr<Listener>& listener,
             milliseconds connect_timeout);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] natsConnection* get() const noexcept { return connection_; }
  /// Takes no lock of the client library, which it holds while a write is stuck.
  [[nodiscard]] bool alive() const noexcept { return !ended_->load(); }
  /// Gives it up: a failed write may have left half a message behind, so nothing sent from here on would be understood.
  void condemn() noexcept { ended_->store(true); }
  /// Ends it, sending what is buffered for at most half a second; behind a write that is stuck, up to the write's deadline.
  void close() noexcept;
  [[nodiscard]] std::vector<std::string> announced() const;

  /// Calls the listener for each message of a subject.
  SubscriptionHandle listen(const std::string& subject);
  /// A subscription to be read with natsSubscription_NextMsg.
  SubscriptionHandle subscribe(const std::string& subject);
  static std::string new_inbox();

 private:
  /// Connects to one of these, whose certificate must be for `host` unless that is empty.
  natsStatus dial(const Servers& servers, const std::vector<std::string>& urls, const std::string& host, milliseconds timeout);

  natsConnection* connection_ = nullptr;
  std::shared_ptr<std::atomic<bool>> ended_ = std::make_shared<std::atomic<bool>>(false);
  std::uintptr_t listener_ = 0;
};

/// A JetStream context whose requests wait so long.
JetStreamHandle jetstream(const Connection& connection, milliseconds wait);

}  // namespace penstock::beacon
