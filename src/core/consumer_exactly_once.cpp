// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "core/consumer_batches.hpp"
#include "core/consumer_retry.hpp"

namespace penstock::consumer {

namespace {

using std::chrono::milliseconds;

/// Transactions the store undid are run again at once so often, and then after a little while.
constexpr int tries_at_once = 5;

milliseconds conflict_delay(int conflicts) {
  return std::min(milliseconds{50} * (1 << std::min(conflicts, 5)), milliseconds{1000});
}

class ExactlyOnce final : public Processor {
 public:
  ExactlyOnce(const Shared& shared, Datastore& datastore, Leash& leash)
      : shared_{shared},
        leash_{leash},
        datastore_{datastore},
        session_{datastore.session(shared.options.group)},
        batches_{shared, leash, *session_} {}

  void process_batch(std::span<const EntryPtr> entries, std::span<Fate> fates, const std::stop_token& stop) override {
    BatchRun run{entries, fates};
    batches_.process(run, stop);
    // What was left out, in its order: behind a message that has failed comes what follows it of its key.
    KeyFence fence;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (!run.is_left_out(i) && fates[i].kind != Fate::Kind::settled) {
        fence.add(*entries[i]);
      }
    }
    for (const std::size_t i : run.left()) {
      Entry& entry = *entries[i];
      if (stop.stop_requested() || fence.holds(entry)) {
        fates[i] = {.kind = Fate::Kind::waits};
        continue;
      }
      const std::optional<Handled>& failure = run.failure(i);
      fates[i] = failure ? settle_failed(entry, *failure, stop) : process(entry, stop);
      if (fates[i].kind != Fate::Kind::settled) {
        fence.add(entry);
      }
    }
  }

  Fate process(Entry& entry, const std::stop_token& stop) override {
    return persistently(entry, stop, [&] { return once(entry, stop); });
  }

  /// Parks or buries what failed in a batch that is committed, without running its handler again.
  Fate settle_failed(Entry& entry, const Handled& failure, const std::stop_token& stop) {
    return persistently(entry, stop, [&]() -> Fate {
      switch (session_->begin(entry.message)) {
        case Datastore::Admission::duplicate: ++shared_.journal.duplicates; break;
        case Datastore::Admission::behind: ++shared_.journal.parked; break;
        case Datastore::Admission::refused: ++shared_.journal.dead; break;
        case Datastore::Admission::fresh: return failed(entry.message, failure, {}, stop);
      }
      return {.ack = true};
    });
  }

 private:
  template <class Work>
  Fate persistently(Entry& entry, const std::stop_token& stop, Work work) {
    for (int tries = 1;; ++tries) {
      try {
        return work();
      } catch (const TransactionConflict& conflict) {
        if (stop.stop_requested()) {
          return {.kind = Fate::Kind::dropped};
        }
        if (tries >= tries_at_once) {
          shared_.journal.log(LogLevel::info,
                              name_of(entry.message) + ": the store undid it again and again: " + conflict.what());
          return {.kind = Fate::Kind::later, .delay = conflict_delay(entry.conflicts++)};
        }
      } catch (const CommitInDoubt& doubt) {
        entry.in_doubt = true;
        return {.kind = Fate::Kind::store_away, .error = doubt.what()};
      } catch (const std::exception& error) {
        return {.kind = Fate::Kind::store_away, .error = error.what()};
      }
    }
  }

 public:
  std::optional<Fate> process_due(const std::stop_token& stop) override {
    std::optional<Solitude::Stay> stay{std::in_place, shared_.solitude, false};
    for (int tries = 1;; ++tries) {
      try {
        std::optional<Datastore::Due> due = session_->begin_due();
        if (!due) {
          return std::nullopt;
        }
        if (!due->message.defect.empty()) {
          const std::string defect = cleaned(due->message.defect);
          bury(due->message, Attempt{.number = due->attempt, .error = defect, .host = shared_.host}, defect);
          return Fate{};
        }
        if (due->scheduled) {
          return emit(*due);
        }
        if (due->late && crashed(*due, stay)) {
          return Fate{};
        }
        return handle(due->message, due->attempt, {due->elapsed, due->previous}, stop);
      } catch (const TransactionConflict&) {
        // It is still parked and due, so the next look finds it again.
        if (tries >= tries_at_once || stop.stop_requested()) {
          return std::nullopt;
        }
      } catch (const std::exception& error) {
        // Also for a commit in doubt: either the message is parked no more, or it is still there and due.
        return Fate{.kind = Fate::Kind::store_away, .error = error.what()};
      }
    }
  }

 private:
  /// As in `once`, for a parked message: its row is locked by this session, so another one keeps the notes.
  bool crashed(const Datastore::Due& due, std::optional<Solitude::Stay>& stay) {
    const int most = shared_.options.crashes;
    if (most == 0) {
      return false;
    }
    if (!notes_) {
      notes_ = datastore_.session(shared_.options.group);
    }
    const Message* const message = &due.message;
    const auto begun = notes_->begun({&message, 1});
    const int deaths = begun.empty() ? 0 : begun.front().times;
    if (deaths >= most) {
      bury_crashed(due.message, deaths);
      return true;
    }
    if (deaths + 1 >= most) {
      stay.reset();
      stay.emplace(shared_.solitude, true);
    }
    notes_->note_begun({&message, 1});
    return false;
  }

  void bury_crashed(const Message& message, int deaths) {
    const std::string reason = "crashed: its handler ended the process " + std::to_string(deaths) + " times";
    bury(message, Attempt{.number = deaths, .error = reason, .host = shared_.host}, reason);
  }

