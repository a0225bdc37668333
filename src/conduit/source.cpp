// SPDX-License-Identifier: Apache-2.0
#include "conduit/source.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "conduit/assignment.hpp"
#include "conduit/client_log.hpp"
#include "conduit/delivery.hpp"
#include "conduit/group_member.hpp"
#include "conduit/properties.hpp"
#include "conduit/topics.hpp"
#include "core/spare_messages.hpp"
#include "penstock/envelope.hpp"
#include "penstock/random.hpp"

namespace penstock::conduit {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kSlice = 100ms;  ///< longest stay inside librdkafka: how soon a retry or a commit is seen to
constexpr auto kCommitInterval = 1s;
constexpr auto kPausedPoll = 500ms;  ///< how often a paused source shows the group that it lives
constexpr std::size_t kStash = 200;  ///< messages such polls may bring before partitions are really stopped
constexpr auto kLongestBackoff = 10s;

class KafkaSource final : public Source {
 public:
  KafkaSource(ConduitOptions options, const std::string& channel, ConduitSourceOptions source)
      : options_{std::move(options)}, source_{std::move(source)}, channel_{channel}, topic_{options_.prefix + channel} {
    if (channel_.empty()) throw std::invalid_argument{"the topic's name is empty"};
    check_topic_name(topic_);
    if (source_.start_time && source_.start_time->time_since_epoch().count() < 0) {
      throw std::invalid_argument{"ConduitSourceOptions::start_time is before 1970; for everything leave it out"};
    }
    static_cast<void>(consumer_conf(options_, source_, {}));
  }

  [[nodiscard]] SourceTraits traits() const noexcept override { return {.ordered = true, .replayable = true, .delays = false}; }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }

