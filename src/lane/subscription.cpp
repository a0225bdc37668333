// SPDX-License-Identifier: Apache-2.0
#include "lane/subscription.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/message.hpp"
#include "penstock/envelope.hpp"
#include "penstock/random.hpp"

namespace penstock::lane {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr amqp_channel_t consume_channel = 1;
constexpr amqp_channel_t declare_channel = 2;
constexpr milliseconds connect_timeout{10'000};
constexpr milliseconds copy_timeout{30'000};

}  // namespace

void Subscription::Desk::settle(std::uint64_t of_generation, Settlement settlement) {
  const std::lock_guard lock{mutex};
  if (of_generation != generation) return;
  settlements.push_back(settlement);
  interrupt.wake();
}

void Subscription::Desk::settle_later(std::uint64_t of_generation, Settlement settlement, SteadyTime due) {
  const std::lock_guard lock{mutex};
  if (of_generation != generation) return;
  later.emplace(due, settlement);
  interrupt.wake();
}

void Subscription::Desk::forget() {
  const std::lock_guard lock{mutex};
  ++generation;
  arrived.clear();
  held.clear();
  settlements.clear();
  later.clear();
  connected = false;
}

Subscription::Subscription(Settings settings, std::string queue, std::uint16_t prefetch, const std::string& group)
    : settings_{std::move(settings)},
      queue_{std::move(queue)},
      name_{"penstock source of " + queue_},
      tag_{("penstock." + group).substr(0, 255)},
      prefetch_{prefetch},
      retries_{settings_, {}, queue_, "retries"} {
  io_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
}

Subscription::~Subscription() {
  desk_->interrupt.cut();
  io_.request_stop();
}

std::vector<Message> Subscription::poll(std::size_t max, milliseconds wait) {
  std::vector<Arrived> taken;
  {
    std::unique_lock lock{desk_->mutex};
    const auto ready = [this] { return !desk_->paused && !desk_->arrived.empty(); };
    if (max == 0 || !desk_->changed.wait_for(lock, wait, ready)) return {};
    while (taken.size() < max && !desk_->arrived.empty()) {
      taken.push_back(std::move(desk_->arrived.front()));
      desk_->arrived.pop_front();
    }
  }
  std::vector<Message> messages;
  messages.reserve(taken.size());
  for (Arrived& arrived : taken) messages.push_back(read(std::move(arrived)));
  return messages;
}

Message Subscription::read(Arrived arrived) const {
  Message message;
  message.receipt = arrived.receipt;
  message.origin.backend = "rabbitmq";
  message.origin.redelivered = arrived.redelivered;
  message.origin.deliveries = 1;
  try {
    RawProperties properties{arrived.properties};
    Received received = unpack(*properties, std::move(arrived.body), queue_);
    message.wire = std::move(received.wire);
    // A classic queue does not count; of a redelivery it only says that it is one.
    const bool known = received.counted || received.earlier > 0 || !arrived.redelivered;
    message.origin.deliveries = known ? received.earlier + 1 : 0;
    message.origin.redelivered = arrived.redelivered || received.earlier > 0;
    message.event = decode(message.wire, Binding::amqp);
  } catch (const MalformedMessage& error) {
    message.defect = error.what();
  } catch (const AmqpError& error) {
    message.defect = error.what();
    message.wire.payload = std::move(arrived.body);
  }
  return message;
}

void Subscription::ack(const Message& message) {
  const std::lock_guard lock{desk_->mutex};
  const auto found = desk_->held.find(message.receipt);
  if (found == desk_->held.end()) return;
  desk_->settlements.push_back({found->second.tag, false});
  desk_->held.erase(found);
  desk_->interrupt.wake();
}

void Subscription::retry(const Message& message, milliseconds delay) {
  Held held;
  std::uint64_t generation = 0;
  {
    const std::lock_guard lock{desk_->mutex};
    const auto found = desk_->held.find(message.receipt);
    if (found == desk_->held.end()) return;
    held = std::move(found->second);
    desk_->held.erase(found);
    generation = desk_->generation;
    ++desk_->moving;
  }
  send_copy(generation, held, message, delay);
}

/// The copy is confirmed before the original is acknowledged: between the two there are two, never none.
void Subscription::send_copy(std::uint64_t generation, const Held& held, const Message& message, milliseconds delay) {
  const SteadyTime start = Clock::now();
  // Where the copy cannot be stored the original waits here, unacknowledged, and goes back when its time has come.
  const auto keep = [desk = desk_, logger = settings_.logger, name = name_, generation, tag = held.tag,
                     due = start + std::min<milliseconds>(delay, std::chrono::hours{24})](const std::string& why) {
    log(logger, LogLevel::warn, name + ": a delayed retry waits in memory: " + why);
    desk->settle_later(generation, {tag, true}, due);
  };
  const auto moved = [desk = desk_] {
    const std::lock_guard lock{desk->mutex};
    --desk->moving;
    desk->changed.notify_all();
  };
  Parcels parcels = retries_.parcels(1);
  try {
    std::optional<DelayQueue> through;
    if (delay > milliseconds{0}) through = DelayQueue{queue_, delay_step(delay)};
    const std::string_view body = message.wire.payload ? std::string_view{*message.wire.payload} : std::string_view{};
    *parcels.front() = repack(held.properties, body, queue_, std::move(through),
                              std::max<std::uint32_t>(message.origin.deliveries, 1), settings_.address.user);
  } catch (const std::exception& error) {
    keep(error.what());
    moved();
    return;
  }
  retries_.send(std::move(parcels), start + copy_timeout,
                [desk = desk_, keep, moved, generation, tag = held.tag](Outcomes outcomes) {
                  if (outcomes.front().confirmed()) {
                    desk->settle(generation, {tag, false});
                  } else {
                    keep(outcomes.front().error);
                  }
                  moved();
                });
}

void Subscription::pause(bool paused) {
  const std::lock_guard lock{desk_->mutex};
  // The consumer stays: prefetch bounds what lies here, and cancelling would hand a single active consumer's queue to another
  // member while messages of this one are in work.
  desk_->paused = paused;
  desk_->changed.notify_all();
}

void Subscription::close(milliseconds timeout) {
  const SteadyTime deadline = Clock::now() + std::clamp<milliseconds>(timeout, milliseconds{0}, std::chrono::hours{24});
  {
    std::unique_lock lock{desk_->mutex};
    desk_->closing = true;
    for (const Arrived& arrived : std::exchange(desk_->arrived, {})) desk_->held.erase(arrived.receipt);
    desk_->interrupt.wake();
    desk_->changed.wait_until(lock, deadline, [this] { return desk_->moving == 0; });
    close_by_ = deadline;
  }
  io_.request_stop();
  {
    std::unique_lock lock{desk_->mutex};
    desk_->interrupt.wake();
    if (desk_->connected) desk_->changed.wait_until(lock, deadline, [this] { return desk_->io_ended; });
  }
  desk_->interrupt.cut();
  if (io_.joinable()) io_.join();
}

void Subscription::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      connect();
      serve(stop);
      finish();
    } catch (const std::exception& error) {
      if (!desk_->interrupt.is_cut()) {
        log(settings_.logger, LogLevel::warn, name_ + ": " + settings_.address.shown() + ": " + error.what());
      }
    }
    desk_->forget();
    connection_.reset();
    if (stop.stop_requested()) break;
    std::mutex idle;
    std::condition_variable_any woken;
    std::unique_lock lock{idle};
    woken.wait_for(lock, stop, backoff_.next(Random::system()), [] { return false; });
  }
  const std::lock_guard lock{desk_->mutex};
  desk_->io_ended = true;
  desk_->changed.notify_all();
}