  Fate once(Entry& entry, const std::stop_token& stop) {
    const Message& message = entry.message;
    if (!message.defect.empty()) {
      return malformed(with_defect(message, message.defect));
    }
    if (const std::string defect = identity_defect(message.event); !defect.empty()) {
      return malformed(with_defect(message, defect));
    }
    if (entry.in_doubt) {
      if (session_->settled(message)) {
        ++shared_.journal.done;
        return {.ack = true};
      }
      entry.in_doubt = false;
    }
    const int deaths = batches_.deaths(entry);
    const int most = shared_.options.crashes;
    // The last chance is taken alone, so that no other can be blamed for it.
    const Solitude::Stay stay{shared_.solitude, most > 0 && deaths + 1 >= most};
    if (most > 0 && deaths < most) {
      batches_.note(entry);
    }
    std::optional<std::string> refused;
    try {
      switch (session_->begin(message)) {
        case Datastore::Admission::duplicate: ++shared_.journal.duplicates; return {.ack = true};
        case Datastore::Admission::behind: ++shared_.journal.parked; return {.ack = true};
        case Datastore::Admission::refused: ++shared_.journal.dead; return {.ack = true};
        case Datastore::Admission::fresh: break;
      }
    } catch (const DatastoreUnavailable&) {
      throw;
    } catch (const TransactionConflict&) {
      throw;
    } catch (const std::exception& error) {
      refused = error.what();
    }
    if (refused) {
      // The store is there and cannot take this very message: that must not hold up the others.
      return malformed(with_defect(message, "the store refuses it: " + *refused));
    }
    if (most > 0 && deaths >= most) {
      bury_crashed(message, deaths);
      return {.ack = true};
    }
    Fate fate = handle(message, 1, {}, stop);
    fate.ack = fate.kind == Fate::Kind::settled;
    return fate;
  }

  /// Runs the handler in the open transaction and settles the message by what it says. Acknowledges nothing.
  Fate handle(const Message& message, int number, const Past& past, const std::stop_token& stop) {
    const Leash::Run run{leash_, stop};
    Context context{message,        shared_.options.group, shared_.options.source, number,
                    session_->tx(), run.token(),           run.deadline()};
    Handled handled =
        run_handler(shared_, message, context, run, [this](const std::exception_ptr& thrown) { session_->classify(thrown); });
    Attempt& attempt = handled.attempt;
    if (handled.verdict.kind() == Verdict::Kind::done) {
      try {
        if (!context.scheduled().empty()) {
          session_->schedule(context.scheduled());
        }
        session_->complete(context.emitted(), attempt);
        ++shared_.journal.done;
        return {};
      } catch (const DatastoreUnavailable&) {
        throw;
      } catch (const TransactionConflict&) {
        throw;
      } catch (const CommitInDoubt&) {
        throw;
      } catch (const std::exception& error) {
        // A deferred constraint, or a handler that went on in a transaction whose statement had failed.
        handled.verdict = Verdict::retry(error.what());
        attempt.error = cleaned(error.what());
      }
    }
    return failed(message, std::move(handled), past, stop);
  }

  /// Parks or buries the message that is in work, and acknowledges nothing.
  Fate failed(const Message& message, Handled handled, const Past& past, const std::stop_token& stop) {
    const Attempt& attempt = handled.attempt;
    if (handled.verdict.kind() != Verdict::Kind::reject && stop.stop_requested()) {
      session_->abandon();
      return {.kind = Fate::Kind::dropped};
    }
    shared_.journal.set_last_error(attempt.error);
    const Decision decision = decide(shared_, message, handled, past);
    if (decision.bury) {
      bury(message, attempt, decision.reason);
      return {.ack = true};
    }
    session_->park(attempt, decision.delay);
    ++shared_.journal.parked;
    return {.ack = true};
  }

  /// An event that was emitted with a delay, when its time has come.
  Fate emit(const Datastore::Due& due) {
    Attempt attempt{.number = due.attempt, .host = shared_.host};
    try {
      session_->complete({&due.message.event, 1}, attempt);
      return {};
    } catch (const DatastoreUnavailable&) {
      throw;
    } catch (const TransactionConflict&) {
      throw;
    } catch (const CommitInDoubt&) {
      throw;
    } catch (const std::exception& error) {
      attempt.error = cleaned(error.what());
    }
    bury(due.message, attempt, "cannot be emitted: " + attempt.error);
    return {};
  }

  void bury(const Message& message, const Attempt& attempt, const std::string& reason) {
    session_->bury(attempt, reason);
    ++shared_.journal.dead;
    shared_.journal.set_last_error(reason);
    shared_.journal.log(LogLevel::warn, name_of(message) + " is a dead letter after attempt " + std::to_string(attempt.number));
  }

  Fate malformed(const Message& message) {
    session_->bury_malformed(message);
    ++shared_.journal.dead;
    shared_.journal.set_last_error(message.defect);
    shared_.journal.log(LogLevel::warn, name_of(message) + " is a dead letter: " + message.defect);
    return {.ack = true};
  }

  static Message with_defect(Message message, const std::string& defect) {
    message.defect = cleaned(defect);
    return message;
  }

  const Shared& shared_;
  Leash& leash_;
  Datastore& datastore_;
  std::unique_ptr<Datastore::Session> session_;
  std::unique_ptr<Datastore::Session> notes_;  ///< opened for the first parked message that comes late
  Batches batches_;
};

}  // namespace

std::unique_ptr<Processor> make_exactly_once(const Shared& shared, Datastore& datastore, Leash& leash) {
  return std::make_unique<ExactlyOnce>(shared, datastore, leash);
}

}  // namespace penstock::consumer
