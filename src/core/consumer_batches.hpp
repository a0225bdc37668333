// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/consumer_processor.hpp"

namespace penstock::consumer {

/// Keys of which an entry failed or was left out, so that what follows of them has to wait.
class KeyFence {
 public:
  void add(const Entry& entry) {
    if (entry.lineup != nullptr) {
      held_.push_back(entry.lineup);
    }
  }
  [[nodiscard]] bool holds(const Entry& entry) const {
    return std::find(held_.begin(), held_.end(), entry.lineup) != held_.end();
  }

 private:
  std::vector<const Lineup*> held_;
};

/// What became of the entries of a batch: a fate, or left out, to be settled one by one when the batch is committed.
class BatchRun {
 public:
  BatchRun(std::span<const EntryPtr> entries, std::span<Fate> fates)
      : entries_{entries}, fates_{fates}, left_out_(entries.size(), false), failures_(entries.size()) {}

  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  [[nodiscard]] Entry& entry(std::size_t i) const { return *entries_[i]; }

  void settle(std::size_t i, Fate fate) { fates_[i] = std::move(fate); }
  [[nodiscard]] bool is_settled(std::size_t i) const { return fates_[i].ack; }
  /// To be handled by itself, and what follows it of its key, too.
  void leave_out(std::size_t i) {
    if (!is_settled(i)) {
      left_out_[i] = true;
      fence_.add(entry(i));
    }
  }
  /// Its handler has failed: it is to be parked or dead-lettered.
  void fail(std::size_t i, Handled failure) {
    leave_out(i);
    failures_[i] = std::move(failure);
  }
  [[nodiscard]] bool fenced(std::size_t i) const { return fence_.holds(entry(i)); }
  [[nodiscard]] bool is_left_out(std::size_t i) const { return left_out_[i]; }
  [[nodiscard]] const std::optional<Handled>& failure(std::size_t i) const { return failures_[i]; }
  /// In their order.
  [[nodiscard]] std::vector<std::size_t> left() const;

 private:
  const std::span<const EntryPtr> entries_;
  const std::span<Fate> fates_;
  std::vector<bool> left_out_;
  std::vector<std::optional<Handled>> failures_;
  KeyFence fence_;
};

/// Runs a batch in one transaction of a worker's session.
///
/// Thread safety: the worker's thread.
class Batches {
 public:
  Batches(const Shared& shared, Leash& leash, Datastore::Session& session)
      : shared_{shared}, leash_{leash}, session_{session} {}

  /// Gives each entry a fate, or leaves it out. Never throws for what handlers and stores do.
  void process(BatchRun& run, const std::stop_token& stop);

  /// How many processes died with this message in work, as far as somebody noted it.
  int deaths(Entry& entry);
  /// Notes that a message which may have been delivered before is about to be handled, once.
  void note(Entry& entry);

 private:
  struct Member {
    std::size_t number = 0;  ///< in the run
    std::unique_ptr<Context> context{};
    Attempt attempt{};
    bool done = false;
  };
  using Members = std::vector<Member>;

  Members choose(BatchRun& run);
  void leave_suspects(BatchRun& run, Members& members);
  void once(BatchRun& run, Members members, const std::stop_token& stop);
  void admit(BatchRun& run, Members& members);
  void run_each(BatchRun& run, Members& members, const std::stop_token& stop);
  bool run_all(BatchRun& run, Members& members, const std::stop_token& stop);
  static bool writes_behind_a_failure(const BatchRun& run, const Members& members, const std::vector<Verdict>& verdicts);
  void fail_previous(BatchRun& run, Member& member, const std::string& error);
  void commit(BatchRun& run, Members& members);
  std::unique_ptr<Context> context(const Message& message, const Leash::Run& run) const;

  const Shared& shared_;
  Leash& leash_;
  Datastore::Session& session_;
};

}  // namespace penstock::consumer
