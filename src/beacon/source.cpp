// SPDX-License-Identifier: Apache-2.0
#include "beacon/source.hpp"

#include <nats/nats.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/carriage.hpp"
#include "beacon/connection.hpp"
#include "beacon/durable.hpp"
#include "beacon/names.hpp"
#include "beacon/partitions.hpp"
#include "beacon/reply.hpp"
#include "core/spare_messages.hpp"

namespace penstock::beacon {
namespace {

constexpr milliseconds kConnectTimeout{5'000};
constexpr milliseconds kApiWait{2'000};
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

/// The group's consumer, or one for each partition, on one connection and one inbox.
class PullSource final : public Source {
 public:
  PullSource(Servers servers, std::string prefix, const std::string& channel, const BeaconSourceOptions& options,
             std::shared_ptr<Logger> logger)
      : servers_{std::move(servers)},
        prefix_{std::move(prefix)},
        channel_{subject_of(channel)},
        stream_{stream_of(prefix_ + channel)},
        options_{options},
        logger_{std::move(logger)} {
    if (options.max_ack_pending < 1) throw std::invalid_argument{"Beacon: max_ack_pending must be at least 1"};
    if (options.start_sequence && options.start_time) {
      throw std::invalid_argument{"Beacon: start_sequence and start_time are two places to begin; give one of them"};
    }
    if (options.start_sequence == std::uint64_t{0}) {
      throw std::invalid_argument{"Beacon: start_sequence is 0; sequences begin with 1"};
    }
    if (options.ack_wait < milliseconds{1}) throw std::invalid_argument{"Beacon: ack_wait must be at least 1 ms"};
    check_partitions(options.partitions, prefix_ + channel);
  }
  ~PullSource() override {
    try {
      finish(milliseconds{0});
    } catch (...) {  // what is unsettled then waits for its ack_wait
    }
  }

  [[nodiscard]] SourceTraits traits() const noexcept override {
    // Without partitions members share the messages of a key, and a redelivered one comes behind its successors.
    return {.ordered = options_.partitions > 0, .replayable = true, .delays = options_.partitions == 0};
  }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }

  void open(const std::string& group, std::shared_ptr<Logger> logger) override;
  std::vector<Message> poll(std::size_t max, milliseconds wait) override;
  void ack(const Message& message) override { settle(message, "+ACK"); }
  void recycle(std::vector<Message> messages) override { spare_.put(std::move(messages)); }
  void retry(const Message& message, milliseconds delay) override {
    settle(message, want_again(delay));  // at once without a delay; that is for the caller to want
  }
  void touch(const Message& message) override {
    if (durables_.empty()) return;
    const auto [durable, receipt] = place_of(message.receipt);
    durable->settlements().touch(receipt, options_.ack_wait / 4);
  }
  void pause(bool paused) override { paused_ = paused; }
  void close(milliseconds timeout) override { finish(timeout); }

 private:
  bool ready();
  void connect();
  /// Throws what keeps one of them from being there; the others are there, or tried first the next time.
  void prepare_durables();
  /// Throws when the stream has other partitions than we count: some would be read by nobody.
  void check_stream(jsCtx* js) const;
  void lose(const std::string& why);
  /// Asks for messages where nothing is asked for. Returns how long nothing more can be asked for, `patience` at most.
  milliseconds pull(std::size_t count, milliseconds wait, milliseconds patience);
  void look_again(Durable& durable, const std::string& why);
  /// Takes what has arrived, waiting for the first.
  void receive(milliseconds wait);
  void handle_status(natsMsg* message);
  /// What we hold and do not hand out must not come again elsewhere.
  void keep();
  /// Warns of an event that a publisher put where its key does not belong.
  void check_place(std::size_t index, const Event& event);
  void deliver(std::size_t index, natsMsg* message, std::vector<Message>& to);
  void finish(milliseconds timeout);

  /// A receipt says which consumer's it is.
  [[nodiscard]] std::uint64_t receipt_of(std::size_t index, std::uint64_t receipt) const {
    return receipt * durables_.size() + index;
  }
  /// The consumer of a partition reads its subject alone.
  [[nodiscard]] std::size_t durable_of_subject(std::string_view subject) const;
  [[nodiscard]] std::pair<Durable*, std::uint64_t> place_of(std::uint64_t receipt) const {
    return {durables_[receipt % durables_.size()].get(), receipt / durables_.size()};
  }
  void settle(const Message& message, const std::string& words) {
    if (durables_.empty()) return;
    const auto [durable, receipt] = place_of(message.receipt);
    durable->settlements().settle(receipt, words);
  }

  struct Held {
    std::size_t index = 0;  ///< of its consumer
    MessageHandle message{};
    Instant signed_at{};  ///< or when it came, or a little before
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
  std::shared_ptr<Speech> speech_;
  std::shared_ptr<Ear> ear_;
  std::vector<std::unique_ptr<Durable>> durables_;  ///< made by `open`, and then the same

  std::shared_ptr<Connection> connection_;
  SubscriptionHandle inbox_;
  std::string inbox_name_;
  std::vector<std::string> announced_;
  std::size_t prepare_first_ = 0;
  Backoff backoff_;
  Instant next_attempt_{};

  std::deque<Held> held_;  ///< received, not handed out yet
  Instant empty_at_{};     ///< nothing that waits in the inbox has waited since before
  SpareMessages spare_;
};

void PullSource::open(const std::string& group, std::shared_ptr<Logger> logger) {
  if (opened_) throw std::logic_error{"Beacon: the source of \"" + channel_ + "\" is open already"};
  if (group.empty()) durable_of(group);
  std::vector<Durable::Spec> specs;
  if (options_.partitions == 0) {
    specs.push_back({stream_, durable_of(prefix_ + group), "", options_.max_ack_pending});
  } else {
    // One at a time: then JetStream gives out the next one when this one is settled, to whomever.
    for (const auto& subject : subjects_of(prefix_ + channel_, options_.partitions)) {
      specs.push_back({stream_, durable_of(prefix_ + group, static_cast<int>(specs.size())), subject, 1});
    }
  }
  for (auto& spec : specs) durables_.push_back(std::make_unique<Durable>(std::move(spec), options_));
  speech_ = std::make_shared<Speech>(logger ? logger : logger_);
  ear_ = std::make_shared<Ear>(speech_);
  opened_ = true;
}

bool PullSource::ready() {
  if (connection_ && !connection_->alive()) lose("the connection was lost");
  const auto is_ready = [](const auto& durable) { return durable->ready(); };
  if (connection_ && std::all_of(durables_.begin(), durables_.end(), is_ready)) return true;
  if (SteadyClock::now() >= next_attempt_) {
    try {
      if (!connection_) connect();
      prepare_durables();
      backoff_.reset();
    } catch (const std::exception& failure) {
      speech_->say_rarely(LogLevel::warn, "ready", failure.what());
      next_attempt_ = SteadyClock::now() + backoff_.next();
    }
  }
  return connection_ && std::any_of(durables_.begin(), durables_.end(), is_ready);
}

void PullSource::connect() {
  auto made = std::make_shared<Connection>(servers_, announced_, ear_, kConnectTimeout);
  announced_ = made->announced();
  inbox_name_ = Connection::new_inbox();
  inbox_ = made->subscribe(inbox_name_ + ".*");
  empty_at_ = SteadyClock::now();
  connection_ = std::move(made);
  speech_->say(LogLevel::info, "\"" + channel_ + "\" is read by \"" + durables_.front()->name() + '"' +
                                   (durables_.size() > 1 ? " and " + std::to_string(durables_.size() - 1) + " more" : "") +
                                   " from " + servers_.label);
}

void PullSource::prepare_durables() {
  const auto js = jetstream(*connection_, kApiWait);
  if (options_.partitions > 0) check_stream(js.get());
  const std::size_t first = prepare_first_;
  for (std::size_t i = 0; i < durables_.size(); ++i) {
    const std::size_t index = (first + i) % durables_.size();
    Durable& durable = *durables_[index];
    if (durable.ready()) continue;
    prepare_first_ = (index + 1) % durables_.size();
    if (!durable.prepare(js.get(), connection_)) continue;
    std::erase_if(held_, [index](const Held& each) { return each.index == index; });
    speech_->say(LogLevel::warn, "\"" + durable.name() + "\" of \"" + channel_ +
                                     "\" was deleted and is there anew; what it had delivered is void");
  }
}

void PullSource::check_stream(jsCtx* js) const {
  jsStreamInfo* found = nullptr;
  const auto status = js_GetStreamInfo(&found, js, stream_.c_str(), nullptr, nullptr);
  const StreamInfoHandle info{found};
  if (status != NATS_OK) return;  // whoever makes the consumers says why
  const std::vector<std::string> subjects{info->Config->Subjects, info->Config->Subjects + info->Config->SubjectsLen};
  const std::string name = prefix_ + channel_;
  if (partitions_in(name, subjects) == options_.partitions) return;
  throw std::runtime_error{"nothing is read: " + disagreement(name, subjects, "source", options_.partitions)};
}

void PullSource::lose(const std::string& why) {
  if (!connection_) return;
  speech_->say_rarely(LogLevel::warn, "lost", why + " (" + servers_.label + ")");
  for (const auto& durable : durables_) durable->suspend();
  connection_.reset();
  inbox_.reset();
}

milliseconds PullSource::pull(std::size_t count, milliseconds wait, milliseconds patience) {
  const auto now = SteadyClock::now();
  auto next = now + patience;
  for (std::size_t i = 0; i < durables_.size(); ++i) {
    Durable& durable = *durables_[i];
    if (!durable.ready()) {
      next = std::min(next, next_attempt_);
    } else if (durable.pulling()) {
      continue;
    } else if (now >= durable.next_pull()) {
      durable.pull(*connection_, inbox_name_, std::to_string(i), count, wait);
    } else {
      next = std::min(next, durable.next_pull());
    }
  }
  return std::chrono::ceil<milliseconds>(std::max(next - now, SteadyClock::duration::zero()));
}

void PullSource::look_again(Durable& durable, const std::string& why) {
  speech_->say_rarely(LogLevel::warn, "pull", "\"" + channel_ + "\": " + why);
  durable.suspend();
  // A stream that is gone ends many pulls, and they are one failure.
  if (SteadyClock::now() >= next_attempt_) next_attempt_ = SteadyClock::now() + backoff_.next();
}

void PullSource::receive(milliseconds wait) {
  for (auto rest = wait;; rest = milliseconds{0}) {
    natsMsg* got = nullptr;
    const auto status = natsSubscription_NextMsg(&got, inbox_.get(), rest.count());
    MessageHandle message{got};
    if (status == NATS_NO_RESPONDERS) {  // and whose pull it was is not said
      for (const auto& durable : durables_) {
        if (durable->pulling()) look_again(*durable, "the consumer does not answer");
      }
      return;
    }
    if (status == NATS_CONNECTION_CLOSED || status == NATS_INVALID_SUBSCRIPTION) return connection_->condemn();
    if (status != NATS_OK) {  // time is up
      empty_at_ = SteadyClock::now();
      return;
    }
    const char* reply = natsMsg_GetReply(got);
    if (reply != nullptr && delivery_of(reply)) {
      const std::size_t index = durable_of_subject(natsMsg_GetSubject(got));
      durables_[index]->count_delivery();
      held_.push_back({index, std::move(message), empty_at_});
    } else {
      handle_status(got);
    }
  }
}

std::size_t PullSource::durable_of_subject(std::string_view subject) const {
  if (options_.partitions == 0) return 0;
  subject.remove_prefix(subject.rfind('.') + 1);
  std::size_t index = 0;
  std::from_chars(subject.data(), subject.data() + subject.size(), index);
  return std::min(index, durables_.size() - 1);
}

void PullSource::handle_status(natsMsg* message) {
  // <inbox>.<consumer>-<pull>
  std::string_view tag = natsMsg_GetSubject(message);
  tag.remove_prefix(std::min(tag.size(), inbox_name_.size() + 1));
  std::size_t index = 0;
  const auto number = std::from_chars(tag.data(), tag.data() + tag.size(), index);
  if (number.ec != std::errc{} || index >= durables_.size()) return;
  const auto status = header(message, "Status");
  if (status == "100") return;
  tag.remove_prefix(static_cast<std::size_t>(number.ptr - tag.data()));
  if (tag.empty() || !durables_[index]->end_pull(tag.substr(1))) return;  // of a pull that was given up
  if (status == "404" || status == "408") return;                         // over without more messages
  // 409: it was deleted or moves to another server, or a limit was met that somebody has set and the next pull may meet too.
  look_again(*durables_[index], status + ' ' + header(message, "Description"));
}

void PullSource::keep() {
  const auto now = SteadyClock::now();
  if (options_.partitions > 0) {  // somebody else has it by now, or will; from here it would come behind its successors
    std::erase_if(held_, [&](const Held& each) { return now - each.signed_at >= options_.ack_wait; });
  }
  for (auto& each : held_) {
    if (now - each.signed_at < options_.ack_wait / 3) continue;
    durables_[each.index]->settlements().say(natsMsg_GetReply(each.message.get()), "+WPI");
    each.signed_at = now;
  }
}

void PullSource::check_place(std::size_t index, const Event& event) {
  if (options_.partitions == 0 || event.key.empty()) return;
  const auto place = partition_of(event, options_.partitions);
  if (place == index) return;
  speech_->say_rarely(LogLevel::warn, "place",
                      "\"" + channel_ + "\": the event \"" + event.id + "\" came in partition " + std::to_string(index) +
                          " and its key belongs to " + std::to_string(place) +
                          ", so the key has no order: its publisher must count " + std::to_string(options_.partitions) +
                          " partitions, and hash as Beacon does");
}

void PullSource::deliver(std::size_t index, natsMsg* raw, std::vector<Message>& to) {
  Message& message = spare_.take(to);
  const std::string reply = natsMsg_GetReply(raw);
  const auto delivery = delivery_of(reply).value_or(Delivery{});
  message.origin = {.backend = "nats",
                    .channel = channel_,
                    .partition = options_.partitions > 0 ? static_cast<std::int32_t>(index) : -1,
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
  check_place(index, message.event);
  message.receipt = receipt_of(index, durables_[index]->settlements().enter(reply));
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
    for (const auto& durable : durables_) {
      if (durable->overdue(now)) durable->suspend();
    }
    if (!ready()) {
      if (now >= deadline) return result;
      std::this_thread::sleep_until(std::min(deadline, std::max(next_attempt_, now + milliseconds{1})));
      continue;
    }
    receive(milliseconds{0});
    keep();
    // Not longer, as what comes meanwhile counts as unsigned since before.
    auto patience = std::min(rest(), std::max(options_.ack_wait / 4, milliseconds{1}));
    if (paused_) {
      if (now >= deadline) return result;
      receive(patience);
      continue;
    }
    if (held_.size() < max) patience = pull(max - held_.size(), wait, patience);
    receive(held_.empty() ? patience : milliseconds{0});
    while (!held_.empty() && result.size() < max) {
      deliver(held_.front().index, held_.front().message.get(), result);
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
    for (const auto& durable : durables_) durable->settlements().give_back(durable->farewell(), options_.ack_wait);
    for (const auto& each : held_) {
      Durable& durable = *durables_[each.index];
      durable.settlements().say(natsMsg_GetReply(each.message.get()), durable.farewell());
    }
    const auto rest = std::chrono::floor<milliseconds>(deadline - SteadyClock::now());
    if (rest > milliseconds{0}) natsConnection_FlushTimeout(connection_->get(), rest.count());
  }
  held_.clear();
  for (const auto& durable : durables_) durable->settlements().end();
  connection_.reset();
  inbox_.reset();
}

}  // namespace

std::unique_ptr<Source> make_source(Servers servers, const std::string& prefix, const std::string& channel,
                                    const BeaconSourceOptions& options, std::shared_ptr<Logger> logger) {
  return std::make_unique<PullSource>(std::move(servers), prefix, channel, options, std::move(logger));
}

}  // namespace penstock::beacon
