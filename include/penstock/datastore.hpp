// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/context.hpp"
#include "penstock/dead_letter.hpp"

namespace pqxx {
class transaction_base;
}

namespace penstock {

/// The store cannot be reached. Nothing was decided; the consumer pauses its source, and no attempt is counted.
class PENSTOCK_EXPORT DatastoreUnavailable : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Deadlock or serialization failure: the transaction is undone and is run again at once, without counting an attempt.
class PENSTOCK_EXPORT TransactionConflict : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// The connection broke during commit. Only the inbox, read over a new connection, tells what happened.
class PENSTOCK_EXPORT CommitInDoubt : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Where a consumer keeps what makes its effects happen exactly once: inbox, checkpoints, parked messages, dead letters, audit
/// trail and outbox, all in the transaction of the effect. PostgresDatastore is the real one; testing::MemoryDatastore lets a
/// handler without SQL be tested in memory. Handlers do not see this class; a consumer drives it.
///
/// Thread safety: `session` from any thread. Lifetime: must outlive the consumers and sessions made from it.
class PENSTOCK_EXPORT Datastore {
 public:
  /// What the inbox says of a delivery.
  enum class Admission : std::uint8_t {
    fresh,      ///< marked; the transaction is open, run the handler
    duplicate,  ///< settled before, or parked: acknowledge it and do nothing. No transaction is open
    behind,     ///< an earlier message of its key is parked, so this one was parked behind it and committed: acknowledge it
    refused     ///< the store has forgotten whether it was settled, and has dead-lettered it and committed: acknowledge it
  };
  /// A parked message whose time has come, locked in the open transaction. `attempt` is the number of the coming attempt.
  struct Due {
    Message message{};
    int attempt = 1;
    bool late = false;                     ///< it should have been begun a second ago, or was, by somebody who died
    std::chrono::milliseconds elapsed{0};  ///< since its first attempt began, by the store's clock
    std::optional<std::chrono::milliseconds> previous{};  ///< the delay before this attempt, if it is no first one
    bool scheduled = false;  ///< it is an event whose time to be emitted has come, and nothing for a handler
  };
  struct Begun {
    int times = 0;
    bool known = false;  ///< the inbox holds it: it is settled or parked
  };
  /// A message of a batch whose effect is complete, and what its handler emitted.
  struct Completed {
    const Message* message = nullptr;
    std::span<const Event> emitted{};
    Attempt attempt{};
  };

  /// One worker's connection, with one message or one batch in work at a time. Every call may throw DatastoreUnavailable or
  /// TransactionConflict; the work is then undone and the session ready for `begin` again (it reconnects by itself).
  /// Thread safety: one thread at a time.
  class PENSTOCK_EXPORT Session {
   public:
    virtual ~Session() = default;

    /// Opens the transaction and marks the inbox with (group, source, id).
    virtual Admission begin(const Message& message) = 0;
    /// Opens a transaction with the next parked message of the group that is due, or nothing: then no transaction is open.
    /// Another worker's are skipped. Messages of a key come one at a time, in their order.
    virtual std::optional<Due> begin_due() = 0;
    /// How many parked messages are due now, at most `limit`.
    virtual std::size_t due(std::size_t limit) = 0;

    /// The open transaction, for the handler; null on a store without SQL.
    virtual pqxx::transaction_base* tx() = 0;

    /// Looks at what a handler threw: throws DatastoreUnavailable or TransactionConflict when it was the store that failed, and
    /// returns when it was the handler.
    virtual void classify(const std::exception_ptr& thrown) { static_cast<void>(thrown); }

    /// Parks events in the open transaction, to be emitted later: before `complete`, and undone with the handler's work. Throws
    /// as `complete` does. The default throws std::logic_error.
    virtual void schedule(std::span<const ScheduledEvent> events);

    /// Writes emitted events, audit row and checkpoint, and commits. For a parked message also removes it and releases its
    /// successor. Throws CommitInDoubt; anything else it throws is the handler's fault (a deferred constraint, an event that
    /// cannot be stored), to be parked or buried.
    virtual void complete(std::span<const Event> emitted, const Attempt& attempt) = 0;
    /// Undoes the handler's work and, in one transaction, parks the message until `delay` from now by the store's clock, with
    /// this attempt in its history. A repeated delivery of it will be a duplicate. The next attempt is the one after
    /// `attempt.number`: one that does not count has the number of the one before, or 0.
    virtual void park(const Attempt& attempt, std::chrono::milliseconds delay) = 0;
    /// Undoes the handler's work and, in one transaction, records the dead letter with its history and appends its message for
    /// `<channel>.dead` to the outbox. For a parked message also removes it and releases its successor.
    virtual void bury(const Attempt& attempt, const std::string& reason) = 0;
    /// Dead-letters a delivery that is no event: no transaction need be open.
    virtual void bury_malformed(const Message& message) = 0;
    /// Undoes everything; the message is as if it had not been begun.
    virtual void abandon() noexcept = 0;

    /// Opens one transaction for several messages, which outlive it, and marks the inbox with all that are new. One admission
    /// each: those that are not `fresh` are not in the batch; one that is `behind` is to be begun by itself. Nothing at all
    /// from a store that has no batches, and no transaction is open then. `park` and `bury` are for single messages.
    virtual std::vector<Admission> begin_batch(std::span<const Message* const> messages) {
      static_cast<void>(messages);
      return {};
    }
    /// Keeps what was done in the batch so far apart from what follows. Throws what is not listed above when a statement of the
    /// part that ends here had failed and its handler passed over it: then `undo` takes that part back.
    virtual void savepoint() {}
    /// Takes back what was done since the last `savepoint`.
    virtual void undo() {}
    /// As `complete` for these, in one statement each for events, audit rows and checkpoints; the other messages of the batch
    /// are as if they had not been begun.
    virtual void complete_batch(std::span<const Completed> done) { static_cast<void>(done); }

    /// Of each, how often it was begun (see below) and not settled: by how many processes that died. Empty where nobody counts.
    virtual std::vector<Begun> begun(std::span<const Message* const> messages) {
      static_cast<void>(messages);
      return {};
    }
    /// Notes, committed at its return, that these are about to be handled. Settling a message that may have been delivered
    /// before removes its note.
    virtual void note_begun(std::span<const Message* const> messages) { static_cast<void>(messages); }

    /// After CommitInDoubt: whether the inbox holds the message, so that the effect is there.
    virtual bool settled(const Message& message) = 0;
  };

  virtual ~Datastore() = default;
  /// A session for a consumer group. Does not connect yet.
  virtual std::unique_ptr<Session> session(const std::string& group) = 0;
};

}  // namespace penstock
