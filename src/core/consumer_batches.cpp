// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_batches.hpp"

#include <set>
#include <utility>

#include "core/consumer_gate.hpp"

namespace penstock::consumer {

namespace {

constexpr int tries_at_once = 3;

bool has_been_in_trouble(const Entry& entry) {
  return entry.in_doubt || entry.conflicts > 0 || !entry.message.defect.empty() ||
         !identity_defect(entry.message.event).empty();
}

std::vector<const Message*> messages_of(const BatchRun& run, const std::vector<std::size_t>& numbers) {
  std::vector<const Message*> messages;
  messages.reserve(numbers.size());
  for (const std::size_t number : numbers) {
    messages.push_back(&run.entry(number).message);
  }
  return messages;
}

}  // namespace

std::vector<std::size_t> BatchRun::left() const {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < left_out_.size(); ++i) {
    if (left_out_[i]) {
      numbers.push_back(i);
    }
  }
  return numbers;
}

void Batches::process(BatchRun& run, const std::stop_token& stop) {
  for (int tries = 1;; ++tries) {
    Members members = choose(run);
    std::vector<std::size_t> numbers;
    for (const Member& member : members) {
      numbers.push_back(member.number);
    }
    const auto each = [&](auto what) { std::for_each(numbers.begin(), numbers.end(), what); };
    const auto away = [&](const std::string& error) {
      each([&](std::size_t i) {
        if (!run.is_left_out(i) && !run.is_settled(i)) {
          run.settle(i, {.kind = Fate::Kind::store_away, .error = error});
        }
      });
    };
    try {
      leave_suspects(run, members);
      if (members.size() < 2) {
        each([&run](std::size_t i) { run.leave_out(i); });
        return;
      }
      const Solitude::Stay stay{shared_.solitude, false};
      once(run, std::move(members), stop);
      return;
    } catch (const TransactionConflict& conflict) {
      if (stop.stop_requested() || tries >= tries_at_once) {
        shared_.journal.log(LogLevel::info, std::string{"the store undid a batch, now one by one: "} + conflict.what());
        each([&run](std::size_t i) { run.leave_out(i); });
        return;
      }
    } catch (const CommitInDoubt& doubt) {
      each([&run](std::size_t i) { run.entry(i).in_doubt = true; });
      away(doubt.what());
      return;
    } catch (const std::exception& error) {
      away(error.what());
      return;
    }
  }
}

/// Those that may share a transaction: nothing is odd about them, and nothing of their key was left out before.
Batches::Members Batches::choose(BatchRun& run) {
  Members members;
  std::set<std::pair<std::string_view, std::string_view>> identities;
  for (std::size_t i = 0; i < run.size(); ++i) {
    if (run.is_left_out(i) || run.is_settled(i)) {
      continue;
    }
    const Entry& entry = run.entry(i);
    const Event& event = entry.message.event;
    if (run.fenced(i) || has_been_in_trouble(entry) || !identities.emplace(event.source, event.id).second) {
      run.leave_out(i);
    } else {
      members.push_back({.number = i});
    }
  }
  return members;
}

/// One that was in work when a process died comes by itself, and the others that may be repeated are noted.
void Batches::leave_suspects(BatchRun& run, Members& members) {
  if (shared_.options.crashes == 0) {
    return;
  }
  std::vector<std::size_t> repeated;
  for (const Member& member : members) {
    const Entry& entry = run.entry(member.number);
    if (entry.message.origin.repeated() && !entry.noted) {
      repeated.push_back(member.number);
    }
  }
  if (repeated.empty()) {
    return;
  }
  const auto begun = session_.begun(messages_of(run, repeated));
  if (begun.empty()) {
    return;
  }
  std::vector<std::size_t> to_be_noted;
  for (std::size_t i = 0; i < repeated.size(); ++i) {
    if (begun[i].times > 0) {
      run.leave_out(repeated[i]);
    } else if (!begun[i].known) {
      to_be_noted.push_back(repeated[i]);
    }
  }
  std::erase_if(members, [&run](const Member& member) {
    if (!run.is_left_out(member.number) && run.fenced(member.number)) {
      run.leave_out(member.number);
    }
    return run.is_left_out(member.number);
  });
  std::erase_if(to_be_noted, [&run](std::size_t i) { return run.is_left_out(i); });
  if (members.size() < 2 || to_be_noted.empty()) {
    return;
  }
  session_.note_begun(messages_of(run, to_be_noted));
  for (const std::size_t i : to_be_noted) {
    run.entry(i).noted = true;
  }
}

