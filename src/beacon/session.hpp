// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "beacon/connection.hpp"
#include "beacon/ledger.hpp"
#include "beacon/mail.hpp"
#include "beacon/servers.hpp"
#include "penstock/event.hpp"

namespace penstock::beacon {

/// The publishing side of a Beacon: one connection for all its channels, and three threads: one keeps it and asks why a subject
/// has no taker, one sends, which may block in the client library for seconds, and one watches deadlines.
///
/// Within one connection NATS keeps order. A batch is sent on the connection it began with or not at all, and a new connection
/// is opened only after everything the last one left open has its outcome; so nothing overtakes what failed before it, unless
/// it was submitted before that outcome was known.
/// Thread safety: any thread. Lifetime: shared by the Beacon and its publishers; the destructor settles what is open.
class Session {
 public:
  Session(Servers servers, std::shared_ptr<Logger> logger);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::future<Outcomes> submit(const std::shared_ptr<Window>& window, std::span<const Event> events, milliseconds timeout);
  [[nodiscard]] Ledger& ledger() const noexcept;

 private:
  class Ear;
  class LinkEar;
  struct Link {
    std::shared_ptr<LinkEar> ear{};
    SubscriptionHandle answers{};  // dies after the connection, see SubscriptionHandle
    std::shared_ptr<Connection> connection{};
    std::string inbox{};
    Instant since{};
    bool first = true;  ///< the first this session has made
  };

  void run(const std::stop_token& stop);
  void send(const std::stop_token& stop);
  void send(Ledger::Letter& letter);
  void connect();
  void disconnect(const std::string& why, LogLevel level = LogLevel::warn);
  void answer_unrouted();
  Outcome why_unrouted(const Link& link, const Window& window, const std::string& subject) const;
  /// The connection, waiting for an attempt that is under way; null when there is none.
  std::shared_ptr<Link> await_link(Instant deadline);

  const Servers servers_;
  const std::shared_ptr<Speech> speech_;
  const std::shared_ptr<Ear> ear_;
  Mail mail_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::shared_ptr<Link> link_;
  bool wanted_ = false;
  bool trying_ = true;  ///< an attempt to connect is under way or about to be
  std::string last_error_;

  // Of the thread alone.
  Backoff backoff_;
  Instant next_attempt_{};
  bool connected_before_ = false;
  std::vector<std::string> announced_;

  std::jthread thread_;  // last: they end first
  std::jthread sender_;
  std::jthread sweeper_;  // keeps the deadlines, whatever the others wait for
};

}  // namespace penstock::beacon
