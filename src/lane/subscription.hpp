// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lane/backoff.hpp"
#include "lane/connection.hpp"
#include "lane/content.hpp"
#include "lane/sender.hpp"
#include "lane/settings.hpp"
#include "penstock/source.hpp"

namespace penstock::lane {

/// A consumer on one queue over a connection of its own, owned by one thread, and beside it, for delayed retries, a Sender.
///
/// Each delivery has a receipt. A receipt is known until it is settled or its channel ends; what is not known is ignored, so a
/// tag is never used on a channel it was not made on.
///
/// Thread safety: as Source. Lifetime: the destructor cuts the connection and joins.
class Subscription {
 public:
  Subscription(Settings settings, std::string queue, std::uint16_t prefetch, const std::string& group);
  ~Subscription();
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait);
  void ack(const Message& message);
  void retry(const Message& message, std::chrono::milliseconds delay);
  void pause(bool paused);
  void close(std::chrono::milliseconds timeout);

 private:
  struct Arrived {
    std::uint64_t receipt = 0;
    std::string properties;
    std::string body;
    bool redelivered = false;
  };
  struct Held {
    std::uint64_t tag = 0;
    std::string properties;
  };
  struct Settlement {
    std::uint64_t tag = 0;
    bool requeue = false;
  };
  /// What settlements need, shared with the callbacks of retries under way, which may come when the rest is gone.
  struct Desk {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t generation = 1;  ///< of the channel that tags belong to
    std::uint64_t last_receipt = 0;
    std::deque<Arrived> arrived;
    std::unordered_map<std::uint64_t, Held> held;
    std::vector<Settlement> settlements;
    std::multimap<SteadyTime, Settlement> later;
    std::size_t moving = 0;  ///< retries whose copy is not confirmed yet
    bool paused = false;
    bool closing = false;
    bool connected = false;
    bool io_ended = false;
    Interrupt interrupt;

    void settle(std::uint64_t of_generation, Settlement settlement);
    void settle_later(std::uint64_t of_generation, Settlement settlement, SteadyTime due);
    void forget();
  };

  void run(const std::stop_token& stop);
  void connect();
  void declare();
  void consume();
  void serve(const std::stop_token& stop);
  void handle(const amqp_frame_t& frame);
  void deliver();
  void send_settlements();
  void finish();
  SteadyTime next_due();
  Message read(Arrived arrived) const;
  void send_copy(std::uint64_t generation, const Held& held, const Message& message, std::chrono::milliseconds delay);

  const Settings settings_;
  const std::string queue_;
  const std::string name_;
  const std::string tag_;
  const std::uint16_t prefetch_;
  const std::shared_ptr<Desk> desk_ = std::make_shared<Desk>();

  // owned by the I/O thread
  std::unique_ptr<Connection> connection_;
  Content content_;
  std::uint64_t delivery_tag_ = 0;
  bool redelivered_ = false;
  /// RabbitMQ cancelled the consumer, perhaps before the queue is gone: one that is seen may yet be made anew by declaring it.
  bool queue_lost_ = false;
  Backoff backoff_;
  std::chrono::steady_clock::time_point close_by_{};  ///< set before the stop is asked for

  Sender retries_;
  std::jthread io_;
};

}  // namespace penstock::lane
