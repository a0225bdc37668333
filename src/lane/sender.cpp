// SPDX-License-Identifier: Apache-2.0
#include "lane/sender.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "penstock/random.hpp"

namespace penstock::lane {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t most_waiting_bytes = std::size_t{64} << 20U;
constexpr std::size_t most_spare_bytes = std::size_t{2} << 20U;  // some thousand small events
constexpr milliseconds connect_timeout{10'000};
constexpr milliseconds close_timeout{1'000};

std::size_t most_waiting(const Settings& settings) { return std::max<std::size_t>(10'000, 4 * settings.window); }

}  // namespace

Sender::Sender(Settings settings, std::string exchange, std::string queue, const std::string& role)
    : settings_{std::move(settings)},
      exchange_{std::move(exchange)},
      queue_{std::move(queue)},
      name_{"penstock " + role + " of " + (exchange_.empty() ? queue_ : "exchange " + exchange_)} {
  io_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
  watch_ = std::jthread{[this](const std::stop_token& stop) { watch(stop); }};
}

Sender::~Sender() {
  Finished finished;
  {
    std::unique_lock lock{mutex_};
    waiting_.clear();
    waiting_bytes_ = 0;
    for (const auto& [deadline, batch] : std::exchange(deadlines_, {})) {
      for (std::size_t i = 0; i < batch->states.size(); ++i) {
        const bool sent = batch->states[i] == Batch::State::sent;
        if (batch->settle(i, sent ? Outcome{Outcome::Status::unknown, "the publisher was closed before RabbitMQ confirmed"}
                                  : Outcome{Outcome::Status::retryable, "the publisher was closed before it was sent"})) {
          finished.add(batch);
        }
      }
    }
  }
  finished.tell();
  io_.request_stop();
  watch_.request_stop();
  if (!connected_.load()) interrupt_.cut();
  interrupt_.wake();
  {
    std::unique_lock lock{mutex_};
    if (!ended_.wait_for(lock, 2 * close_timeout, [this] { return io_ended_; })) interrupt_.cut();
  }
}

void Sender::send(Parcels parcels, SteadyTime deadline, Done done) {
  auto batch = std::make_shared<Batch>(parcels.size(), deadline, std::move(done));
  Finished finished;
  if (parcels.empty()) {
    finished.add(batch);
    finished.tell();
    return;
  }
  {
    std::unique_lock lock{mutex_};
    const auto place = deadlines_.emplace(deadline, batch);
    if (place == deadlines_.begin()) deadline_.notify_all();
    const std::size_t most = most_waiting(settings_);
    for (std::size_t i = 0; i < parcels.size(); ++i) {
      if (!parcels[i]->refused.empty()) {
        finish(batch, i, {Outcome::Status::rejected, std::move(parcels[i]->refused)}, finished);
        retire(std::move(parcels[i]));
        continue;
      }
      const std::size_t size = parcels[i]->body.size();
      const auto fits = [&] {
        return waiting_.empty() || (waiting_.size() < most && waiting_bytes_ + size <= most_waiting_bytes);
      };
      const auto over = [&] { return batch->open == 0; };
      if (!fits()) {
        work_.notify_all();  // of what there is already, or nobody would make room
        interrupt_.wake();
        space_.wait_until(lock, deadline, [&] { return fits() || over(); });
      }
      // At the deadline the other thread settles all that is left.
      if (over() || Clock::now() >= deadline) break;
      if (batch->states[i] == Batch::State::settled) continue;
      waiting_bytes_ += size;
      waiting_.push_back(Waiting{batch, i, std::move(parcels[i])});
    }
    work_.notify_all();
  }
  interrupt_.wake();
  finished.tell();
}

Parcels Sender::parcels(std::size_t count) {
  Parcels taken;
  taken.reserve(count);
  {
    const std::lock_guard lock{mutex_};
    while (taken.size() < count && !spare_.empty()) {
      spare_bytes_ -= spare_.back()->footprint();
      taken.push_back(std::move(spare_.back()));
      spare_.pop_back();
    }
  }
  while (taken.size() < count) taken.push_back(std::make_unique<Parcel>());
  return taken;
}

void Sender::retire(std::unique_ptr<Parcel> parcel) {
  parcel->shrink();
  const std::size_t bytes = parcel->footprint();
  if (spare_bytes_ + bytes > most_spare_bytes) return;
  spare_bytes_ += bytes;
  spare_.push_back(std::move(parcel));
}

void Sender::finish(const std::shared_ptr<Batch>& batch, std::size_t index, Outcome outcome, Finished& finished) {
  if (!batch->settle(index, std::move(outcome))) return;
  const auto [first, last] = deadlines_.equal_range(batch->deadline);
  const auto own = std::find_if(first, last, [&](const auto& item) { return item.second == batch; });
  if (own != last) deadlines_.erase(own);
  finished.add(batch);
}

void Sender::fail_queued(const std::string& why, Finished& finished) {
  auto failed = std::exchange(waiting_, {});
  waiting_bytes_ = 0;
  for (const Waiting& item : failed) finish(item.batch, item.index, {Outcome::Status::retryable, why}, finished);
  space_.notify_all();
}

void Sender::watch(const std::stop_token& stop) {
  std::unique_lock lock{mutex_};
  while (!stop.stop_requested()) {
    if (deadlines_.empty()) {
      deadline_.wait(lock, stop, [this] { return !deadlines_.empty(); });
      continue;
    }
    const SteadyTime first = deadlines_.begin()->first;
    deadline_.wait_until(lock, stop, first, [&] { return deadlines_.empty() || deadlines_.begin()->first < first; });
    Finished finished;
    bool expired = false;
    while (!deadlines_.empty() && deadlines_.begin()->first <= Clock::now()) {
      const auto batch = deadlines_.begin()->second;
      deadlines_.erase(deadlines_.begin());
      expire(batch, finished);
      expired = true;
    }
    if (expired) drop_settled();
    lock.unlock();
    finished.tell();
    lock.lock();
  }
}

void Sender::expire(const std::shared_ptr<Batch>& batch, Finished& finished) {
  const std::string trouble = trouble_.empty() ? std::string{"RabbitMQ is slower than that"} : trouble_;
  for (std::size_t i = 0; i < batch->states.size(); ++i) {
    const bool sent = batch->states[i] == Batch::State::sent;
    if (batch->settle(i, sent ? Outcome{Outcome::Status::unknown, "sent, but not confirmed in time: " + trouble}
                              : Outcome{Outcome::Status::retryable, "could not be sent in time: " + trouble})) {
      finished.add(batch);
    }
  }
}

/// Once for all that expired at a time: what waits is long when RabbitMQ is away, and then so are those.
void Sender::drop_settled() {
  std::erase_if(waiting_, [&](const Waiting& item) {
    if (item.batch->states[item.index] != Batch::State::settled) return false;
    waiting_bytes_ -= item.parcel->body.size();
    return true;
  });
  space_.notify_all();
}

void Sender::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock{mutex_};
      if (!work_.wait(lock, stop, [this] { return !waiting_.empty(); })) break;
    }
    try {
      connect();
      serve(stop);
      connection_->close(close_timeout);
    } catch (const AmqpError& error) {
      connection_lost(error);
    } catch (const std::exception& error) {  // no memory
      connection_lost(AmqpError{0, false, error.what()});
    }
    connected_.store(false);
    connection_.reset();
    if (stop.stop_requested()) break;
    std::unique_lock lock{mutex_};
    work_.wait_for(lock, stop, backoff_.next(Random::system()), [] { return false; });
  }
  const std::lock_guard lock{mutex_};
  io_ended_ = true;
  ended_.notify_all();
}

void Sender::connect() {
  channel_open_ = declare_channel_open_ = blocked_ = flow_stopped_ = false;
  largest_.reset();
  delays_declared_.clear();
  returned_.reset();
  connection_ =
      std::make_unique<Connection>(settings_.address, settings_.heartbeat, name_, Clock::now() + connect_timeout, interrupt_);
  declare();
  open_channel();
  connected_.store(true);
  log(settings_.logger, LogLevel::info, name_ + ": connected to " + settings_.address.shown());
  const std::lock_guard lock{mutex_};
  trouble_.clear();
}

void Sender::declare() {
  const Topology& topology = *settings_.topology;
  std::vector<QueueSpec> queues;
  bool as_they_are = false;
  if (!exchange_.empty()) {
    queues = topology.bound_to(exchange_);
  } else if (auto spec = topology.find(queue_)) {
    queues.push_back(std::move(*spec));
  } else if (auto dead = topology.dead_letter_queue(queue_)) {
    queues.push_back(std::move(*dead));
    as_they_are = true;
  }
  for (const QueueSpec& queue : queues) {
    try {
      use_declare_channel();
      (as_they_are ? make_if_missing : declare_queue)(*connection_, declare_channel, queue, *settings_.topology);
    } catch (const AmqpError& error) {
      if (!error.channel_only()) throw;
      if (error.code() != 0) declare_channel_open_ = false;
      log(settings_.logger, LogLevel::error, name_ + ": " + error.what());
    }
  }
}

void Sender::use_declare_channel() {
  if (!declare_channel_open_) connection_->open_channel(declare_channel);
  declare_channel_open_ = true;
}

/// A message for an exchange that is not there would close the channel, and all that is unconfirmed be `unknown`.
void Sender::look_for_exchange() {
  if (exchange_.empty()) return;
  try {
    use_declare_channel();
    exchange_missing_ = !exchange_exists(*connection_, declare_channel, exchange_);
  } catch (const AmqpError& error) {
    if (!error.channel_only()) throw;
    declare_channel_open_ = false;
    exchange_missing_ = false;  // RabbitMQ would not say; publishing will tell
    log(settings_.logger, LogLevel::warn, name_ + ": " + error.what());
  }
  if (!exchange_missing_) return;
  careful_ = 0;  // it was no message's fault
  all_found_ = SteadyTime::max();
}

void Sender::open_channel() {
  connection_->open_channel(publish_channel);
  amqp_confirm_select(connection_->state(), publish_channel);
  connection_->check_rpc(publish_channel, "asking for publisher confirms");
  confirms_.clear([](const Sent&) {});  // all are settled by now; what matters is that the tags start anew with the channel
  channel_open_ = true;
  look_for_exchange();
}

void Sender::serve(const std::stop_token& stop) {
  amqp_frame_t frame;
  while (true) {
    while (connection_->next(frame)) {
      handle(frame);
      connection_->release();
    }
    connection_->release();
    settle_held();
    if (stop.stop_requested()) return;
    if (!channel_open_) open_channel();
    if (publish_some()) continue;
    connection_->wait(socket_full_, held_.empty() ? Clock::now() + std::chrono::seconds{1} : held_.begin()->first);
  }
}

void Sender::handle(const amqp_frame_t& frame) {
  if (frame.frame_type != AMQP_FRAME_METHOD) {
    if (frame.channel == publish_channel && returned_.expected()) handle_content(frame);
    return;
  }
  const void* method = frame.payload.method.decoded;
  switch (frame.payload.method.id) {
    case AMQP_BASIC_ACK_METHOD: {
      const auto* ack = static_cast<const amqp_basic_ack_t*>(method);
      return settle(ack->delivery_tag, ack->multiple != 0, true);
    }
    case AMQP_BASIC_NACK_METHOD: {
      const auto* nack = static_cast<const amqp_basic_nack_t*>(method);
      return settle(nack->delivery_tag, nack->multiple != 0, false);
    }
    case AMQP_BASIC_RETURN_METHOD: {
      const auto* back = static_cast<const amqp_basic_return_t*>(method);
      return_reason_ = std::to_string(back->reply_code) + " " + text(back->reply_text);
      return_key_ = text(back->routing_key);
      return returned_.begin();
    }
    case AMQP_CHANNEL_CLOSE_METHOD: {
      const auto* close = static_cast<const amqp_channel_close_t*>(method);
      const std::uint16_t code = close->reply_code;
      const std::string why = std::to_string(code) + " " + text(close->reply_text);
      connection_->accept_channel_close(frame.channel);
      if (frame.channel == publish_channel) return channel_closed(code, why);
      declare_channel_open_ = false;
      return;
    }
    case AMQP_CONNECTION_BLOCKED_METHOD: {
      const auto* blocked = static_cast<const amqp_connection_blocked_t*>(method);
      blocked_ = true;
      const std::string why = "RabbitMQ takes no messages at the moment: " + text(blocked->reason);
      log(settings_.logger, LogLevel::warn, name_ + ": " + why);
      const std::lock_guard lock{mutex_};
      trouble_ = why;
      return;
    }
    case AMQP_CONNECTION_UNBLOCKED_METHOD: {
      blocked_ = false;
      log(settings_.logger, LogLevel::info, name_ + ": RabbitMQ takes messages again");
      const std::lock_guard lock{mutex_};
      trouble_.clear();
      return;
    }
    case AMQP_CHANNEL_FLOW_METHOD: {
      const auto* flow = static_cast<const amqp_channel_flow_t*>(method);
      flow_stopped_ = flow->active == 0;
      amqp_channel_flow_ok_t ok{flow->active};
      return Connection::check(amqp_send_method(connection_->state(), frame.channel, AMQP_CHANNEL_FLOW_OK_METHOD, &ok),
                               "answering channel.flow");
    }
    default: return;  // the answers to our own calls are read by these
  }
}

void Sender::handle_content(const amqp_frame_t& frame) {
  if (!returned_.take(frame)) return;
  RawProperties properties{returned_.properties()};
  const std::string_view id =
      (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0 ? view(properties->message_id) : std::string_view{};
  // Returns come in publishing order and before the ack, so it is the oldest that looks like it; two that look the same are
  // the same event for the same queue.
  Sent* sent = confirms_.find([&](const Sent& item) {
    return item.returned.empty() && item.parcel->routing_key == return_key_ && item.parcel->returned_id() == id;
  });
  if (sent == nullptr) {
    log(settings_.logger, LogLevel::warn, name_ + ": RabbitMQ returned a message that is not known here");
    return;
  }
  if (!sent->parcel->through) {
    constexpr std::size_t most_keys = 1'000;
    if (found_.size() < most_keys) {
      found_[return_key_] = SteadyTime::max();
    } else {
      found_.clear();
      all_found_ = SteadyTime::max();
    }
  }
  sent->returned = "RabbitMQ returned it, " + return_reason_ + ": ";
  if (exchange_.empty()) {
    sent->returned += "there is no queue '" + return_key_ + "'; declare it (Lane::declare) or correct the channel's name";
  } else {
    sent->returned += "no queue is bound to exchange '" + exchange_ + "' by the routing key '" + return_key_ +
                      "'; declare one with a QueueBinding for it (Lane::declare) or correct LaneChannelOptions::routing_key";
  }
}

/// When a confirm counts as to who may have been new when it came: after a message had found no queue there is one, made by
/// somebody else.
SteadyTime Sender::first_confirm(const Parcel& parcel) {
  const auto settled = [](SteadyTime& found) {
    if (found == SteadyTime::max()) found = Clock::now() + settling;
    return found;
  };
  SteadyTime trusted{};
  if (const auto found = found_.find(parcel.routing_key); found != found_.end()) {
    trusted = settled(found->second);
    if (trusted <= Clock::now()) found_.erase(found);
  }
  if (all_found_) {
    trusted = std::max(trusted, settled(*all_found_));
    if (*all_found_ <= Clock::now()) all_found_.reset();
  }
  return trusted;
}

void Sender::settle(std::uint64_t tag, bool multiple, bool acked) {
  const SteadyTime ours_trusted =
      exchange_.empty() ? settings_.topology->trusted(queue_) : settings_.topology->exchange_trusted(exchange_);
  Finished finished;
  {
    const std::lock_guard lock{mutex_};
    confirms_.settle(tag, multiple, [&](Sent& sent) {
      Outcome outcome{Outcome::Status::confirmed, {}};
      if (!acked) {
        outcome = {Outcome::Status::unknown, "RabbitMQ would not vouch for it (basic.nack): it may be in the queue or not"};
      } else if (!sent.returned.empty()) {
        outcome = {Outcome::Status::rejected, std::move(sent.returned)};
      }
      if (careful_ > 0) --careful_;
      if (outcome.confirmed()) {
        SteadyTime trusted = sent.trusted;
        // Whoever made a queue meanwhile: another connection of ours, or somebody else.
        if (!sent.parcel->through) trusted = std::max({trusted, ours_trusted, first_confirm(*sent.parcel)});
        if (trusted > Clock::now()) {
          held_.emplace(trusted, std::move(sent));
          return;
        }
      }
      finish(sent.batch, sent.index, std::move(outcome), finished);
      retire(std::move(sent.parcel));
    });
  }
  backoff_.reset();
  finished.tell();
}

void Sender::settle_held() {
  if (held_.empty() || held_.begin()->first > Clock::now()) return;
  Finished finished;
  {
    const std::lock_guard lock{mutex_};
    while (!held_.empty() && held_.begin()->first <= Clock::now()) {
      const Sent& sent = held_.begin()->second;
      finish(sent.batch, sent.index, {Outcome::Status::confirmed, {}}, finished);
      held_.erase(held_.begin());
    }
  }
  finished.tell();
}

}  // namespace penstock::lane
