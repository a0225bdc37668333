// SPDX-License-Identifier: Apache-2.0
#include "conduit/assignment.hpp"

#include <algorithm>
#include <utility>

namespace penstock::conduit {

void Assignment::add(const std::vector<std::int32_t>& partitions) {
  const std::lock_guard lock{mutex_};
  given_ = true;
  for (const std::int32_t number : partitions) {
    Partition fresh;
    fresh.epoch = next_epoch_++;
    partitions_.insert_or_assign(number, std::move(fresh));
  }
}

void Assignment::remove(const std::vector<std::int32_t>& partitions) {
  const std::lock_guard lock{mutex_};
  for (const std::int32_t number : partitions) partitions_.erase(number);
  given_ = false;  // others may follow
}

void Assignment::clear() {
  const std::lock_guard lock{mutex_};
  partitions_.clear();
  given_ = false;
}

void Assignment::set_ends(const Positions& ends) {
  const std::lock_guard lock{mutex_};
  ends_.emplace(ends.begin(), ends.end());
}

bool Assignment::has_ends() const {
  const std::lock_guard lock{mutex_};
  return ends_.has_value();
}

bool Assignment::is_end(std::int32_t partition, std::int64_t offset) const {
  if (!ends_) return false;
  const auto end = ends_->find(partition);
  return end == ends_->end() || offset >= end->second;
}

void Assignment::read_to(std::int32_t partition, std::int64_t offset) {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  if (found != partitions_.end() && !found->second.retry && is_end(partition, offset)) found->second.at_end = true;
}

bool Assignment::finished() const {
  const std::lock_guard lock{mutex_};
  return ends_ && (given_ || !partitions_.empty()) &&
         std::all_of(partitions_.begin(), partitions_.end(), [](const auto& entry) {
           return entry.second.at_end && !entry.second.retry && entry.second.tracker.size() == 0;
         });
}

std::optional<Assignment::Delivery> Assignment::deliver(std::int32_t partition, std::int64_t offset) {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  if (found == partitions_.end() || found->second.retry) return std::nullopt;
  Partition& held = found->second;
  if (is_end(partition, offset)) {
    held.at_end = true;
    return std::nullopt;
  }
  // Going back without having asked for it: the log was cut or the topic made anew. What was known of it is void.
  if (offset <= held.last_read) held.tracker = {};
  held.last_read = offset;
  const std::uint64_t receipt = next_receipt_++;
  if (!held.tracker.deliver(offset, receipt)) return std::nullopt;
  const auto [highest, first] = highest_.try_emplace(partition, offset);
  const bool redelivered = !first && offset <= highest->second;
  highest->second = std::max(highest->second, offset);
  return Delivery{receipt, redelivered};
}

std::uint64_t Assignment::epoch(std::int32_t partition) const {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  return found == partitions_.end() ? 0 : found->second.epoch;
}

bool Assignment::settle(std::int32_t partition, std::int64_t offset, std::uint64_t receipt) {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  if (found == partitions_.end() || !found->second.tracker.settle(offset, receipt)) return false;
  ++changes_;
  changed_.notify_all();
  return true;
}

void Assignment::settle(std::span<const Message* const> messages) {
  const std::lock_guard lock{mutex_};
  for (const Message* message : messages) {
    const auto found = partitions_.find(message->origin.partition);
    if (found != partitions_.end() && found->second.tracker.settle(message->origin.position, message->receipt)) ++changes_;
  }
  changed_.notify_all();
}

bool Assignment::retry(std::int32_t partition, std::int64_t offset, std::uint64_t receipt, TimePoint due) {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  if (found == partitions_.end() || !found->second.tracker.retry(offset, receipt)) return false;
  // Two that wait on one partition come in their order, so the earlier one may have to wait for the later one's time.
  auto& pending = found->second.retry;
  pending = pending ? Retry{std::min(pending->offset, offset), std::max(pending->due, due)} : Retry{offset, due};
  ++changes_;
  changed_.notify_all();
  return true;
}

Assignment::Flow Assignment::flow(bool all_stopped) {
  const std::lock_guard lock{mutex_};
  Flow flow;
  for (auto& [number, partition] : partitions_) {
    const bool stop = all_stopped || partition.retry || partition.at_end || partition.tracker.size() >= most_remembered_;
    if (stop == partition.stopped) continue;
    partition.stopped = stop;
    (stop ? flow.stop : flow.start).push_back(number);
  }
  return flow;
}

void Assignment::flow_failed(const std::vector<std::int32_t>& partitions, bool stopped) {
  const std::lock_guard lock{mutex_};
  for (const std::int32_t number : partitions) {
    if (const auto found = partitions_.find(number); found != partitions_.end()) found->second.stopped = !stopped;
  }
}

Assignment::Positions Assignment::due(TimePoint now) const {
  const std::lock_guard lock{mutex_};
  Positions positions;
  for (const auto& [number, partition] : partitions_) {
    if (partition.retry && partition.retry->due <= now) positions.emplace_back(number, partition.retry->offset);
  }
  return positions;
}

void Assignment::rewound(std::int32_t partition, std::int64_t offset, TimePoint now) {
  const std::lock_guard lock{mutex_};
  const auto found = partitions_.find(partition);
  if (found == partitions_.end() || !found->second.retry) return;
  // Another retry may have come meanwhile, earlier in the log or later in time: then the partition has to go back again.
  if (found->second.retry->offset != offset || found->second.retry->due > now) return;
  found->second.retry.reset();
  found->second.last_read = offset - 1;
  found->second.at_end = false;
  found->second.epoch = next_epoch_++;
}

std::optional<Assignment::TimePoint> Assignment::next_due() const {
  const std::lock_guard lock{mutex_};
  std::optional<TimePoint> next;
  for (const auto& [number, partition] : partitions_) {
    if (partition.retry && (!next || partition.retry->due < *next)) next = partition.retry->due;
  }
  return next;
}

void Assignment::take(std::int32_t number, Partition& partition, Positions& positions) {
  const auto position = partition.tracker.position();
  if (!position || *position == partition.taken) return;
  partition.taken = *position;
  positions.emplace_back(number, *position);
}

Assignment::Positions Assignment::take_moved() {
  const std::lock_guard lock{mutex_};
  Positions positions;
  for (auto& [number, partition] : partitions_) take(number, partition, positions);
  return positions;
}

Assignment::Positions Assignment::take_moved(const std::vector<std::int32_t>& partitions) {
  const std::lock_guard lock{mutex_};
  Positions positions;
  for (const std::int32_t number : partitions) {
    if (const auto found = partitions_.find(number); found != partitions_.end()) take(number, found->second, positions);
  }
  return positions;
}

void Assignment::not_committed(const Positions& positions) {
  const std::lock_guard lock{mutex_};
  for (const auto& [number, position] : positions) {
    const auto found = partitions_.find(number);
    if (found != partitions_.end() && found->second.taken == position) found->second.taken = -1;
  }
}

std::size_t Assignment::in_work_locked(const std::vector<std::int32_t>& partitions) const {
  std::size_t sum = 0;
  for (const std::int32_t number : partitions) {
    if (const auto found = partitions_.find(number); found != partitions_.end()) sum += found->second.tracker.in_work();
  }
  return sum;
}

std::size_t Assignment::in_work(const std::vector<std::int32_t>& partitions) const {
  const std::lock_guard lock{mutex_};
  return in_work_locked(partitions);
}

bool Assignment::wait_settled(const std::vector<std::int32_t>& partitions, TimePoint until) {
  std::unique_lock lock{mutex_};
  return changed_.wait_until(lock, until, [&] { return in_work_locked(partitions) == 0; });
}

bool Assignment::wait_change(TimePoint until) {
  std::unique_lock lock{mutex_};
  return changed_.wait_until(lock, until, [this, seen = changes_] { return changes_ != seen; });
}

}  // namespace penstock::conduit
