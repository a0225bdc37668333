// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/envelope.hpp"
#include "penstock/publisher.hpp"
#include "penstock/random.hpp"
#include "penstock/testing/memory_broker.hpp"

namespace penstock::testing::memory {

using TimePoint = Clock::TimePoint;

/// A stored message; never changes and lives as long as its channel.
struct Record {
  Wire wire{};
  std::uint64_t sequence = 0;  ///< over all partitions of the channel
};
using Partition = std::vector<std::shared_ptr<const Record>>;

/// How far a group has come in one partition: what was delivered, settled, waits to be delivered again.
class Progress {
 public:
  /// Delayed messages whose time has come join those that are ready.
  void ripen(TimePoint now);
  [[nodiscard]] bool available(std::uint64_t end) const { return !ready_.empty() || next() < end; }
  struct Taken {
    std::uint64_t offset = 0;
    std::uint32_t deliveries = 0;
  };
  /// The lowest offset that may be delivered. Only when `available`.
  Taken take();
  void settle(std::uint64_t offset);
  void give_back(std::uint64_t offset);
  void delay(std::uint64_t offset, TimePoint due);
  [[nodiscard]] std::optional<TimePoint> next_due() const;
  [[nodiscard]] std::uint64_t settled() const { return settled_; }

 private:
  struct Slot {
    std::uint32_t deliveries = 0;
    bool settled = false;
  };
  [[nodiscard]] std::uint64_t next() const { return base_ + slots_.size(); }
  [[nodiscard]] Slot& slot(std::uint64_t offset) { return slots_[offset - base_]; }

  std::uint64_t base_ = 0;  ///< everything below is settled
  std::deque<Slot> slots_;  ///< of the offsets delivered at least once, from `base_`
  std::uint64_t settled_ = 0;
  std::set<std::uint64_t> ready_;
  std::multimap<TimePoint, std::uint64_t> delayed_;
};

struct Group;

/// One source that is open. Its receipts are tags that only rise; those of deliveries taken from it are dead.
struct Member {
  Group* group = nullptr;
  std::size_t prefetch = 0;
  bool paused = false;
  std::vector<std::size_t> partitions;
  struct Flight {
    std::size_t partition = 0;
    std::uint64_t offset = 0;
    bool settled = false;
  };
  std::deque<Flight> flights;
  std::uint64_t first_tag = 1;  ///< of flights.front()
  std::size_t unsettled = 0;
};

struct Group {
  std::vector<Member*> members;  ///< in the order they joined
  std::vector<Progress> progress;
};

/// A message on its way to a member.
struct Delivery {
  const Record* record = nullptr;
  std::size_t partition = 0;
  std::uint64_t offset = 0;
  std::uint32_t deliveries = 0;
  std::uint64_t tag = 0;
};

/// A channel: its partitions, the groups that read it and the faults it is to show.
/// Thread safety: any thread. Lifetime: shared by the broker, its publishers and its sources.
class ChannelState {
 public:
  ChannelState(std::string name, const MemoryBrokerOptions& options, bool down);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  void declare(int partitions);
  Outcomes store(std::vector<std::optional<Wire>> wires, Outcomes outcomes);
  void put(Wire wire);
  [[nodiscard]] Partition stored() const;
  [[nodiscard]] std::size_t pending(const std::string& group) const;
  [[nodiscard]] bool wait_settled(const std::string& group, std::chrono::milliseconds patience);
  [[nodiscard]] std::string describe() const;

  void set_down(bool down);
  void fail_next(std::size_t count, Outcome::Status status);
  void lose_acks(std::size_t count);
  void set_faults(const MemoryFaults& faults);
  void rebalance(const std::string& group);

  void join(Member& member, const std::string& group);
  void leave(Member& member);
  void pause(Member& member, bool paused);
  /// Adds to `deliveries`, which are none.
  void poll(Member& member, std::size_t max, TimePoint until, std::vector<Delivery>& deliveries);
  void ack(Member& member, std::uint64_t tag);
  void ack(Member& member, std::span<const Message* const> messages);
  void retry(Member& member, std::uint64_t tag, std::chrono::milliseconds delay);

 private:
  Outcome store_one(Wire&& wire);
  Outcome::Status next_status(bool& stored);
  void append(Wire&& wire);
  [[nodiscard]] std::size_t partition_of(const Wire& wire);
  [[nodiscard]] std::size_t pick(std::size_t count) { return static_cast<std::size_t>(random_->next() % count); }
  [[nodiscard]] bool happens(double chance) { return chance > 0 && random_->unit() < chance; }
  [[nodiscard]] std::uint64_t stored_count() const;
  [[nodiscard]] std::size_t pending_locked(const std::string& group) const;
  void share(Group& group);
  static void cut(Member& member);
  void take(Member& member, std::size_t max, std::vector<Delivery>& deliveries);
  [[nodiscard]] static bool live(const Member& member, std::uint64_t tag);
  void ack_locked(Member& member, std::uint64_t tag);
  Member::Flight settle(Member& member, std::uint64_t tag);

  const std::string name_;
  Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unique_ptr<Random> random_;
  bool down_;
  std::vector<Partition> partitions_;  ///< none until declared
  std::uint64_t next_sequence_ = 0;
  std::map<std::string, Group> groups_;
  struct Step {
    std::size_t count = 0;
    Outcome::Status status = Outcome::Status::confirmed;
    bool store = true;  ///< of the next `unknown`
  };
  std::deque<Step> script_;
  std::size_t acks_to_lose_ = 0;
  int settle_waiters_ = 0;
  MemoryFaults faults_;
};

/// `MemoryBroker::source`.
std::unique_ptr<Source> make_source(std::shared_ptr<ChannelState> channel, Clock& clock, MemorySourceOptions options);
/// `MemoryBroker::channel`.
std::shared_ptr<Publisher> make_publisher(std::shared_ptr<ChannelState> channel, std::size_t largest_message);

}  // namespace penstock::testing::memory
