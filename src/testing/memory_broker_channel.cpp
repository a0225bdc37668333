// SPDX-License-Identifier: Apache-2.0
#include "testing/memory_broker_channel.hpp"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <stdexcept>
#include <stop_token>
#include <utility>

namespace penstock::testing::memory {
namespace {

// FNV-1a: the same partition for the same key on every machine, unlike std::hash.
std::uint64_t hash(const std::string& text) {
  std::uint64_t value = 14'695'981'039'346'656'037U;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 1'099'511'628'211U;
  return value ^ (value >> 32U);
}

constexpr const char* kDown = "the memory broker is down; send it again";

}  // namespace

ChannelState::ChannelState(std::string name, const MemoryBrokerOptions& options, bool down)
    : name_{std::move(name)}, clock_{*options.clock}, random_{Random::seeded(options.seed ^ hash(name_))}, down_{down} {}

void ChannelState::declare(int partitions) {
  if (partitions < 1) {
    throw std::invalid_argument{"channel '" + name_ + "' cannot have " + std::to_string(partitions) +
                                " partitions; at least 1"};
  }
  const std::lock_guard lock{mutex_};
  if (!partitions_.empty()) {
    if (partitions_.size() == static_cast<std::size_t>(partitions)) return;
    throw std::runtime_error{"channel '" + name_ + "' exists with " + std::to_string(partitions_.size()) + " partitions, not " +
                             std::to_string(partitions)};
  }
  partitions_.resize(static_cast<std::size_t>(partitions));
  for (auto& [name, group] : groups_) share(group);
  changed_.notify_all();
}

// --- publishing -------------------------------------------------------------------------------------------------------------

Outcomes ChannelState::store(std::vector<std::optional<Wire>> wires, Outcomes outcomes) {
  const std::lock_guard lock{mutex_};
  for (std::size_t i = 0; i < wires.size(); ++i) {
    if (wires[i]) outcomes[i] = store_one(std::move(*wires[i]));
  }
  changed_.notify_all();
  return outcomes;
}

Outcome ChannelState::store_one(Wire&& wire) {
  if (down_) return {Outcome::Status::retryable, kDown};
  if (partitions_.empty()) {
    return {Outcome::Status::rejected, "there is no channel '" + name_ + "'; call MemoryBroker::declare first"};
  }
  bool stored = false;
  const Outcome::Status status = next_status(stored);
  if (stored) append(std::move(wire));
  if (status == Outcome::Status::confirmed) return {status, {}};
  return {status, std::string{"scripted fault: "} + to_string(status)};
}

Outcome::Status ChannelState::next_status(bool& stored) {
  using Status = Outcome::Status;
  if (!script_.empty()) {
    Step& step = script_.front();
    const Status status = step.status;
    stored = status == Status::confirmed || (status == Status::unknown && step.store);
    step.store = !step.store;
    if (--step.count == 0) script_.pop_front();
    return status;
  }
  if (happens(faults_.retryable)) return Status::retryable;
  stored = true;
  if (!happens(faults_.unknown)) return Status::confirmed;
  stored = pick(2) == 0;
  return Status::unknown;
}

void ChannelState::put(Wire wire) {
  const std::lock_guard lock{mutex_};
  if (partitions_.empty()) throw std::logic_error{"there is no channel '" + name_ + "'; call MemoryBroker::declare first"};
  append(std::move(wire));
  changed_.notify_all();
}

void ChannelState::append(Wire&& wire) {
  const std::size_t partition = partition_of(wire);
  partitions_[partition].push_back(std::make_shared<const Record>(Record{std::move(wire), next_sequence_++}));
}

std::size_t ChannelState::partition_of(const Wire& wire) {
  if (partitions_.size() == 1) return 0;
  return wire.key ? static_cast<std::size_t>(hash(*wire.key) % partitions_.size()) : pick(partitions_.size());
}

// --- what tests ask ---------------------------------------------------------------------------------------------------------

Partition ChannelState::stored() const {
  Partition all;
  const std::lock_guard lock{mutex_};
  for (const Partition& partition : partitions_) all.insert(all.end(), partition.begin(), partition.end());
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  return all;
}

std::size_t ChannelState::pending(const std::string& group) const {
  const std::lock_guard lock{mutex_};
  return pending_locked(group);
}

std::size_t ChannelState::pending_locked(const std::string& group) const {
  std::uint64_t settled = 0;
  if (const auto found = groups_.find(group); found != groups_.end()) {
    for (const Progress& progress : found->second.progress) settled += progress.settled();
  }
  return static_cast<std::size_t>(stored_count() - settled);
}

std::uint64_t ChannelState::stored_count() const {
  std::uint64_t stored = 0;
  for (const Partition& partition : partitions_) stored += partition.size();
  return stored;
}

bool ChannelState::wait_settled(const std::string& group, std::chrono::milliseconds patience) {
  std::unique_lock lock{mutex_};
  ++settle_waiters_;
  const bool settled = changed_.wait_for(lock, patience, [&] { return pending_locked(group) == 0; });
  --settle_waiters_;
  return settled;
}

std::string ChannelState::describe() const {
  const std::lock_guard lock{mutex_};
  std::ostringstream text;
  text << name_ << ": " << stored_count() << " stored in " << partitions_.size() << " partitions"
       << (down_ ? ", broker down" : "") << '\n';
  for (const auto& [name, group] : groups_) {
    text << "  group " << name << ": " << pending_locked(name) << " pending, " << group.members.size() << " members\n";
    for (const Member* member : group.members) {
      text << "    member with partitions";
      for (const std::size_t partition : member->partitions) text << ' ' << partition;
      text << ": " << member->unsettled << " unsettled of at most " << member->prefetch << (member->paused ? ", paused" : "")
           << '\n';
    }
  }
  return text.str();
}

// --- faults -----------------------------------------------------------------------------------------------------------------

void ChannelState::set_down(bool down) {
  const std::lock_guard lock{mutex_};
  if (down && !down_) {
    for (auto& [name, group] : groups_) {
      for (Member* member : group.members) cut(*member);
    }
  }
  down_ = down;
  changed_.notify_all();
}

void ChannelState::fail_next(std::size_t count, Outcome::Status status) {
  const std::lock_guard lock{mutex_};
  if (count > 0) script_.push_back({count, status, true});
}

void ChannelState::lose_acks(std::size_t count) {
  const std::lock_guard lock{mutex_};
  acks_to_lose_ += count;
}

void ChannelState::set_faults(const MemoryFaults& faults) {
  const std::lock_guard lock{mutex_};
  faults_ = faults;
}

void ChannelState::rebalance(const std::string& group) {
  const std::lock_guard lock{mutex_};
  if (const auto found = groups_.find(group); found != groups_.end()) {
    std::vector<Member*>& members = found->second.members;
    if (!members.empty()) std::rotate(members.begin(), members.begin() + 1, members.end());
    share(found->second);
  }
  changed_.notify_all();
}

// --- groups -----------------------------------------------------------------------------------------------------------------

void ChannelState::join(Member& member, const std::string& group) {
  const std::lock_guard lock{mutex_};
  member.group = &groups_[group];
  member.group->members.push_back(&member);
  share(*member.group);
  changed_.notify_all();
}

void ChannelState::leave(Member& member) {
  const std::lock_guard lock{mutex_};
  cut(member);
  Group& group = *member.group;
  group.members.erase(std::find(group.members.begin(), group.members.end(), &member));
  member.group = nullptr;
  share(group);
  changed_.notify_all();
}

void ChannelState::share(Group& group) {
  group.progress.resize(partitions_.size());
  for (Member* member : group.members) {
    cut(*member);
    member->partitions.clear();
  }
  if (group.members.empty()) return;
  for (std::size_t i = 0; i < partitions_.size(); ++i) group.members[i % group.members.size()]->partitions.push_back(i);
}

/// The member's connection is gone: what it has not settled is delivered again, and its receipts are dead.
void ChannelState::cut(Member& member) {
  for (const Member::Flight& flight : member.flights) {
    if (!flight.settled) member.group->progress[flight.partition].give_back(flight.offset);
  }
  member.first_tag += member.flights.size();
  member.flights.clear();
  member.unsettled = 0;
}

// --- deliveries -------------------------------------------------------------------------------------------------------------

void ChannelState::pause(Member& member, bool paused) {
  const std::lock_guard lock{mutex_};
  member.paused = paused;
}

void ChannelState::poll(Member& member, std::size_t max, TimePoint until, std::vector<Delivery>& deliveries) {
  std::unique_lock lock{mutex_};
  if (happens(faults_.cut)) {
    cut(member);
    changed_.notify_all();
  }
  for (;;) {
    TimePoint wake = until;
    const TimePoint now = clock_.now();
    if (!down_ && !member.paused && member.unsettled < member.prefetch) {
      for (const std::size_t partition : member.partitions) member.group->progress[partition].ripen(now);
      take(member, std::min(max, member.prefetch - member.unsettled), deliveries);
      for (const std::size_t partition : member.partitions) {
        wake = std::min(wake, member.group->progress[partition].next_due().value_or(wake));
      }
    }
    if (!deliveries.empty() || now >= until) return;
    clock_.wait_until(changed_, lock, wake, std::stop_token{});
  }
}

void ChannelState::take(Member& member, std::size_t max, std::vector<Delivery>& deliveries) {
  std::vector<std::size_t> open;
  for (const std::size_t partition : member.partitions) {
    if (member.group->progress[partition].available(partitions_[partition].size())) open.push_back(partition);
  }
  while (deliveries.size() < max && !open.empty()) {
    const std::size_t chosen = open.size() == 1 ? 0 : pick(open.size());
    const std::size_t partition = open[chosen];
    Progress& progress = member.group->progress[partition];
    const Progress::Taken taken = progress.take();
    deliveries.push_back({partitions_[partition][taken.offset].get(), partition, taken.offset, taken.deliveries,
                          member.first_tag + member.flights.size()});
    member.flights.push_back({partition, taken.offset, false});
    ++member.unsettled;
    if (!progress.available(partitions_[partition].size())) open.erase(open.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
}

bool ChannelState::live(const Member& member, std::uint64_t tag) {
  return tag >= member.first_tag && tag - member.first_tag < member.flights.size() &&
         !member.flights[static_cast<std::size_t>(tag - member.first_tag)].settled;
}

/// Takes the delivery of a live receipt out of the member's hands.
Member::Flight ChannelState::settle(Member& member, std::uint64_t tag) {
  Member::Flight& flight = member.flights[static_cast<std::size_t>(tag - member.first_tag)];
  flight.settled = true;
  const Member::Flight settled = flight;
  // A poll may be waiting at the bound for exactly this.
  if (member.unsettled-- == member.prefetch) changed_.notify_all();
  while (!member.flights.empty() && member.flights.front().settled) {
    member.flights.pop_front();
    ++member.first_tag;
  }
  return settled;
}

void ChannelState::ack(Member& member, std::uint64_t tag) {
  const std::lock_guard lock{mutex_};
  ack_locked(member, tag);
}

void ChannelState::ack(Member& member, std::span<const Message* const> messages) {
  const std::lock_guard lock{mutex_};
  for (const Message* message : messages) ack_locked(member, message->receipt);
}

void ChannelState::ack_locked(Member& member, std::uint64_t tag) {
  if (down_ || !live(member, tag)) return;
  if (acks_to_lose_ > 0 || happens(faults_.lost_ack)) {
    if (acks_to_lose_ > 0) --acks_to_lose_;
    cut(member);
    changed_.notify_all();
    return;
  }
  const Member::Flight flight = settle(member, tag);
  member.group->progress[flight.partition].settle(flight.offset);
  if (settle_waiters_ > 0) changed_.notify_all();
}

void ChannelState::retry(Member& member, std::uint64_t tag, std::chrono::milliseconds delay) {
  const std::lock_guard lock{mutex_};
  if (down_ || !live(member, tag)) return;
  const Member::Flight flight = settle(member, tag);
  member.group->progress[flight.partition].delay(flight.offset, clock_.now() + delay);
  changed_.notify_all();
}

// --- Progress ---------------------------------------------------------------------------------------------------------------

void Progress::ripen(TimePoint now) {
  while (!delayed_.empty() && delayed_.begin()->first <= now) {
    ready_.insert(delayed_.begin()->second);
    delayed_.erase(delayed_.begin());
  }
}

Progress::Taken Progress::take() {
  std::uint64_t offset = next();
  if (ready_.empty()) {
    slots_.push_back({});
  } else {
    offset = *ready_.begin();
    ready_.erase(ready_.begin());
  }
  return {offset, ++slot(offset).deliveries};
}

void Progress::settle(std::uint64_t offset) {
  slot(offset).settled = true;
  ++settled_;
  while (!slots_.empty() && slots_.front().settled) {
    slots_.pop_front();
    ++base_;
  }
}

void Progress::give_back(std::uint64_t offset) { ready_.insert(offset); }

void Progress::delay(std::uint64_t offset, TimePoint due) { delayed_.emplace(due, offset); }

std::optional<TimePoint> Progress::next_due() const {
  if (delayed_.empty()) return std::nullopt;
  return delayed_.begin()->first;
}

}  // namespace penstock::testing::memory