void Subscription::connect() {
  content_.reset();
  connection_ = std::make_unique<Connection>(settings_.address, settings_.heartbeat, name_, Clock::now() + connect_timeout,
                                             desk_->interrupt);
  connection_->open_channel(consume_channel);
  amqp_basic_qos(connection_->state(), consume_channel, 0, prefetch_, 0);
  connection_->check_rpc(consume_channel, "setting the prefetch");
  consume();
  {
    const std::lock_guard lock{desk_->mutex};
    desk_->connected = true;
  }
  log(settings_.logger, LogLevel::info, name_ + ": consuming from " + settings_.address.shown());
}

void Subscription::declare() {
  auto spec = settings_.topology->find(queue_);
  const auto& make = spec ? declare_queue : make_if_missing;
  if (!spec) spec = settings_.topology->dead_letter_queue(queue_);
  if (!spec) return;
  try {
    connection_->open_channel(declare_channel);
    if (queue_lost_) settings_.topology->making(*spec);
    make(*connection_, declare_channel, *spec, *settings_.topology);
    if (queue_lost_) settings_.topology->making(*spec);
    amqp_channel_close(connection_->state(), declare_channel, AMQP_REPLY_SUCCESS);
  } catch (const AmqpError& error) {
    if (!error.channel_only()) throw;
    if (error.code() == 0) amqp_channel_close(connection_->state(), declare_channel, AMQP_REPLY_SUCCESS);
    log(settings_.logger, LogLevel::error, name_ + ": " + error.what());
  }
}

void Subscription::consume() {
  declare();
  constexpr amqp_boolean_t no = 0;
  amqp_basic_consume(connection_->state(), consume_channel, bytes(queue_), bytes(tag_), no, no, no, amqp_empty_table);
  connection_->check_rpc(consume_channel, "consuming");
  queue_lost_ = false;
}

