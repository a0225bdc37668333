// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "conduit/offset_tracker.hpp"
#include "penstock/source.hpp"

namespace penstock::conduit {

/// The partitions a source holds now, and what is to be done with each. Knows nothing of librdkafka: the source asks and acts.
///
/// Thread safety: any thread. Lifetime: the source's.
class Assignment {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Positions = std::vector<std::pair<std::int32_t, std::int64_t>>;

  /// Partitions remember at most so many messages: beyond, one that never settles would make a restart repeat ever more.
  explicit Assignment(std::size_t most_remembered = 20'000) : most_remembered_{most_remembered} {}

  void add(const std::vector<std::int32_t>& partitions);
  void remove(const std::vector<std::int32_t>& partitions);
  void clear();

  /// From now on only what lies before these ends is delivered; nothing of a partition that has none. For good.
  void set_ends(const Positions& ends);
  [[nodiscard]] bool has_ends() const;
  /// The client has read up to there.
  void read_to(std::int32_t partition, std::int64_t offset);
  /// There are ends, partitions were given, and of those held now everything before its end is delivered and settled.
  [[nodiscard]] bool finished() const;

  struct Delivery {
    std::uint64_t receipt = 0;
    bool redelivered = false;
  };
  /// A message that may be handed out now; nothing for one that may not: its partition is gone or waits, or it is settled.
  std::optional<Delivery> deliver(std::int32_t partition, std::int64_t offset);
  /// Changes whenever the partition starts over at another place; 0 when it is not held. A message read under another epoch
  /// is out of its order.
  [[nodiscard]] std::uint64_t epoch(std::int32_t partition) const;
  bool settle(std::int32_t partition, std::int64_t offset, std::uint64_t receipt);
  void settle(std::span<const Message* const> messages);
  bool retry(std::int32_t partition, std::int64_t offset, std::uint64_t receipt, TimePoint due);

  /// Partitions that want to be stopped or started again, compared with what was asked before.
  struct Flow {
    std::vector<std::int32_t> stop{};
    std::vector<std::int32_t> start{};
  };
  Flow flow(bool all_stopped);
  /// Undoes what `flow` noted when the client did not do it.
  void flow_failed(const std::vector<std::int32_t>& partitions, bool stopped);

  /// Partitions whose retry is due, with the offset to go back to. The partition waits until `rewound` says, with the same
  /// time, that it is done.
  Positions due(TimePoint now) const;
  void rewound(std::int32_t partition, std::int64_t offset, TimePoint now);
  /// When the next retry is due.
  [[nodiscard]] std::optional<TimePoint> next_due() const;

  /// Positions that moved since they were last taken, of some partitions or all.
  Positions take_moved();
  Positions take_moved(const std::vector<std::int32_t>& partitions);
  /// They could not be committed: `take_moved` gives them again.
  void not_committed(const Positions& positions);

  [[nodiscard]] std::size_t in_work(const std::vector<std::int32_t>& partitions) const;
  /// Waits until none of these partitions has a message in work; false when `until` came first.
  bool wait_settled(const std::vector<std::int32_t>& partitions, TimePoint until);
  /// Waits for a message to be settled or sent back; false when `until` came first.
  bool wait_change(TimePoint until);

 private:
  struct Retry {
    std::int64_t offset = 0;
    TimePoint due{};
  };
  struct Partition {
    OffsetTracker tracker{};
    std::optional<Retry> retry{};
    std::int64_t last_read = -1;
    std::uint64_t epoch = 0;
    std::int64_t taken = -1;  ///< the position last given out for commit
    bool stopped = false;     ///< what the client was told
    bool at_end = false;
  };

  [[nodiscard]] bool is_end(std::int32_t partition, std::int64_t offset) const;
  std::size_t in_work_locked(const std::vector<std::int32_t>& partitions) const;
  void take(std::int32_t number, Partition& partition, Positions& positions);

  const std::size_t most_remembered_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::int32_t, Partition> partitions_;
  std::map<std::int32_t, std::int64_t> highest_;  ///< delivered ever, by this source: what tells a redelivery
  std::optional<std::map<std::int32_t, std::int64_t>> ends_;
  bool given_ = false;  ///< partitions, perhaps none, and not taken away since
  std::uint64_t next_receipt_ = 1;
  std::uint64_t next_epoch_ = 1;
  std::uint64_t changes_ = 0;
};

}  // namespace penstock::conduit