int Batches::deaths(Entry& entry) {
  if (shared_.options.crashes == 0 || entry.noted || !entry.message.origin.repeated()) {
    return entry.deaths;
  }
  const Message* const message = &entry.message;
  const auto begun = session_.begun({&message, 1});
  entry.noted = begun.empty() || begun.front().known;  // then there is no need
  entry.deaths = begun.empty() ? 0 : begun.front().times;
  return entry.deaths;
}

void Batches::note(Entry& entry) {
  if (entry.noted || !entry.message.origin.repeated()) {
    return;
  }
  const Message* const message = &entry.message;
  session_.note_begun({&message, 1});
  entry.noted = true;
}

void Batches::once(BatchRun& run, Members members, const std::stop_token& stop) {
  try {
    admit(run, members);
    if (members.empty()) {
      session_.abandon();
      return;
    }
    if (shared_.batch_handler) {
      if (!run_all(run, members, stop)) {
        return;
      }
    } else {
      run_each(run, members, stop);
    }
    commit(run, members);
  } catch (const DatastoreUnavailable&) {
    throw;
  } catch (const TransactionConflict&) {
    throw;
  } catch (const CommitInDoubt&) {
    throw;
  } catch (const std::exception& error) {
    // It shows only now, as with a deferred constraint, whose fault it is: one by one will tell.
    session_.abandon();
    shared_.journal.log(LogLevel::info, std::string{"a batch failed, now one by one: "} + error.what());
    for (const Member& member : members) {
      if (!run.is_left_out(member.number)) {
        run.leave_out(member.number);
      }
    }
  }
}

void Batches::admit(BatchRun& run, Members& members) {
  std::vector<std::size_t> numbers;
  for (const Member& member : members) {
    numbers.push_back(member.number);
  }
  const auto admissions = session_.begin_batch(messages_of(run, numbers));
  Members fresh;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (admissions.empty() || admissions[i] == Datastore::Admission::behind) {
      run.leave_out(numbers[i]);
    } else if (admissions[i] == Datastore::Admission::duplicate) {
      ++shared_.journal.duplicates;
      run.settle(numbers[i], {.ack = true});
    } else {
      fresh.push_back(std::move(members[i]));
    }
  }
  members = std::move(fresh);
}

std::unique_ptr<Context> Batches::context(const Message& message, const Leash::Run& run) const {
  return std::make_unique<Context>(message, shared_.options.group, shared_.options.source, 1, session_.tx(), run.token(),
                                   run.deadline());
}

void Batches::fail_previous(BatchRun& run, Member& member, const std::string& error) {
  member.done = false;
  member.attempt.error = cleaned(error);
  run.fail(member.number, {Verdict::retry(error), std::move(member.attempt)});
  session_.undo();
}

void Batches::run_each(BatchRun& run, Members& members, const std::stop_token& stop) {
  Member* previous = nullptr;
  for (Member& member : members) {
    if (run.fenced(member.number)) {
      run.leave_out(member.number);
      continue;
    }
    if (stop.stop_requested()) {
      run.settle(member.number, {.kind = Fate::Kind::waits});
      continue;
    }
    try {
      session_.savepoint();
    } catch (const DatastoreUnavailable&) {
      throw;
    } catch (const TransactionConflict&) {
      throw;
    } catch (const std::exception& error) {
      if (previous == nullptr) {
        throw;
      }
      fail_previous(run, *std::exchange(previous, nullptr), error.what());
      if (run.fenced(member.number)) {
        run.leave_out(member.number);
        continue;
      }
      session_.savepoint();
    }
    const Message& message = run.entry(member.number).message;
    const Leash::Run leashed{leash_, stop};
    member.context = context(message, leashed);
    Handled handled = run_handler(shared_, message, *member.context, leashed,
                                  [this](const std::exception_ptr& thrown) { session_.classify(thrown); });
    if (handled.verdict.kind() == Verdict::Kind::done) {
      member.attempt = std::move(handled.attempt);
      member.done = true;
      previous = &member;
      continue;
    }
    session_.undo();
    previous = nullptr;
    if (handled.verdict.kind() == Verdict::Kind::retry && stop.stop_requested()) {
      run.settle(member.number, {.kind = Fate::Kind::dropped});
    } else {
      run.fail(member.number, std::move(handled));
    }
  }
}

