// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "beacon/connection.hpp"
#include "beacon/handle.hpp"
#include "beacon/refusals.hpp"
#include "penstock/publisher.hpp"

namespace penstock::beacon {

/// Where the events of one channel go, and how many of them have a place and no outcome.
struct Window {
  std::string channel{};
  int partitions = 0;
  std::vector<std::string> subjects{};  ///< of each partition, or the only one
  std::string stream{};
  std::size_t limit = 1;
  std::size_t in_flight = 0;  ///< guarded by the ledger
};

/// What was submitted and has no outcome yet. Every event gets exactly one: from an answer, from the end of the connection,
/// from its deadline or from the end of its publisher, whichever comes first. Thread safety: any thread. Lifetime: shared by
/// the session and the client library's threads.
class Ledger {
 public:
  enum class State : std::uint8_t {
    waiting,   ///< not sent
    placed,    ///< not sent, with a place in the window: its letter goes out next
    sent,      ///< may be stored
    unrouted,  ///< the server had nobody who takes the subject: certainly not stored, and why is being asked
    settled
  };
  struct Batch {
    std::uint64_t first = 0;  ///< token of its first event; the others follow
    Instant deadline{};
    std::shared_ptr<Window> window{};
    std::vector<std::uint32_t> partitions{};  ///< of each event, where there are partitions
    std::vector<State> states{};
    Outcomes outcomes{};
    std::size_t open = 0;
    std::promise<Outcomes> promise{};

    [[nodiscard]] const std::string& subject(std::size_t index) const {
      return window->subjects[partitions.empty() ? 0 : partitions[index]];
    }
  };

  /// Enters events, each for its partition where there are partitions. The future is ready at once when there are none.
  std::shared_ptr<Batch> enter(std::size_t count, std::shared_ptr<Window> window, Instant deadline,
                               std::vector<std::uint32_t> partitions = {});

  enum class Place : std::uint8_t { taken, late, unusable };
  /// Waits for a place in the window, and among the bytes that wait to be sent, and takes it. Gives up at the batch's deadline
  /// and when `usable` says no.
  Place take_place(Batch& batch, std::size_t index, std::size_t bytes, const std::function<bool()>& usable);

  /// An event with a place, laid out, and the connection it is for.
  struct Letter {
    std::shared_ptr<Batch> batch{};  ///< empty when it has its outcome and is not to be sent any more
    std::size_t index = 0;
    std::size_t bytes = 0;
    MessageHandle message{};
    std::shared_ptr<Connection> connection{};
  };
  /// From now on they count as sent, except those that have their outcome by now. As many from the first on as may go: to a
  /// subject whose refusals are being counted nothing may, so that one at the head is waited for until it may, or has its
  /// outcome. Returns how many; none of none.
  std::size_t depart(std::span<Letter> letters);

  void settle(std::uint64_t token, Outcome outcome);
  /// Everything of a batch from `index` on that is not sent.
  void settle_waiting(Batch& batch, std::size_t index, const Outcome& outcome);
  /// Everything that has a place: the connection is gone, and the answers with it.
  void settle_sent(const Outcome& outcome);
  /// Everything of a publisher.
  void settle_all(const Window& window);
  /// What is past its deadline.
  void sweep(Instant now);
  /// Waits until there is something that may come to be past its deadline, and a little longer.
  void wait_to_sweep(milliseconds tick, const std::stop_token& stop);

  /// The connection's number for `deny`; it ends with `settle_sent`.
  [[nodiscard]] std::uint64_t connection() const;
  /// The server refused one event of the subject, and does not say which; see Refusals.
  void deny(std::uint64_t connection, const std::string& subject, const std::string& words);
  /// Whether only a new connection tells what was refused.
  [[nodiscard]] bool stuck(Instant now) const;

  void mark_unrouted(std::uint64_t token);
  struct Unrouted {
    std::uint64_t token = 0;
    std::shared_ptr<Window> window{};
    const std::string* subject = nullptr;  ///< of the window
  };
  /// What is marked and not settled.
  std::vector<Unrouted> unrouted() const;

  [[nodiscard]] bool idle() const;
  /// Lets those who wait for a place look again.
  void wake();

 private:
  using Batches = std::map<std::uint64_t, std::shared_ptr<Batch>>;
  Batches::iterator find(std::uint64_t token);
  /// The server has said something of an event.
  void answered_locked(const std::string& subject, std::vector<std::shared_ptr<Batch>>& complete);
  /// Everything that was sent to it was refused.
  void conclude_locked(const std::string& subject, std::vector<std::shared_ptr<Batch>>& complete);
  /// True when that was the batch's last.
  bool settle_locked(Batch& batch, std::size_t index, Outcome outcome);
  template <class Choose>
  void settle_where(const Choose& choose);

  mutable std::mutex mutex_;
  std::condition_variable room_;
  std::condition_variable_any entered_;
  int waiting_ = 0;
  std::size_t placed_bytes_ = 0;  ///< of those that have a place and have not departed
  std::uint64_t next_ = 1;
  std::size_t unrouted_ = 0;
  Batches batches_;
  Refusals refusals_;
  std::unordered_map<std::uint64_t, std::string> late_;  ///< what has its outcome and no answer, with its subject
};

}  // namespace penstock::beacon
