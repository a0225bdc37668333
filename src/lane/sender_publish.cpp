// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/sender.hpp"

// The part of Sender that hands messages to the socket, and what it makes of a channel or connection that ends meanwhile.
namespace penstock::lane {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t burst = 128;
constexpr std::size_t burst_bytes = std::size_t{256} << 10U;
// RabbitMQ closes the channel over a message that is larger than its limit, which it does not tell before. So a large one is
// sent when nothing else is unconfirmed, and then it takes no other message down.
constexpr std::size_t bulky = std::size_t{4} << 20U;

/// Reply codes that a message itself can bring about, so that sending it again would do the same.
bool is_permanent(std::uint16_t code) {
  switch (code) {
    case 311:  // CONTENT_TOO_LARGE
    case 403:  // ACCESS_REFUSED
    case 404:  // NOT_FOUND
    case 406:  // PRECONDITION_FAILED
    case 501:  // FRAME_ERROR
    case 502:  // SYNTAX_ERROR
    case 505:  // UNEXPECTED_FRAME
    case 530:  // NOT_ALLOWED
    case 540:  // NOT_IMPLEMENTED
      return true;
    default: return false;
  }
}

struct SizeComplaint {
  std::size_t size = 0;
  std::size_t limit = 0;
};

/// "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216"
std::optional<SizeComplaint> size_complaint(std::string_view words) {
  const auto number_after = [words](std::string_view mark) -> std::optional<std::size_t> {
    auto at = words.find(mark);
    if (at == std::string_view::npos) return std::nullopt;
    at += mark.size();
    std::size_t value = 0;
    bool any = false;
    for (; at < words.size() && words[at] >= '0' && words[at] <= '9'; ++at) {
      value = value * 10 + static_cast<std::size_t>(words[at] - '0');
      any = true;
    }
    return any ? std::optional{value} : std::nullopt;
  };
  const auto size = number_after("message size ");
  const auto limit = number_after("max size ");
  if (!size || !limit) return std::nullopt;
  return SizeComplaint{*size, *limit};
}

std::string too_large(std::size_t size, std::size_t limit) {
  return "its payload of " + std::to_string(size) + " bytes is larger than RabbitMQ's max_message_size of " +
         std::to_string(limit) + "; send a reference to it, or raise the limit";
}

}  // namespace

std::size_t Sender::room() const noexcept {
  if (blocked_ || flow_stopped_ || !channel_open_) return 0;
  const std::size_t window = careful_ > 0 ? 1 : settings_.window;
  return window > confirms_.size() ? window - confirms_.size() : 0;
}

bool Sender::publish_some() {
  const std::size_t most = std::min(room(), burst);
  socket_full_ = false;
  if (most == 0) return false;
  // A send on a full socket would block this thread, and with it the heartbeats.
  socket_full_ = !connection_->writable();
  if (socket_full_) return false;
  std::vector<Waiting> taken;
  taken.reserve(most);
  {
    const std::lock_guard lock{mutex_};
    std::size_t size = 0;
    while (taken.size() < most && size < burst_bytes && !waiting_.empty()) {
      Waiting& next = waiting_.front();
      const bool alone = next.parcel->body.size() >= bulky && !largest_;
      if (alone && (!taken.empty() || !confirms_.empty())) break;
      if (alone) careful_ = std::max<std::size_t>(careful_, 1);
      waiting_bytes_ -= next.parcel->body.size();
      size += next.parcel->body.size();
      next.batch->states[next.index] = Batch::State::sent;
      taken.push_back(std::move(next));
      waiting_.pop_front();
      if (alone) break;
    }
    if (!taken.empty()) space_.notify_all();
  }
  std::size_t done = 0;
  const auto give_back = [&](Outcome::Status status, const std::string& why) {
    Finished finished;
    {
      const std::lock_guard lock{mutex_};
      for (; done < taken.size(); ++done) finish(taken[done].batch, taken[done].index, {status, why}, finished);
    }
    finished.tell();
  };
  try {
    if (exchange_missing_ && !taken.empty()) {
      look_for_exchange();
      if (exchange_missing_) {
        give_back(Outcome::Status::rejected, "there is no exchange '" + exchange_ +
                                                 "'; declare a queue that is bound to it (QueueBinding, Lane::declare) or "
                                                 "correct LaneChannelOptions::exchange");
        return true;
      }
    }
    for (; done < taken.size(); ++done) publish(taken[done]);
  } catch (const AmqpError& error) {
    if (done < taken.size() && taken[done].parcel == nullptr)
      ++done;  // a part of it may have gone out; it is among the unconfirmed
    give_back(Outcome::Status::retryable, std::string{"not sent: "} + error.what());
    throw;
  }
  return !taken.empty();
}