void Subscription::serve(const std::stop_token& stop) {
  amqp_frame_t frame;
  while (true) {
    while (connection_->next(frame)) {
      handle(frame);
      connection_->release();
    }
    connection_->release();
    const bool stopping = stop.stop_requested();  // before the settlements are taken: what came earlier goes out
    send_settlements();
    if (stopping) return;
    connection_->wait(false, next_due());
  }
}

/// Closes so that what was acknowledged stays so. A quorum queue's client inside RabbitMQ holds acknowledgements back while 32
/// of them are not applied, and forgets them when the channel ends. The answer to basic.cancel comes when all before it is
/// applied; the ones held back go out when that is known to the channel, which is before it answers the calls after.
void Subscription::finish() {
  SteadyTime by;
  {
    const std::lock_guard lock{desk_->mutex};
    by = close_by_;
  }
  const auto left = [by] { return std::chrono::duration_cast<milliseconds>(by - Clock::now()); };
  if (left() <= milliseconds{0}) return;
  connection_->limit_calls(left());
  amqp_basic_cancel(connection_->state(), consume_channel, bytes(tag_));
  connection_->check_rpc(consume_channel, "cancelling the consumer");
  for (int i = 0; i < 2; ++i) {
    connection_->limit_calls(left());
    constexpr amqp_boolean_t passive = 1;
    amqp_queue_declare(connection_->state(), consume_channel, bytes(queue_), passive, 1, 0, 0, amqp_empty_table);
    connection_->check_rpc(consume_channel, "looking at the queue");
  }
  connection_->close(left());
}

void Subscription::handle(const amqp_frame_t& frame) {
  if (frame.channel != consume_channel) return;
  if (frame.frame_type != AMQP_FRAME_METHOD) {
    if (content_.expected() && content_.take(frame)) deliver();
    return;
  }
  const void* method = frame.payload.method.decoded;
  switch (frame.payload.method.id) {
    case AMQP_BASIC_DELIVER_METHOD: {
      const auto* delivery = static_cast<const amqp_basic_deliver_t*>(method);
      delivery_tag_ = delivery->delivery_tag;
      redelivered_ = delivery->redelivered != 0;
      return content_.begin();
    }
    case AMQP_BASIC_CANCEL_METHOD:
      log(settings_.logger, LogLevel::warn,
          name_ + ": RabbitMQ cancelled the consumer (queue deleted or moved); subscribing again");
      queue_lost_ = true;
      return consume();
    case AMQP_CHANNEL_CLOSE_METHOD: {
      const auto* close = static_cast<const amqp_channel_close_t*>(method);
      const AmqpError error{
          close->reply_code, true,
          "RabbitMQ closed the channel: " + std::to_string(close->reply_code) + " " + text(close->reply_text)};
      connection_->accept_channel_close(consume_channel);
      throw AmqpError{error};
    }
    case AMQP_CHANNEL_FLOW_METHOD: {
      amqp_channel_flow_ok_t ok{static_cast<const amqp_channel_flow_t*>(method)->active};
      return Connection::check(amqp_send_method(connection_->state(), consume_channel, AMQP_CHANNEL_FLOW_OK_METHOD, &ok),
                               "answering channel.flow");
    }
    default: return;
  }
}

void Subscription::deliver() {
  backoff_.reset();
  const std::lock_guard lock{desk_->mutex};
  if (desk_->closing) return;  // goes back when the connection ends
  const std::uint64_t receipt = ++desk_->last_receipt;
  desk_->held.emplace(receipt, Held{delivery_tag_, content_.properties()});
  desk_->arrived.push_back({receipt, std::move(content_.properties()), std::move(content_.body()), redelivered_});
  desk_->changed.notify_all();
}

void Subscription::send_settlements() {
  std::vector<Settlement> due;
  {
    const std::lock_guard lock{desk_->mutex};
    due.swap(desk_->settlements);
    while (!desk_->later.empty() && desk_->later.begin()->first <= Clock::now()) {
      due.push_back(desk_->later.begin()->second);
      desk_->later.erase(desk_->later.begin());
    }
  }
  for (const Settlement& settlement : due) {
    // One by one: `multiple` would take running ones along.
    const int status = settlement.requeue ? amqp_basic_nack(connection_->state(), consume_channel, settlement.tag, 0, 1)
                                          : amqp_basic_ack(connection_->state(), consume_channel, settlement.tag, 0);
    Connection::check(status, "settling");
  }
}

SteadyTime Subscription::next_due() {
  const std::lock_guard lock{desk_->mutex};
  return desk_->later.empty() ? Clock::now() + std::chrono::seconds{1} : desk_->later.begin()->first;
}

}  // namespace penstock::lane
