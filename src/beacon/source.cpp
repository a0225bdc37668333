// SPDX-License-Identifier: Apache-2.0
#include "beacon/source.hpp"

#include <nats/nats.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <exception>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/carriage.hpp"
#include "beacon/connection.hpp"
#include "beacon/names.hpp"
#include "beacon/reply.hpp"
#include "beacon/settlements.hpp"
#include "core/spare_messages.hpp"

namespace penstock::beacon {
namespace {

using std::chrono::nanoseconds;

constexpr milliseconds kConnectTimeout{5'000};
constexpr milliseconds kApiWait{2'000};
/// A pull outlives short polls, so that idling does not cost a request for each.
constexpr milliseconds kShortestPull{1'000};
constexpr milliseconds kPullGrace{500};
/// A pull that ends at once is not followed by another at once.
constexpr milliseconds kPullPause{10};
constexpr std::size_t kLargestPull = 10'000;
/// Even a poll that does not want to wait gives the answer to its pull time to come.
constexpr milliseconds kShortestPoll{5};

class Ear final : public Listener {
 public:
  explicit Ear(std::shared_ptr<Speech> speech) : speech_{std::move(speech)} {}
  void on_error(const std::string& text) override { speech_->say_rarely(LogLevel::warn, "error", text); }

 private:
  const std::shared_ptr<Speech> speech_;
};

std::string header(natsMsg* message, const char* name) {
  const char* value = nullptr;
  return natsMsgHeader_Get(message, name, &value) == NATS_OK && value != nullptr ? std::string{value} : std::string{};
}

/// nats.c 3.4 writes a fraction without its leading zeros, so that 45 ms became 450 and what lay between was never read: up to
/// a tenth of a second is given up instead, toward the past.
nanoseconds start_of(std::chrono::system_clock::time_point time) {
  const auto asked = std::chrono::duration_cast<nanoseconds>(time.time_since_epoch());
  const auto second = std::chrono::floor<std::chrono::seconds>(asked);
  return asked - second < milliseconds{100} ? nanoseconds{second} : asked;
}

/// A durable pull consumer. Pulls and settlements are written as the protocol has them, not through natsSubscription_Fetch, so
/// that one pull can serve several polls, nothing is lost between two of them, and a settlement needs no message to be kept.
class PullSource final : public Source {
 public:
  PullSource(Servers servers, std::string prefix, const std::string& channel, const BeaconSourceOptions& options,
             std::shared_ptr<Logger> logger)
      : servers_{std::move(servers)},
        prefix_{std::move(prefix)},
        channel_{subject_of(channel)},
        stream_{stream_of(prefix_ + channel)},
        options_{options},
        logger_{std::move(logger)},
        settlements_{options.confirm_acks} {
    if (options.max_ack_pending < 1) throw std::invalid_argument{"Beacon: max_ack_pending must be at least 1"};
    if (options.start_sequence && options.start_time) {
      throw std::invalid_argument{"Beacon: start_sequence and start_time are two places to begin; give one of them"};
    }
    if (options.start_sequence == std::uint64_t{0}) {
      throw std::invalid_argument{"Beacon: start_sequence is 0; sequences begin with 1"};
    }
    if (options.ack_wait < milliseconds{1}) throw std::invalid_argument{"Beacon: ack_wait must be at least 1 ms"};
  }
  ~PullSource() override {
    try {
      finish(milliseconds{0});
    } catch (...) {  // what is unsettled then waits for its ack_wait
    }
  }

  [[nodiscard]] SourceTraits traits() const noexcept override {
    // Members share the messages of a key, and a redelivered one comes behind its successors.
    return {.ordered = false, .replayable = true, .delays = true};
  }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }

  void open(const std::string& group, std::shared_ptr<Logger> logger) override {
    if (opened_) throw std::logic_error{"Beacon: the source of \"" + channel_ + "\" is open already"};
    if (group.empty()) durable_of(group);
    durable_ = durable_of(prefix_ + group);
    speech_ = std::make_shared<Speech>(logger ? logger : logger_);
    ear_ = std::make_shared<Ear>(speech_);
    opened_ = true;
  }

  std::vector<Message> poll(std::size_t max, milliseconds wait) override;

  void ack(const Message& message) override { settlements_.settle(message.receipt, "+ACK"); }
  void recycle(std::vector<Message> messages) override { spare_.put(std::move(messages)); }

  void retry(const Message& message, milliseconds delay) override {
    // Without a delay JetStream redelivers at once; that is for the caller to want.
    const auto ns = std::chrono::duration_cast<nanoseconds>(delay).count();
    settlements_.settle(message.receipt, ns <= 0 ? "-NAK" : R"(-NAK {"delay": )" + std::to_string(ns) + '}');
  }
  void touch(const Message& message) override { settlements_.touch(message.receipt, options_.ack_wait / 4); }
  void pause(bool paused) override { paused_ = paused; }
  void close(milliseconds timeout) override { finish(timeout); }

 private:
  bool ready();
  void connect();
  void ensure_consumer();
  void lose(const std::string& why);
  void pull(std::size_t count, milliseconds wait);
  void pull_failed(const std::string& why);
  /// Takes what has arrived, waiting for the first; false when nothing came.
  bool receive(milliseconds wait);
  void handle_status(natsMsg* message);
  void deliver(natsMsg* message, std::vector<Message>& to);
  void finish(milliseconds timeout);

  struct Held {
    MessageHandle message{};
    Instant signed_at{};
  };

  const Servers servers_;
  const std::string prefix_;
  const std::string channel_;
  const std::string stream_;
  const BeaconSourceOptions options_;
  const std::shared_ptr<Logger> logger_;

  bool opened_ = false;
  bool closed_ = false;
  bool paused_ = false;
  std::string durable_;
  std::shared_ptr<Speech> speech_;
  std::shared_ptr<Ear> ear_;
  Settlements settlements_;

  std::shared_ptr<Connection> connection_;
  SubscriptionHandle inbox_;
  std::string inbox_name_;
  std::vector<std::string> announced_;
  bool consumer_ready_ = false;
  std::int64_t consumer_made_ = 0;  ///< when, by the server's clock; 0: not known yet
  Backoff backoff_;
  Instant next_attempt_{};

  std::size_t credit_ = 0;  ///< messages the current pull may still bring
  Instant pull_ends_{};
  Instant next_pull_{};
  std::uint64_t pulls_ = 0;
  std::deque<Held> held_;  ///< received, not handed out yet
  SpareMessages spare_;
};

bool PullSource::ready() {
  if (connection_ && !connection_->alive()) lose("the connection was lost");
  if (connection_ && consumer_ready_) return true;
  if (SteadyClock::now() < next_attempt_) return false;
  try {
    if (!connection_) connect();
    ensure_consumer();
    settlements_.use(connection_);
    backoff_.reset();
    return true;
  } catch (const std::exception& failure) {
    speech_->say_rarely(LogLevel::warn, "ready", failure.what());
    next_attempt_ = SteadyClock::now() + backoff_.next();
    return false;
  }
}

void PullSource::connect() {
  auto made = std::make_shared<Connection>(servers_, announced_, ear_, kConnectTimeout);
  announced_ = made->announced();
  inbox_name_ = Connection::new_inbox();
  inbox_ = made->subscribe(inbox_name_ + ".*");
  connection_ = std::move(made);
  consumer_ready_ = false;
  credit_ = 0;
  speech_->say(LogLevel::info, "\"" + channel_ + "\" is read by \"" + durable_ + "\" from " + servers_.label);
}

void PullSource::ensure_consumer() {
  const auto js = jetstream(*connection_, kApiWait);
  jsConsumerConfig config;
  jsConsumerConfig_Init(&config);
  config.Durable = durable_.c_str();
  config.DeliverPolicy = js_DeliverAll;
  if (options_.start_sequence) {
    config.DeliverPolicy = js_DeliverByStartSequence;
    config.OptStartSeq = *options_.start_sequence;
  } else if (options_.start_time) {
    config.DeliverPolicy = js_DeliverByStartTime;
    config.OptStartTime = start_of(*options_.start_time).count();
  }
  // A group that exists goes on where it is; where it began once cannot be changed and must be given as it was.
  jsConsumerInfo* known = nullptr;
  const auto asked = js_GetConsumerInfo(&known, js.get(), stream_.c_str(), durable_.c_str(), nullptr, nullptr);
  const bool absent = asked == NATS_NOT_FOUND;
  if (asked == NATS_OK) {
    config.DeliverPolicy = known->Config->DeliverPolicy;
    config.OptStartSeq = known->Config->OptStartSeq;
    config.OptStartTime = known->Config->OptStartTime;
  }
  const ConsumerInfoHandle earlier{known};
  config.AckPolicy = js_AckExplicit;
  config.ReplayPolicy = js_ReplayInstant;
  config.AckWait = std::chrono::duration_cast<nanoseconds>(options_.ack_wait).count();
  config.MaxAckPending = options_.max_ack_pending;
  config.MaxDeliver = -1;  // how often is the consumer's policy, and JetStream would stop without a word
  jsConsumerInfo* made = nullptr;
  jsErrCode code{};
  const auto status = js_AddConsumer(&made, js.get(), stream_.c_str(), &config, nullptr, &code);
  const ConsumerInfoHandle info{made};
  if (status != NATS_OK) {
    throw std::runtime_error{"cannot make the consumer \"" + durable_ + "\" of the stream \"" + stream_ +
                             "\": " + last_error(status) + (code == JSStreamNotFoundErr ? "; declare the stream first" : "")};
  }
  // Sequences begin anew with a stream that was deleted and made again, so old settlements would be of other messages. After a
  // restart nats-server 2.9 tells a slightly other time for the same consumer.
  constexpr nanoseconds slack = std::chrono::seconds{1};
  const bool other = std::abs(info->Created - consumer_made_) > slack.count();
  if (consumer_made_ != 0 && (absent || other)) {
    settlements_.forget();
    held_.clear();
    speech_->say(LogLevel::warn,
                 "\"" + durable_ + "\" of \"" + channel_ + "\" was deleted and is there anew; what it had delivered is void");
  }
  consumer_made_ = info->Created;
  consumer_ready_ = true;
}

void PullSource::lose(const std::string& why) {
  if (!connection_) return;
  speech_->say_rarely(LogLevel::warn, "lost", why + " (" + servers_.label + ")");
  settlements_.use(nullptr);
  connection_.reset();
  inbox_.reset();
  consumer_ready_ = false;
  credit_ = 0;
}

void PullSource::pull(std::size_t count, milliseconds wait) {
  const auto expires = std::max(wait, kShortestPull);
  const auto batch = std::min({count, static_cast<std::size_t>(options_.max_ack_pending), kLargestPull});
  const std::string subject = "$JS.API.CONSUMER.MSG.NEXT." + stream_ + '.' + durable_;
  const std::string reply = inbox_name_ + '.' + std::to_string(++pulls_);
  const std::string body = R"({"batch":)" + std::to_string(batch) + R"(,"expires":)" +
                           std::to_string(std::chrono::duration_cast<nanoseconds>(expires).count()) + '}';
  const auto status = natsConnection_PublishRequestString(connection_->get(), subject.c_str(), reply.c_str(), body.c_str());
  if (status != NATS_OK) {
    connection_->condemn();
    return;
  }
  credit_ = batch;
  next_pull_ = SteadyClock::now() + kPullPause;
  pull_ends_ = SteadyClock::now() + expires + kPullGrace;
}

void PullSource::pull_failed(const std::string& why) {
  speech_->say_rarely(LogLevel::warn, "pull", "\"" + channel_ + "\": " + why);
  credit_ = 0;
  settlements_.use(nullptr);  // they wait until it is known that the consumer is the same
  consumer_ready_ = false;    // look again whether stream and consumer are there
  next_attempt_ = SteadyClock::now() + backoff_.next();
}

bool PullSource::receive(milliseconds wait) {
  bool any = false;
  auto rest = wait;
  while (true) {
    natsMsg* got = nullptr;
    const auto status = natsSubscription_NextMsg(&got, inbox_.get(), rest.count());
    MessageHandle message{got};
    if (status == NATS_NO_RESPONDERS) {
      pull_failed("the consumer does not answer");
      return any;
    }
    if (status == NATS_CONNECTION_CLOSED || status == NATS_INVALID_SUBSCRIPTION) {
      connection_->condemn();
      return any;
    }
    if (status != NATS_OK) return any;  // time is up
    const char* reply = natsMsg_GetReply(got);
    if (reply != nullptr && delivery_of(reply)) {
      held_.push_back({std::move(message), SteadyClock::now()});
      if (credit_ > 0) --credit_;
      next_pull_ = {};
      any = true;
      rest = milliseconds{0};
    } else {
      handle_status(got);
      if (credit_ == 0) return any;
    }
  }
}

void PullSource::handle_status(natsMsg* message) {
  const std::string_view subject = natsMsg_GetSubject(message);
  if (subject != inbox_name_ + '.' + std::to_string(pulls_)) return;  // of a pull that was given up
  const auto status = header(message, "Status");
  if (status == "100") return;
  credit_ = 0;
  const auto said = header(message, "Description");
  if (status == "404" || status == "408") return;  // over without more messages
  if (status == "409" && said.find("Deleted") == std::string::npos && said.find("Shutdown") == std::string::npos &&
      said.find("Leadership") == std::string::npos) {
    // A limit of the consumer that somebody set: the next pull may meet it too, so not at once.
    speech_->say_rarely(LogLevel::warn, "pull", "\"" + channel_ + "\": " + said);
    next_attempt_ = SteadyClock::now() + backoff_.next();
    consumer_ready_ = false;
    return;
  }
  pull_failed(status + ' ' + said);
}

void PullSource::deliver(natsMsg* raw, std::vector<Message>& to) {
  Message& message = spare_.take(to);
  const std::string reply = natsMsg_GetReply(raw);
  const auto delivery = delivery_of(reply).value_or(Delivery{});
  message.origin = {.backend = "nats",
                    .channel = channel_,
                    .partition = -1,
                    .position = delivery.sequence,
                    .deliveries = delivery.deliveries,
                    .redelivered = delivery.deliveries > 1};
  auto arrival = from_message(raw, std::move(message.wire));
  try {
    message.event = read_event(arrival, std::move(message.event));
  } catch (const std::exception& failure) {
    message.event = {};
    message.defect = failure.what();
  }
  message.wire = std::move(arrival.wire);
  message.receipt = settlements_.enter(reply);
}

std::vector<Message> PullSource::poll(std::size_t max, milliseconds wait) {
  std::vector<Message> result;
  if (!opened_ || closed_ || max == 0) {
    if (!opened_) throw std::logic_error{"Beacon: open the source before polling it"};
    return result;
  }
  const auto deadline = SteadyClock::now() + std::max(wait, kShortestPoll);
  const auto rest = [&] {
    return std::chrono::ceil<milliseconds>(std::max(deadline - SteadyClock::now(), SteadyClock::duration::zero()));
  };
  while (true) {
    const auto now = SteadyClock::now();
    if (!ready()) {
      if (now >= deadline) return result;
      std::this_thread::sleep_until(std::min(deadline, std::max(next_attempt_, now + milliseconds{1})));
      continue;
    }
    // What we hold and do not hand out must not come again elsewhere.
    for (auto& each : held_) {
      if (now - each.signed_at < options_.ack_wait / 3) continue;
      settlements_.say(natsMsg_GetReply(each.message.get()), "+WPI");
      each.signed_at = now;
    }
    if (paused_) {
      if (now >= deadline) return result;
      receive(std::min(rest(), std::max(options_.ack_wait / 4, milliseconds{1})));
      continue;
    }
    if (credit_ > 0 && now >= pull_ends_) {
      // The server ends every pull with a word; a consumer that is there no more says nothing, also not that it is gone.
      credit_ = 0;
      settlements_.use(nullptr);
      consumer_ready_ = false;
      continue;
    }
    auto patience = rest();
    if (credit_ == 0 && held_.size() < max) {
      if (now >= next_pull_) {
        pull(max - held_.size(), wait);
      } else {
        patience = std::min(patience, std::chrono::ceil<milliseconds>(next_pull_ - now));
      }
    }
    receive(held_.empty() ? patience : milliseconds{0});
    while (!held_.empty() && result.size() < max) {
      deliver(held_.front().message.get(), result);
      held_.pop_front();
    }
    if (!result.empty() || SteadyClock::now() >= deadline) return result;
  }
}

void PullSource::finish(milliseconds timeout) {
  if (closed_) return;
  closed_ = true;
  if (!opened_) return;
  const auto deadline = SteadyClock::now() + timeout;
  if (connection_ && connection_->alive()) {
    receive(milliseconds{0});
    // No interest, no more deliveries; what is under way all the same waits for its ack_wait.
    natsSubscription_Unsubscribe(inbox_.get());
    settlements_.give_back();
    for (const auto& each : held_) settlements_.say(natsMsg_GetReply(each.message.get()), "-NAK");
    const auto rest = std::chrono::floor<milliseconds>(deadline - SteadyClock::now());
    if (rest > milliseconds{0}) natsConnection_FlushTimeout(connection_->get(), rest.count());
  }
  held_.clear();
  settlements_.end();
  connection_.reset();
  inbox_.reset();
}

}  // namespace

std::unique_ptr<Source> make_source(Servers servers, const std::string& prefix, const std::string& channel,
                                    const BeaconSourceOptions& options, std::shared_ptr<Logger> logger) {
  return std::make_unique<PullSource>(std::move(servers), prefix, channel, options, std::move(logger));
}

}  // namespace penstock::beacon
