// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "penstock/context.hpp"
#include "penstock/source.hpp"
#include "penstock/verdict.hpp"

namespace penstock {

/// What a batch handler has: messages, and one transaction for all of them.
///
///     Consumer totals{lane.source("payments"), datastore, {.group = "totals", .batch = 500}, [](Batch& batch) {
///       std::string rows;
///       for (const Message* payment : batch.messages()) rows += …;
///       batch.tx().exec("INSERT INTO totals … SELECT … FROM (VALUES " + rows + ")");   // one statement for 500 messages
///       return Verdict::done();
///     }};
///
/// Thread safety: belongs to the thread that runs the handler. Lifetime: ends with the handler's return.
class PENSTOCK_EXPORT Batch {
 public:
  Batch(std::span<const Message* const> messages, std::span<Context* const> contexts)
      : messages_{messages}, contexts_{contexts} {}

  /// At least one, in an order in which those of each key follow one another as they came.
  [[nodiscard]] std::span<const Message* const> messages() const noexcept { return messages_; }
  [[nodiscard]] std::size_t size() const noexcept { return messages_.size(); }

  /// Of the message at a place in `messages()`: to emit events that it causes, its attempt, its idempotency key.
  [[nodiscard]] Context& context(std::size_t place) const { return *contexts_[place]; }

  /// The transaction that holds all effects. Throws std::logic_error on a consumer whose store has no SQL.
  [[nodiscard]] pqxx::transaction_base& tx() const { return contexts_.front()->tx(); }
  /// As of a Context; the deadline is that of the whole call.
  [[nodiscard]] std::stop_token stop_token() const noexcept { return contexts_.front()->stop_token(); }
  [[nodiscard]] std::optional<Clock::TimePoint> deadline() const noexcept { return contexts_.front()->deadline(); }

 private:
  std::span<const Message* const> messages_;
  std::span<Context* const> contexts_;
};

/// What a batch handler says: one verdict for all its messages, or one for each in their order.
///
/// One that is not `done`, for all, undoes all: each message is then handled by itself, as a batch of one, so that only those
/// that fail are parked. So it is after an exception. With one for each, what was written is kept, so the handler has written
/// nothing for a message that it does not call done; that one is parked or dead-lettered. If it calls done what follows such a
/// message of its key, which has to wait, all is undone as after an exception.
class Verdicts {
 public:
  Verdicts(Verdict all) : all_{std::move(all)} {}                                         // NOLINT(google-explicit-constructor)
  Verdicts(std::vector<Verdict> each) : all_{Verdict::done()}, each_{std::move(each)} {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] const std::vector<Verdict>& each() const noexcept { return each_; }  ///< empty: `all()` holds
  [[nodiscard]] const Verdict& all() const noexcept { return all_; }

 private:
  Verdict all_;
  std::vector<Verdict> each_;
};

/// The effect of several messages. Called from worker threads, several at once, but never two at once for one key.
using BatchHandler = std::function<Verdicts(Batch&)>;

}  // namespace penstock