/// Whether a message is called done that has to wait behind one of its key that is not.
bool Batches::writes_behind_a_failure(const BatchRun& run, const Members& members, const std::vector<Verdict>& verdicts) {
  KeyFence failed;
  for (std::size_t i = 0; i < verdicts.size(); ++i) {
    const Entry& entry = run.entry(members[i].number);
    if (verdicts[i].kind() != Verdict::Kind::done) {
      failed.add(entry);
    } else if (failed.holds(entry)) {
      return true;
    }
  }
  return false;
}

/// False when the whole is undone and each comes by itself.
bool Batches::run_all(BatchRun& run, Members& members, const std::stop_token& stop) {
  // Before it writes for them: a later message of their key was left out, as one that comes twice is, and their turn is then.
  std::erase_if(members, [&run](const Member& member) {
    const bool fenced = run.fenced(member.number);
    if (fenced) {
      run.leave_out(member.number);
    }
    return fenced;
  });
  if (members.empty()) {
    session_.abandon();
    return false;
  }
  std::vector<const Message*> messages;
  std::vector<Context*> contexts;
  const Leash::Run leashed{leash_, stop};
  for (Member& member : members) {
    messages.push_back(&run.entry(member.number).message);
    member.context = context(*messages.back(), leashed);
    contexts.push_back(member.context.get());
  }
  Batch batch{messages, contexts};
  const auto start = std::chrono::steady_clock::now();
  Verdicts verdicts = Verdict::done();
  try {
    verdicts = shared_.batch_handler(batch);
    if (!verdicts.each().empty() && verdicts.each().size() != members.size()) {
      verdicts = Verdict::retry("the batch handler gave " + std::to_string(verdicts.each().size()) + " verdicts for " +
                                std::to_string(members.size()) + " messages");
    }
  } catch (const std::exception& error) {
    session_.classify(std::current_exception());
    verdicts = Verdict::retry(error.what());
  } catch (...) {
    session_.classify(std::current_exception());
    verdicts = Verdict::retry("the handler threw something that is no std::exception");
  }
  const auto took = std::chrono::steady_clock::now() - start;
  if (verdicts.all().kind() != Verdict::Kind::done) {
    session_.abandon();
    shared_.journal.set_last_error(cleaned(verdicts.all().reason()));
    for (const Member& member : members) {
      run.leave_out(member.number);
    }
    return false;
  }
  if (writes_behind_a_failure(run, members, verdicts.each())) {
    // What was written for it is in the transaction and cannot be told from the rest; it would be written again when its turn
    // comes.
    session_.abandon();
    shared_.journal.log(LogLevel::info, "a batch handler calls done what follows a failed message of its key, now one by one");
    for (const Member& member : members) {
      run.leave_out(member.number);
    }
    return false;
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    Verdict verdict = verdicts.each().empty() ? Verdict::done() : verdicts.each()[i];
    Handled one = handled(shared_, std::move(verdict), *contexts[i], leashed, took);
    if (run.fenced(members[i].number)) {
      run.leave_out(members[i].number);
    } else if (one.verdict.kind() != Verdict::Kind::done) {
      run.fail(members[i].number, std::move(one));
    } else {
      shared_.gate.judge(*messages[i], 1, false, {});
      members[i].attempt = std::move(one.attempt);
      members[i].done = true;
    }
  }
  return true;
}

void Batches::commit(BatchRun& run, Members& members) {
  std::vector<Datastore::Completed> done;
  std::vector<ScheduledEvent> scheduled;
  for (const Member& member : members) {
    if (member.done) {
      const std::vector<ScheduledEvent>& later = member.context->scheduled();
      scheduled.insert(scheduled.end(), later.begin(), later.end());
      done.push_back({&run.entry(member.number).message, member.context->emitted(), member.attempt});
    }
  }
  if (done.empty()) {
    session_.abandon();
    return;
  }
  if (!scheduled.empty()) {
    session_.schedule(scheduled);
  }
  session_.complete_batch(done);
  for (const Member& member : members) {
    if (member.done) {
      ++shared_.journal.done;
      run.settle(member.number, {.ack = true});
    }
  }
}

}  // namespace penstock::consumer
