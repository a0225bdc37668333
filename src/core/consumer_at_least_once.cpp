// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/consumer_retry.hpp"

namespace penstock::consumer {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds publish_timeout{10'000};
/// Between tries to publish what must be confirmed before the message may be settled.
constexpr milliseconds publish_pause{1'000};

class WithoutDatastore final : public Processor {
 public:
  WithoutDatastore(const Shared& shared, const AtLeastOnce& channels, AttemptMemory& memory, Leash& leash)
      : shared_{shared}, channels_{channels}, memory_{memory}, leash_{leash}, traits_{shared.source.traits()} {}

  Fate process(Entry& entry, const std::stop_token& stop) override {
    // What was decided and could not be published yet is not decided again.
    if (entry.letter) {
      return publish_letter(entry);
    }
    if (!entry.emitted.empty()) {
      return publish_emitted(entry);
    }
    const Message& message = entry.message;
    if (!message.defect.empty()) {
      entry.letter = DeadLetter{.group = shared_.options.group, .message = message, .reason = message.defect};
      return publish_letter(entry);
    }
    remember(entry);
    return handle(entry, stop);
  }

  std::optional<Fate> process_due(const std::stop_token& /*stop*/) override { return std::nullopt; }

 private:
  void remember(Entry& entry) {
    if (!memory_.empty()) {
      if (AttemptMemory::Record record = memory_.take(entry.message); record.first) {
        entry.attempts = record.attempts;
        entry.history = std::move(record.history);
        entry.first = record.first;
        entry.previous = record.previous;
      }
    }
    if (entry.first) {
      return;  // what was counted here is more exact, as not every attempt counts
    }
    entry.first = shared_.options.clock->now();
    // The broker counts deliveries, of which the coming attempt is one.
    entry.attempts = std::max(entry.attempts, static_cast<int>(std::min(entry.message.origin.deliveries, 1'000'000U)) - 1);
  }

  Fate handle(Entry& entry, const std::stop_token& stop) {
    const Message& message = entry.message;
    const Clock::TimePoint started = shared_.options.clock->now();
    const Leash::Run run{leash_, stop};
    Context context{message, shared_.options.group, shared_.options.source, entry.attempts + 1,
                    nullptr, run.token(),           run.deadline()};
    Handled handled = run_handler(shared_, message, context, run, [](const std::exception_ptr&) {});
    if (handled.verdict.kind() == Verdict::Kind::done && !context.scheduled().empty()) {
      handled.verdict = Verdict::retry("the handler emits an event with a delay, and there is no Datastore that could keep it");
      handled.attempt.error = handled.verdict.reason();
    } else if (handled.verdict.kind() == Verdict::Kind::done) {
      if (context.emitted().empty()) {
        return done(entry);
      }
      if (channels_.emits.publisher) {
        entry.emitted = context.emitted();
        return publish_emitted(entry);
      }
      handled.verdict = Verdict::retry("the handler emits events, and AtLeastOnce::emits names no channel for them");
      handled.attempt.error = handled.verdict.reason();
    }
    handled.attempt.at = format_time(shared_.options.clock->now());
    if (handled.verdict.kind() != Verdict::Kind::reject && stop.stop_requested()) {
      return {.kind = Fate::Kind::dropped};
    }
    shared_.journal.set_last_error(handled.attempt.error);
    const Past past{std::chrono::duration_cast<milliseconds>(started - *entry.first), entry.previous};
    const Decision decision = decide(shared_, message, handled, past);
    entry.attempts = handled.attempt.number;
    entry.history.push_back(handled.attempt);
    if (decision.bury) {
      return give_up(entry, decision.reason);
    }
    entry.previous = decision.delay;
    ++shared_.journal.parked;
    return again(entry, decision.delay);
  }

  /// The broker's own delay where it breaks no order. In order, the message is kept here instead: its key waits and others
  /// flow, where the broker's delay would let later messages of the key pass, or hold up the partition.
  Fate again(Entry& entry, milliseconds delay) {
    const Message& message = entry.message;
    if (!traits_.delays || (traits_.ordered && !message.key().empty())) {
      return {.kind = Fate::Kind::later, .delay = delay};
    }
    memory_.put(message, {entry.attempts, entry.history, entry.first, entry.previous});
    try {
      shared_.source.retry(message, delay);
    } catch (const std::exception& error) {
      shared_.journal.log(LogLevel::warn, name_of(message) + " could not be handed back: " + error.what());
      return {.kind = Fate::Kind::later, .delay = delay};
    }
    return {};
  }

  Fate done(const Entry& /*entry*/) {
    ++shared_.journal.done;
    return {.ack = true};
  }

  Fate give_up(Entry& entry, const std::string& reason) {
    entry.letter = DeadLetter{
        .group = shared_.options.group, .message = entry.message, .reason = reason, .attempts = std::move(entry.history)};
    return publish_letter(entry);
  }

  Fate publish_letter(Entry& entry) {
    const Event event = to_event(*entry.letter);
    if (std::string error = publish(channels_.dead_letters, {&event, 1}); !error.empty()) {
      return postponed(entry, "its dead letter", error);
    }
    ++shared_.journal.dead;
    shared_.journal.set_last_error(entry.letter->reason);
    shared_.journal.log(LogLevel::warn, name_of(entry.message) + " is a dead letter after " +
                                            std::to_string(entry.letter->attempts.size()) + " attempts");
    return {.ack = true};
  }

  Fate publish_emitted(Entry& entry) {
    if (std::string error = publish(channels_.emits, entry.emitted); !error.empty()) {
      return postponed(entry, "what it emitted", error);
    }
    return done(entry);
  }

  Fate postponed(const Entry& entry, const char* what, const std::string& error) {
    shared_.journal.set_last_error(error);
    shared_.journal.log(LogLevel::warn, name_of(entry.message) + ": " + what + " could not be published: " + error);
    return {.kind = Fate::Kind::later, .delay = publish_pause};
  }

  /// Empty when every event is confirmed. All are sent again otherwise: their ids are fixed, so a repeat is recognised.
  static std::string publish(const Channel& channel, std::span<const Event> events) {
    try {
      for (const Outcome& outcome : channel.publisher->publish(events, publish_timeout)) {
        if (!outcome.confirmed()) {
          return std::string{to_string(outcome.status)} + " by " + channel.name + ": " + outcome.error;
        }
      }
    } catch (const std::exception& error) {
      return channel.name + ": " + error.what();
    }
    return {};
  }

  const Shared& shared_;
  const AtLeastOnce& channels_;
  AttemptMemory& memory_;
  Leash& leash_;
  const SourceTraits traits_;
};

}  // namespace

std::unique_ptr<Processor> make_at_least_once(const Shared& shared, const AtLeastOnce& channels, AttemptMemory& memory,
                                              Leash& leash) {
  return std::make_unique<WithoutDatastore>(shared, channels, memory, leash);
}

}  // namespace penstock::consumer
