// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "lane/backoff.hpp"
#include "lane/batch.hpp"
#include "lane/confirms.hpp"
#include "lane/connection.hpp"
#include "lane/content.hpp"
#include "lane/message.hpp"
#include "lane/settings.hpp"

namespace penstock::lane {

/// Each in its place, so that handing them on moves nothing.
using Parcels = std::vector<std::unique_ptr<Parcel>>;

/// Publishes parcels over a connection of its own, persistent, mandatory and confirmed, and tells each one's outcome at its
/// deadline at the latest.
///
/// One thread owns the connection; another keeps the deadlines, so that a socket that blocks delays no outcome. It connects
/// when there is something to send.
///
/// Thread safety: `send` from any thread. Lifetime: the destructor settles what is open (`unknown` when it was sent) and
/// joins; it must not run inside a `Done`.
class Sender {
 public:
  /// To an exchange, or without one to the queue. What this Lane was asked to declare of it is declared at each connect.
  /// RabbitMQ's list of connections shows it as the `role` of it.
  Sender(Settings settings, std::string exchange, std::string queue, const std::string& role = "publisher");
  ~Sender();
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  /// Waits for room in the queue until the deadline at most. `done` is called once, from any thread.
  void send(Parcels parcels, SteadyTime deadline, Done done);

  /// So many parcels to be filled and sent, with the memory of those that are done, as far as there are any.
  [[nodiscard]] Parcels parcels(std::size_t count);

 private:
  struct Waiting {
    std::shared_ptr<Batch> batch;
    std::size_t index = 0;
    std::unique_ptr<Parcel> parcel;
  };
  struct Sent {
    std::shared_ptr<Batch> batch;
    std::size_t index = 0;
    std::unique_ptr<Parcel> parcel;  ///< shrunk
    std::size_t size = 0;            ///< of its body
    SteadyTime trusted{};            ///< a confirm counts from then on
    std::string returned{};          ///< why RabbitMQ gave it back; its ack then confirms nothing
  };

  static constexpr amqp_channel_t publish_channel = 1;
  static constexpr amqp_channel_t declare_channel = 2;  // a refused declaration closes its channel, and that is this one

  // the I/O thread
  void run(const std::stop_token& stop);
  void connect();
  void declare();
  void use_declare_channel();
  void look_for_exchange();
  SteadyTime first_confirm(const Parcel& parcel);
  void serve(const std::stop_token& stop);
  void handle(const amqp_frame_t& frame);
  void handle_content(const amqp_frame_t& frame);
  void settle(std::uint64_t tag, bool multiple, bool acked);
  void settle_held();
  void channel_closed(std::uint16_t code, const std::string& why);
  void connection_lost(const AmqpError& error);
  void open_channel();
  bool publish_some();
  void publish(Waiting& waiting);
  SteadyTime prepare_delay(const DelayQueue& queue);
  [[nodiscard]] std::size_t room() const noexcept;

  // any thread
  void finish(const std::shared_ptr<Batch>& batch, std::size_t index, Outcome outcome, Finished& finished);
  void fail_queued(const std::string& why, Finished& finished);
  void watch(const std::stop_token& stop);
  void expire(const std::shared_ptr<Batch>& batch, Finished& finished);
  void drop_settled();
  void retire(std::unique_ptr<Parcel> parcel);

  const Settings settings_;
  const std::string exchange_;
  const std::string queue_;  ///< empty with an exchange
  const std::string name_;
  Interrupt interrupt_;

  std::mutex mutex_;
  std::condition_variable_any work_;      ///< something is queued
  std::condition_variable_any space_;     ///< the queue has room again
  std::condition_variable_any deadline_;  ///< an earlier deadline came
  std::condition_variable_any ended_;
  std::deque<Waiting> waiting_;
  std::size_t waiting_bytes_ = 0;
  Parcels spare_;  ///< done, and of use for the next
  std::size_t spare_bytes_ = 0;
  std::multimap<SteadyTime, std::shared_ptr<Batch>> deadlines_;
  std::string trouble_;  ///< why nothing moves at the moment
  bool io_ended_ = false;
  std::atomic<bool> connected_{false};

  // owned by the I/O thread
  std::unique_ptr<Connection> connection_;
  Confirms<Sent> confirms_;
  Content returned_;
  std::string return_reason_;
  std::string return_key_;
  bool channel_open_ = false;
  bool declare_channel_open_ = false;
  bool blocked_ = false;
  bool flow_stopped_ = false;
  bool socket_full_ = false;
  std::size_t careful_ = 0;             ///< so many messages are sent one at a time, to see which one RabbitMQ takes offence at
  std::optional<std::size_t> largest_;  ///< RabbitMQ's limit, once it told
  struct Declared {
    SteadyTime at{};
    SteadyTime trusted{};
  };
  std::map<std::string, Declared> delays_declared_;
  bool exchange_missing_ = false;
  /// By routing key: a message was returned, so a queue that confirms another one is new, and trusted from a time on, which is
  /// told by its first confirm.
  std::map<std::string, SteadyTime, std::less<>> found_;
  std::optional<SteadyTime> all_found_;   ///< the same for whatever key
  std::multimap<SteadyTime, Sent> held_;  ///< confirmed by a queue too new to be trusted
  Backoff backoff_;

  std::jthread io_;
  std::jthread watch_;
};

}  // namespace penstock::lane