  void open(const std::string& group, std::shared_ptr<Logger> logger) override {
    if (!group_.empty()) throw std::logic_error{"the source of '" + topic_ + "' was opened before; a source is opened once"};
    if (group.empty()) throw std::invalid_argument{"the group's name is empty; members of one group share the messages"};
    log_.emplace(logger ? logger : options_.logger, "conduit source " + topic_ + " of " + group + ": ");
    const std::string prefixed = options_.prefix + group;
    member_.emplace(options_, source_, prefixed, topic_, assignment_, *log_);
    group_ = prefixed;
  }

  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) override {
    return spare_.filled(max, [&](const MessageRoom& room) { return poll_into(room, max, wait); });
  }

  std::size_t poll_into(const MessageRoom& room, std::size_t max, std::chrono::milliseconds wait) override {
    if (group_.empty()) throw std::logic_error{"poll on the source of '" + topic_ + "', which is not open"};
    std::size_t count = 0;
    const auto until = SteadyClock::now() + bounded(wait);
    do {
      if (closed_) break;
      if (!revive(until)) continue;
      keep_up();
      if (paused_ || max == 0) {
        if (poll_paused(until)) break;
        continue;
      }
      hand_out_stash(room, max, count);
      while (count < max) {
        // Once there is something, only what is there already is added to it.
        RdMessage raw = member_->poll(count == 0 ? slice(until) : SteadyClock::duration{0});
        // A rebalance waits for messages in work, which nobody could settle while they are still here: then the next poll
        // sees to it.
        if (count == 0) member_->serve();
        if (!raw) break;
        if (hand_out(*raw, room)) ++count;
        if (count == 0) break;  // nothing to hand out: see to retries and commits between
      }
      if (member_->dead()) continue;
    } while (count == 0 && SteadyClock::now() < until);
    return count;
  }

  void ack(const Message& message) override {
    assignment_.settle(message.origin.partition, message.origin.position, message.receipt);
  }

  void ack_all(std::span<const Message* const> messages) override { assignment_.settle(messages); }

  void recycle(std::vector<Message> messages) override { spare_.put(std::move(messages)); }

  void retry(const Message& message, std::chrono::milliseconds delay) override {
    assignment_.retry(message.origin.partition, message.origin.position, message.receipt, SteadyClock::now() + bounded(delay));
  }

  [[nodiscard]] bool finished() const override { return assignment_.finished(); }

  void pause(bool paused) override {
    if (group_.empty()) throw std::logic_error{"pause on the source of '" + topic_ + "', which is not open"};
    paused_ = paused;
  }

  void close(std::chrono::milliseconds timeout) override {
    closed_ = true;
    stash_.clear();
    if (member_) member_->leave(SteadyClock::now() + bounded(timeout));
    member_.reset();
  }

 private:
  struct Kept {
    RdMessage raw{};
    std::uint64_t epoch = 0;
  };

  SteadyClock::duration slice(SteadyClock::time_point until) const {
    auto wait = std::min<SteadyClock::time_point>(until, SteadyClock::now() + kSlice);
    if (const auto due = assignment_.next_due()) wait = std::min(wait, *due);
    return std::max(wait - SteadyClock::now(), SteadyClock::duration{0});
  }

  /// A consumer that met a fatal error is replaced, with back-off. False while there is none.
  bool revive(SteadyClock::time_point until) {
    if (member_ && !member_->dead()) return true;
    if (member_) {
      stash_.clear();
      member_.reset();
      const double jitter = 0.5 + 0.5 * Random::system().unit();
      next_member_ = SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(backoff_ * jitter);
      backoff_ = std::min<SteadyClock::duration>(backoff_ * 2, kLongestBackoff);
    }
    if (SteadyClock::now() < next_member_) {
      assignment_.wait_change(std::min(until, next_member_));
      if (SteadyClock::now() < next_member_) return false;
    }
    try {
      member_.emplace(options_, source_, group_, topic_, assignment_, *log_);
      return true;
    } catch (const std::exception& error) {  // it could be made before, so it will be again
      log_->say_rarely(LogLevel::error, "revive", error.what());
      next_member_ = SteadyClock::now() + backoff_;
      return false;
    }
  }

  void keep_up() {
    if (!paused_) stopped_ = false;
    member_->serve();
    member_->steer(stopped_);
    const auto now = SteadyClock::now();
    if (now < next_commit_) return;
    next_commit_ = now + kCommitInterval;
    member_->commit();
  }

  /// Intake is stopped, but the group must see us polling. Stopping partitions throws away what librdkafka has fetched ahead,
  /// so for short pauses the few messages such polls bring are kept back instead. True when a message was settled, so that the
  /// caller can see whether it wants more.
  bool poll_paused(SteadyClock::time_point until) {
    if (stopped_ || SteadyClock::now() >= next_paused_poll_) {
      next_paused_poll_ = SteadyClock::now() + kPausedPoll;
      RdMessage raw = member_->poll(SteadyClock::duration{0});
      member_->serve();
      if (raw) {
        const std::uint64_t epoch = assignment_.epoch(raw->partition);
        stash_.push_back({std::move(raw), epoch});
        stopped_ = stash_.size() >= kStash;
      }
    }
    return assignment_.wait_change(SteadyClock::now() + slice(until));
  }

  void hand_out_stash(const MessageRoom& room, std::size_t max, std::size_t& count) {
    while (!stash_.empty() && count < max) {
      const Kept kept = std::move(stash_.front());
      stash_.pop_front();
      if (kept.epoch == assignment_.epoch(kept.raw->partition) && hand_out(*kept.raw, room)) ++count;
    }
  }

  bool hand_out(const rd_kafka_message_t& raw, const MessageRoom& room) {
    const auto delivery = assignment_.deliver(raw.partition, raw.offset);
    if (!delivery) return false;
    backoff_ = 200ms;
    Message& message = room();
    to_wire(raw, message.wire);
    message.origin.backend = "kafka";
    message.origin.channel = channel_;
    message.origin.partition = raw.partition;
    message.origin.position = raw.offset;
    message.origin.deliveries = 0;
    message.origin.redelivered = delivery->redelivered;
    message.receipt = delivery->receipt;
    try {
      decode_into(message.wire, Binding::kafka, message.event);
    } catch (const MalformedMessage& error) {
      message.event = {};
      message.defect = error.what();
    }
    return true;
  }

  const ConduitOptions options_;
  const ConduitSourceOptions source_;
  const std::string channel_;
  const std::string topic_;  ///< the channel's, with the prefix
  std::string group_;
  bool closed_ = false;
  bool paused_ = false;
  bool stopped_ = false;  ///< partitions are really stopped
  SteadyClock::time_point next_commit_{};
  SteadyClock::time_point next_paused_poll_{};
  SteadyClock::time_point next_member_{};
  SteadyClock::duration backoff_ = 200ms;
  Assignment assignment_;
  std::optional<ClientLog> log_;
  std::optional<GroupMember> member_;
  SpareMessages spare_;
  std::deque<Kept> stash_;  ///< dies before the member
};

}  // namespace

std::unique_ptr<Source> make_source(ConduitOptions options, const std::string& topic, ConduitSourceOptions source) {
  return std::make_unique<KafkaSource>(std::move(options), topic, std::move(source));
}

}  // namespace penstock::conduit
