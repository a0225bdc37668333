// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/consumer_leash.hpp"
#include "core/consumer_queue.hpp"
#include "penstock/consumer.hpp"

namespace penstock {
class BudgetMeter;
}

namespace penstock::consumer {

class Gate;

/// Counters and log of one consumer. Thread safety: any thread.
class Journal {
 public:
  Journal(std::string group, std::shared_ptr<Logger> logger) : group_{std::move(group)}, logger_{std::move(logger)} {}

  std::atomic<std::uint64_t> done{0};
  std::atomic<std::uint64_t> duplicates{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> dead{0};

  void log(LogLevel level, const std::string& text) noexcept;
  void set_last_error(const std::string& error);
  [[nodiscard]] std::string last_error() const;

 private:
  std::string group_;
  std::shared_ptr<Logger> logger_;
  mutable std::mutex mutex_;
  std::string last_error_;
};

/// What is to be done with an entry after a try.
struct Fate {
  enum class Kind : std::uint8_t {
    settled,     ///< done with, or handed back to the broker; forget it
    dropped,     ///< the consumer stops: neither success nor attempt, the broker will deliver it again
    later,       ///< take it again after `delay`
    store_away,  ///< the store cannot be reached; take it again when it is back
    waits        ///< was not begun, since an earlier one of its key is not settled; back to its place
  };
  Kind kind = Kind::settled;
  bool ack = false;  ///< the engine is to acknowledge it
  std::chrono::milliseconds delay{0};
  std::string error{};
};

/// One worker's way of handling messages. Thread safety: one thread. Does not throw for what handlers or stores do.
class Processor {
 public:
  virtual ~Processor() = default;
  virtual Fate process(Entry& entry, const std::stop_token& stop) = 0;
  /// Several, those of a key in their order; in one transaction, as far as they may share one.
  virtual void process_batch(std::span<const EntryPtr> entries, std::span<Fate> fates, const std::stop_token& stop);
  /// Handles one parked message that is due; nothing when there is none. What is not settled stays parked.
  virtual std::optional<Fate> process_due(const std::stop_token& stop) = 0;
};

/// What all workers of a consumer share.
struct Shared {
  Source& source;
  const ConsumerOptions& options;
  const Handler& handler;
  const BatchHandler& batch_handler;  ///< may be empty
  Journal& journal;
  std::string host;
  Solitude& solitude;
  Gate& gate;
  BudgetMeter* budget;  ///< null: retries have no budget
};

/// Failures of messages that wait at the broker, for brokers that do not count. Thread safety: any thread.
class AttemptMemory {
 public:
  struct Record {
    int attempts = 0;
    std::vector<Attempt> history{};
    std::optional<Clock::TimePoint> first{};  ///< empty: nothing is known
    std::optional<std::chrono::milliseconds> previous{};
  };
  void put(const Message& message, Record record);
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  /// Forgets the message and returns what was known.
  Record take(const Message& message);

 private:
  // A message that went to another member is never asked for again; the oldest such records make room.
  static constexpr std::size_t most = 100'000;
  std::atomic<std::size_t> size_{0};
  std::mutex mutex_;
  std::unordered_map<std::string, Record> records_;
  std::deque<std::string> oldest_;
};

/// What a run of the handler came to.
struct Handled {
  Verdict verdict;
  Attempt attempt;
  std::vector<std::string> classes{};  ///< of what was thrown
  std::exception_ptr thrown{};
};
/// Runs a handler; an exception becomes Verdict::retry with its text, after `classify` has seen it (which may throw instead).
Handled run_handler(const Shared& shared, const Message& message, Context& context, const Leash::Run& run,
                    const std::function<void(const std::exception_ptr&)>& classify);
/// What one came to that has returned at last.
Handled handled(const Shared& shared, Verdict verdict, const Context& context, const Leash::Run& run,
                std::chrono::steady_clock::duration took);

/// One line of valid UTF-8, as stores and headers take it.
std::string cleaned(std::string_view error);

/// Acknowledges; what the source throws is logged, as redelivery will settle it.
void acknowledge(const Shared& shared, std::span<const Message* const> messages);

/// For the log: which message, never what is in it.
std::string name_of(const Message& message);

/// "" or why an event could not be stored: ids and keys must be UTF-8 without NUL and fit an index.
std::string identity_defect(const Event& event);

std::unique_ptr<Processor> make_exactly_once(const Shared& shared, Datastore& datastore, Leash& leash);
std::unique_ptr<Processor> make_at_least_once(const Shared& shared, const AtLeastOnce& channels, AttemptMemory& memory,
                                              Leash& leash);

}  // namespace penstock::consumer
