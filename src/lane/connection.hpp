// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "lane/amqp.hpp"
#include "lane/interrupt.hpp"
#include "lane/url.hpp"

namespace penstock::lane {

using SteadyTime = std::chrono::steady_clock::time_point;

/// RabbitMQ or rabbitmq-c said no. `code` is AMQP's reply code, 0 where the reason is none of RabbitMQ's.
class AmqpError : public std::runtime_error {
 public:
  AmqpError(std::uint16_t code, bool channel_only, const std::string& what)
      : std::runtime_error{what}, code_{code}, channel_only_{channel_only} {}
  [[nodiscard]] std::uint16_t code() const noexcept { return code_; }
  /// Only the channel is gone, the connection stands.
  [[nodiscard]] bool channel_only() const noexcept { return channel_only_; }

 private:
  std::uint16_t code_;
  bool channel_only_;
};

/// A logged-in connection. Everything throws AmqpError, after which, unless `channel_only`, only the destructor is of use.
/// Thread safety: the thread that made it. Lifetime: the interrupt must outlive it.
class Connection {
 public:
  /// Connects and logs in before the deadline. `name` shows in RabbitMQ's list of connections.
  Connection(const Address& address, std::chrono::seconds heartbeat, const std::string& name, SteadyTime deadline,
             Interrupt& interrupt);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void open_channel(amqp_channel_t channel);
  /// Answers RabbitMQ's channel.close, so that the number can be opened again.
  void accept_channel_close(amqp_channel_t channel);
  /// How long a call may take that waits for an answer; 10 s before. One that takes longer ends the connection.
  void limit_calls(std::chrono::milliseconds timeout);
  /// The close handshake, within `timeout`. Does not throw.
  void close(std::chrono::milliseconds timeout) noexcept;

  /// The next frame that has arrived, false when there is none now. Sends heartbeats, and throws when RabbitMQ's are missing.
  /// Heartbeat frames are not shown; connection.close is answered and thrown.
  bool next(amqp_frame_t& frame);
  /// Gives the memory of the frames read so far back. What they pointed to is gone.
  void release() noexcept { amqp_maybe_release_buffers(state_); }

  /// True when the socket takes more without blocking.
  [[nodiscard]] bool writable() const noexcept;
  /// Waits for frames, for `interrupt`, with `for_write` for room to send, at most until `until` or the next heartbeat.
  void wait(bool for_write, SteadyTime until);

  /// Throws for a failed call: `status` as returned by a sending function, `what` the verb.
  static void check(int status, const char* what);
  /// Throws for a failed RPC, after answering a channel.close.
  void check_rpc(amqp_channel_t channel, const char* what);

  [[nodiscard]] amqp_connection_state_t state() const noexcept { return state_; }
  [[nodiscard]] std::size_t frame_max() const noexcept { return static_cast<std::size_t>(amqp_get_frame_max(state_)); }

 private:
  void login(const Address& address, std::chrono::seconds heartbeat, const std::string& name, SteadyTime deadline);

  Interrupt& interrupt_;
  amqp_connection_state_t state_;
  std::chrono::milliseconds beat_;
};

}  // namespace penstock::lane
