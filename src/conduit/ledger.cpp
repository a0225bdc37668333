// SPDX-License-Identifier: Apache-2.0
#include "conduit/ledger.hpp"

#include <utility>

namespace penstock::conduit {

Ledger::Batch& Ledger::open(std::size_t events, TimePoint deadline) {
  auto made = std::make_unique<Batch>();
  made->outcomes.resize(events);
  made->waits.resize(events, nullptr);
  made->open = events;
  made->deadline = deadline;
  Batch& batch = *made;
  batches_.emplace(&batch, std::move(made));
  return batch;
}

void Ledger::settle(Batch& batch, std::size_t index, Outcome outcome) {
  batch.waits[index] = nullptr;
  batch.any_failed = batch.any_failed || !outcome.confirmed();
  batch.outcomes[index] = std::move(outcome);
  --batch.open;
}

Ledger::Slot& Ledger::place(Batch& batch, std::size_t index, std::string identity) {
  Slot& slot = batch.slots.emplace_back();
  slot.owner = &batch;
  slot.waiter = &batch;
  slot.index = index;
  slot.identity = std::move(identity);
  slot.alone = unreported_ == 0;
  if (alone_ != nullptr) alone_->alone = false;
  alone_ = slot.alone ? &slot : nullptr;
  batch.waits[index] = &slot;
  ++batch.unreported;
  ++unreported_;
  return slot;
}

void Ledger::discard(Slot& slot) {
  if (alone_ == &slot) alone_ = nullptr;
  slot.waiter->waits[slot.index] = nullptr;
  slot.waiter = nullptr;
  --slot.owner->unreported;
  --unreported_;
}

bool Ledger::adopt(Batch& batch, std::size_t index, const std::string& identity) {
  const auto found = late_.find(identity);
  if (found == late_.end()) return false;
  Slot& slot = *found->second;
  late_.erase(found);
  slot.waiter = &batch;
  slot.index = index;
  batch.waits[index] = &slot;
  return true;
}

void Ledger::seal(Batch& batch) {
  batch.sealed = true;
  if (batch.open > 0) deadlines_.emplace(batch.deadline, &batch);
  finish(batch);
}

void Ledger::report(Slot& slot, const Outcome& outcome) {
  if (alone_ == &slot) alone_ = nullptr;
  Batch& owner = *slot.owner;
  Batch* const waiter = std::exchange(slot.waiter, nullptr);
  if (waiter != nullptr) {
    settle(*waiter, slot.index, outcome);
  } else if (const auto found = late_.find(slot.identity); found != late_.end() && found->second == &slot) {
    late_.erase(found);
  }
  --owner.unreported;
  --unreported_;
  if (waiter != nullptr && waiter != &owner) finish(*waiter);
  finish(owner);
}

void Ledger::sweep(TimePoint now, const std::string& trouble) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Batch& batch = *deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    for (std::size_t i = 0; i < batch.waits.size(); ++i) {
      Slot* const slot = batch.waits[i];
      if (slot == nullptr) continue;
      slot->waiter = nullptr;
      late_.emplace(slot->identity, slot);
      settle(
          batch, i,
          {Outcome::Status::unknown, "Kafka gave no answer within the time allowed; the event may still be stored" + trouble});
    }
    finish(batch);
  }
}

void Ledger::report_all(const Outcome& outcome) {
  std::vector<Slot*> slots;
  for (const auto& [batch, owned] : batches_) {
    if (batch->unreported == 0) continue;
    for (Slot& slot : batch->slots) {
      if (slot.waiter != nullptr) slots.push_back(&slot);
    }
  }
  late_.clear();
  alone_ = nullptr;
  std::vector<Batch*> all;
  all.reserve(batches_.size());
  for (Slot* slot : slots) settle(*std::exchange(slot->waiter, nullptr), slot->index, outcome);
  for (const auto& [batch, owned] : batches_) {
    batch->unreported = 0;
    all.push_back(batch);
  }
  unreported_ = 0;
  for (Batch* batch : all) finish(*batch);
}

void Ledger::finish(Batch& batch) {
  if (!batch.sealed) return;
  if (batch.open == 0 && !batch.complete) {
    batch.complete = true;
    const auto [first, last] = deadlines_.equal_range(batch.deadline);
    for (auto entry = first; entry != last; ++entry) {
      if (entry->second == &batch) {
        deadlines_.erase(entry);
        break;
      }
    }
    completed_.push_back({std::move(batch.promise), std::move(batch.outcomes)});
  }
  if (batch.complete && batch.unreported == 0) batches_.erase(&batch);
}

}  // namespace penstock::conduit