void Sender::publish(Waiting& waiting) {
  Parcel& parcel = *waiting.parcel;
  const auto give_up = [&](Outcome::Status status, std::string why) {
    Finished finished;
    {
      const std::lock_guard lock{mutex_};
      finish(waiting.batch, waiting.index, {status, std::move(why)}, finished);
    }
    finished.tell();
  };
  const auto reject = [&](std::string why) { give_up(Outcome::Status::rejected, std::move(why)); };
  if (largest_ && parcel.body.size() > *largest_) return reject(too_large(parcel.body.size(), *largest_));
  constexpr std::size_t frame_overhead = 8;
  // rabbitmq-c would find out only after it has sent the method that announces them.
  if (const std::size_t size = encoded_size(parcel.properties); size + frame_overhead > connection_->frame_max()) {
    return reject("its headers take " + std::to_string(size) + " bytes and must fit RabbitMQ's frame of " +
                  std::to_string(connection_->frame_max()) + "; move them into the payload");
  }
  SteadyTime trusted{};
  if (parcel.through) {
    try {
      trusted = prepare_delay(*parcel.through);
    } catch (const AmqpError& error) {
      give_up(error.channel_only() ? Outcome::Status::rejected : Outcome::Status::retryable, error.what());
      if (!error.channel_only()) throw;
      return;
    }
  }
  confirms_.add(Sent{waiting.batch, waiting.index, std::move(waiting.parcel), parcel.body.size(), trusted, {}});
  constexpr amqp_boolean_t mandatory = 1;
  constexpr amqp_boolean_t immediate = 0;
  Connection::check(amqp_basic_publish(connection_->state(), publish_channel, bytes(exchange_), bytes(parcel.routing_key),
                                       mandatory, immediate, &parcel.properties, bytes(parcel.body)),
                    "publishing");
  parcel.shrink();
}

SteadyTime Sender::prepare_delay(const DelayQueue& queue) {
  const std::string name = queue.name();
  const auto found = delays_declared_.find(name);
  if (found != delays_declared_.end() && Clock::now() - found->second.at < delay_renewal) return found->second.trusted;
  try {
    use_declare_channel();
    const bool created = declare_delay(*connection_, declare_channel, queue);
    const Declared declared{Clock::now(), created ? Clock::now() + settling : SteadyTime{}};
    delays_declared_[name] = declared;
    return declared.trusted;
  } catch (const AmqpError& error) {
    if (error.channel_only() && error.code() != 0) declare_channel_open_ = false;
    throw;
  }
}

void Sender::channel_closed(std::uint16_t code, const std::string& why) {
  log(settings_.logger, LogLevel::warn, name_ + ": RabbitMQ closed the channel: " + why);
  channel_open_ = false;
  returned_.reset();
  const std::size_t unsettled = confirms_.size();
  const auto complaint = size_complaint(why);
  if (complaint) largest_ = complaint->limit;
  careful_ = complaint ? 0 : std::max(careful_, unsettled);

  Finished finished;
  {
    const std::lock_guard lock{mutex_};
    // RabbitMQ reads a channel in order and, once it closes it, nothing more: what follows the culprit is certainly not stored.
    const bool alone = confirms_.size() == 1 && is_permanent(code);
    bool culprit_seen = false;
    bool all_clear = true;  // nothing failed but for good
    confirms_.clear([&](Sent& sent) {
      Outcome outcome{Outcome::Status::unknown, "the channel was closed before RabbitMQ confirmed: " + why};
      if (culprit_seen) {
        outcome.status = Outcome::Status::retryable;
      } else if (complaint && sent.size == complaint->size) {
        culprit_seen = true;
        outcome = {Outcome::Status::rejected, too_large(complaint->size, complaint->limit)};
      } else if (alone) {
        outcome = {Outcome::Status::rejected, "RabbitMQ refused it: " + why};
      }
      if (!sent.returned.empty()) outcome = {Outcome::Status::rejected, std::move(sent.returned)};
      all_clear = all_clear && outcome.status == Outcome::Status::rejected;
      finish(sent.batch, sent.index, std::move(outcome), finished);
    });
    // They were handed over after what just failed; whoever keeps order sends them again after it.
    if (!all_clear) fail_queued("not sent, as the channel was closed under earlier messages: " + why, finished);
  }
  finished.tell();
}

void Sender::connection_lost(const AmqpError& error) {
  log(settings_.logger, LogLevel::warn, name_ + ": " + settings_.address.shown() + ": " + error.what());
  channel_open_ = false;
  const std::string why = error.what();
  Finished finished;
  {
    const std::lock_guard lock{mutex_};
    trouble_ = why;
    for (const auto& [trusted, sent] : std::exchange(held_, {})) {
      finish(sent.batch, sent.index,
             {Outcome::Status::unknown, "confirmed by a new queue, and then the connection ended: " + why}, finished);
    }
    if (!confirms_.empty()) {
      const bool alone = confirms_.size() == 1 && is_permanent(error.code());
      if (is_permanent(error.code())) careful_ = std::max(careful_, confirms_.size());
      confirms_.clear([&](Sent& sent) {
        Outcome outcome{Outcome::Status::unknown, "the connection ended before RabbitMQ confirmed: " + why};
        if (!sent.returned.empty()) {
          outcome = {Outcome::Status::rejected, std::move(sent.returned)};
        } else if (alone) {
          outcome = {Outcome::Status::rejected, "RabbitMQ refused it: " + why};
        }
        finish(sent.batch, sent.index, std::move(outcome), finished);
      });
      fail_queued("not sent, as the connection ended under earlier messages: " + why, finished);
    }
  }
  finished.tell();
}

}  // namespace penstock::lane
