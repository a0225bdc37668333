// SPDX-License-Identifier: Apache-2.0
#include "conduit/group_member.hpp"

#include <algorithm>
#include <cstring>
#include <future>
#include <new>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "conduit/properties.hpp"

namespace penstock::conduit {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kSlice = 100ms;
constexpr auto kCommitWait = 5s;  ///< longest wait for a commit while partitions are given up
constexpr auto kCommitPause = 50ms;
constexpr auto kOffsetsWait = 5s;  ///< longest wait for committed offsets and for starts and ends of partitions
constexpr auto kSeekWait = 2s;
constexpr auto kDestructorLeave = 1s;
constexpr auto kEndsByItself = 20ms;  ///< usually librdkafka needs about one
constexpr auto kCloseSlice = 5ms;
constexpr std::size_t kMuch = std::size_t{4} << 20U;  ///< bytes
constexpr std::size_t kHurried = 3;                   ///< partitions at a time, whose brokers may be several
constexpr int kHurryMs = 50;
constexpr auto kEndsWithin = 2s;  ///< a client that is closed; usually milliseconds
// From 2.5 on librdkafka aborts the process when a consumer is destroyed while partitions are being handed over (its assertion
// in rd_kafka_cgrp_terminated), so it is given this long to finish, also past a shorter deadline. Usually it takes
// milliseconds.
constexpr int kAbortsFrom = 0x02050000;
constexpr auto kHandover = 5s;

std::vector<std::int32_t> numbers(const rd_kafka_topic_partition_list_t* list) {
  std::vector<std::int32_t> result;
  if (list == nullptr) return result;
  result.reserve(static_cast<std::size_t>(list->cnt));
  for (int i = 0; i < list->cnt; ++i) result.push_back(list->elems[i].partition);
  return result;
}

std::string text(const std::vector<std::int32_t>& partitions) {
  std::string result;
  for (const std::int32_t number : partitions) result += (result.empty() ? "" : ", ") + std::to_string(number);
  return result.empty() ? "none" : result;
}

/// Ends a client. librdkafka waits for ever where the topic was deleted while the client had partitions of it (bare use of 2.0
/// does, too: it loses count of who uses them). Its threads cannot be ended from outside, so in the end they are left behind,
/// idle, for whoever closes must go on. False then.
bool end_client(Client client) {
  std::promise<void> ended;
  std::future<void> end = ended.get_future();
  std::thread thread;
  try {
    thread = std::thread{[client = std::move(client), ended = std::move(ended)]() mutable {
      client.reset();
      ended.set_value();
    }};
  } catch (const std::system_error&) {  // no thread to be had: it has ended here, with what it was given to
    return true;
  }
  if (end.wait_for(kEndsWithin) == std::future_status::ready) {
    thread.join();
    return true;
  }
  thread.detach();
  return false;
}

}  // namespace

GroupMember::GroupMember(const ConduitOptions& options, const ConduitSourceOptions& source, const std::string& group,
                         std::string topic, Assignment& assignment, ClientLog& log)
    : topic_{std::move(topic)}, assignment_{assignment}, log_{log}, revoke_timeout_{bounded(source.revoke_timeout)} {
  Conf conf = consumer_conf(options, source, group);
  // The group gives a rebalance max.poll.interval.ms; a wait must leave time for the commit.
  const std::chrono::milliseconds interval{property_number(conf.get(), "max.poll.interval.ms")};
  revoke_timeout_ = std::min(revoke_timeout_, interval / 2);
  const std::string reset = property_text(conf.get(), "auto.offset.reset");  // by any of its names
  from_end_ = reset == "latest" || reset == "largest" || reset == "end";
  from_start_ = reset == "earliest" || reset == "smallest" || reset == "beginning";
  if (source.start_time) {
    from_time_ = std::chrono::floor<std::chrono::milliseconds>(source.start_time->time_since_epoch()).count();
  }
  until_end_ = source.until_end;
  rd_kafka_conf_set_opaque(conf.get(), this);
  rd_kafka_conf_set_rebalance_cb(conf.get(), &GroupMember::on_rebalance);
  rd_kafka_conf_set_offset_commit_cb(conf.get(), &GroupMember::on_commit);
  rd_kafka_conf_set_log_cb(conf.get(), &GroupMember::on_log);
  Trouble::listen(conf.get(), &GroupMember::on_certificate);
  client_ = make_client(RD_KAFKA_CONSUMER, std::move(conf));
  rd_kafka_poll_set_consumer(client_.get());
  rd_kafka_set_log_queue(client_.get(), nullptr);

  const PartitionList topics{rd_kafka_topic_partition_list_new(1)};
  rd_kafka_topic_partition_list_add(topics.get(), topic_.c_str(), RD_KAFKA_PARTITION_UA);
  const rd_kafka_resp_err_t error = rd_kafka_subscribe(client_.get(), topics.get());
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    throw std::invalid_argument{"cannot subscribe to topic '" + topic_ + "' as group '" + group + "': " + describe(error)};
  }
}

GroupMember::~GroupMember() {
  if (client_) leave(SteadyClock::now() + kDestructorLeave);
}

// --- callbacks: on the polling thread, inside librdkafka; they only note ----------------------------------------------------

void GroupMember::on_rebalance(rd_kafka_t* client, rd_kafka_resp_err_t kind, rd_kafka_topic_partition_list_t* partitions,
                               void* self) {
  auto& member = *static_cast<GroupMember*>(self);
  try {
    member.rebalances_.push_back({kind, PartitionList{rd_kafka_topic_partition_list_copy(partitions)}});
  } catch (const std::bad_alloc&) {
    rd_kafka_assign(client, nullptr);  // an answer must be given, or the group hangs
  }
  rd_kafka_yield(client);
}

void GroupMember::on_commit(rd_kafka_t* client, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t* partitions,
                            void* self) {
  static_cast<void>(client);
  if (partitions == nullptr) return;
  try {
    static_cast<GroupMember*>(self)->commits_.push_back({error, PartitionList{rd_kafka_topic_partition_list_copy(partitions)}});
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the next commit repeats it
  }
}

void GroupMember::on_log(const rd_kafka_t* client, int level, const char* facility, const char* text) {
  if (client == nullptr) return;  // a client that could not be made says so by its error
  static_cast<GroupMember*>(rd_kafka_opaque(client))->log_.relay(level, facility, text);
}

/// On a thread of librdkafka's.
int GroupMember::on_certificate(rd_kafka_t* client, const char* broker, std::int32_t id, int* x509_error, int depth,
                                const char* certificate, std::size_t size, char* why, std::size_t room, void* self) {
  Trouble trouble;
  const int answer = Trouble::note(client, broker, id, x509_error, depth, certificate, size, why, room, &trouble);
  if (answer == 0) static_cast<GroupMember*>(self)->log_.say_rarely(LogLevel::error, "certificate", why);
  return answer;
}

// --- polling ----------------------------------------------------------------------------------------------------------------

RdMessage GroupMember::poll(SteadyClock::duration wait) {
  RdMessage message{rd_kafka_consumer_poll(client_.get(), 0)};
  if (!message && wait > 0s) {
    if (since_hurried_ >= kMuch) hurry_fetching();
    message.reset(rd_kafka_consumer_poll(client_.get(), timeout_ms(wait)));
  }
  if (message) since_hurried_ += message->len;
  if (message && message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
    handle_error(*message);
    message.reset();
  }
  return message;
}

// Nothing else wakes the thread of a broker that has stopped fetching, as its queue was full, than a request to that broker.
void GroupMember::hurry_fetching() {
  since_hurried_ = 0;
  if (refetches_at_once()) return;
  rd_kafka_topic_partition_list_t* found = nullptr;
  if (rd_kafka_assignment(client_.get(), &found) != RD_KAFKA_RESP_ERR_NO_ERROR || found == nullptr) return;
  const PartitionList assigned{found};
  const auto count = static_cast<std::size_t>(assigned->cnt);
  for (std::size_t i = 0; i < std::min(count, kHurried); ++i) {
    const auto& next = assigned->elems[hurried_++ % count];
    std::int64_t low = 0;
    std::int64_t high = 0;
    static_cast<void>(rd_kafka_query_watermark_offsets(client_.get(), next.topic, next.partition, &low, &high, kHurryMs));
  }
}

void GroupMember::serve() {
  while (!commits_.empty()) {
    for (const Committed& result : std::exchange(commits_, {})) committed(result);
  }
  while (!rebalances_.empty()) {
    for (Rebalance& event : std::exchange(rebalances_, {})) rebalance(std::move(event));
  }
}

void GroupMember::handle_error(const rd_kafka_message_t& message) {
  if (message.err == RD_KAFKA_RESP_ERR__PARTITION_EOF) return assignment_.read_to(message.partition, message.offset);
  const char* words = rd_kafka_message_errstr(&message);
  const std::string what = describe(message.err) + ": " + (words == nullptr ? "" : words);
  if (message.err == RD_KAFKA_RESP_ERR__FATAL) {
    dead_ = true;
    log_.say(LogLevel::error, "fatal error, the consumer is made anew: " + what);
    return;
  }
  log_.say_rarely(LogLevel::warn, rd_kafka_err2name(message.err), what);
}

// --- rebalancing ------------------------------------------------------------------------------------------------------------

void GroupMember::rebalance(Rebalance event) {
  const char* protocol = rd_kafka_rebalance_protocol(client_.get());
  const bool cooperative = protocol != nullptr && std::strcmp(protocol, "COOPERATIVE") == 0;
  switch (event.kind) {
    case RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS: assigned(event.partitions.get(), cooperative); return;
    case RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS: revoked(event.partitions.get(), cooperative); return;
    default:
      log_.say(LogLevel::error, "rebalance failed: " + describe(event.kind));
      assignment_.clear();
      rd_kafka_assign(client_.get(), nullptr);
  }
}

void GroupMember::assigned(rd_kafka_topic_partition_list_t* partitions, bool cooperative) {
  if (until_end_ && !leaving_ && !assignment_.has_ends()) find_ends();
  if ((from_start_ || from_end_ || from_time_) && !leaving_) find_start(partitions);
  const std::vector<std::int32_t> added = numbers(partitions);
  assignment_.add(added);
  std::string problem;
  if (cooperative) {
    if (const RdError error{rd_kafka_incremental_assign(client_.get(), partitions)}) problem = describe(error.get());
  } else if (const auto error = rd_kafka_assign(client_.get(), partitions); error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    problem = describe(error);
  }
  if (problem.empty()) {
    log_.say(LogLevel::info, "assigned partitions " + text(added));
  } else {
    assignment_.remove(added);
    log_.say(LogLevel::error, "cannot take partitions " + text(added) + ": " + problem);
  }
}

void GroupMember::revoked(rd_kafka_topic_partition_list_t* partitions, bool cooperative) {
  const std::vector<std::int32_t> lost = numbers(partitions);
  const auto is_lost = [this] { return rd_kafka_assignment_lost(client_.get()) != 0; };
  // Partitions that are ours no more may be another member's already: nothing to wait for and nothing to commit.
  if (!leaving_ && !is_lost()) {
    const auto until = SteadyClock::now() + revoke_timeout_;
    bool settled = assignment_.wait_settled(lost, SteadyClock::now());
    while (!settled && SteadyClock::now() < until && !is_lost()) {
      settled = assignment_.wait_settled(lost, std::min<TimePoint>(until, SteadyClock::now() + kSlice));
    }
    if (!settled) {
      log_.say(LogLevel::warn, std::to_string(assignment_.in_work(lost)) + " messages of partitions " + text(lost) +
                                   " are still in work and will be delivered again elsewhere");
    }
  }
  if (!is_lost()) commit_and_wait(assignment_.take_moved(lost), std::min(leave_by_, SteadyClock::now() + kCommitWait));
  if (is_lost()) {
    log_.say(LogLevel::warn, "the group took partitions " + text(lost) + "; what was not committed will be delivered again");
  }
  assignment_.remove(lost);
  if (cooperative) {
    if (const RdError error{rd_kafka_incremental_unassign(client_.get(), partitions)}) {
      log_.say(LogLevel::warn, "giving up partitions " + text(lost) + ": " + describe(error.get()));
    }
  } else {
    rd_kafka_assign(client_.get(), nullptr);
  }
  log_.say(LogLevel::info, "gave up partitions " + text(lost));
}

/// Finds where each partition starts. Left to librdkafka, it looks up the start of one without a committed offset in the
/// background, and when the partition is given up meanwhile, it goes on to fetch it all the same: given back later, it may
/// bring those messages, which others have handled and committed since.
///
/// Where a group begins at the end or at a time, that place is committed. Otherwise what arrives before the first commit would
/// be skipped when the group begins at the end once more, after a crash or a rebalance.
void GroupMember::find_start(rd_kafka_topic_partition_list_t* partitions) {
  if (partitions->cnt == 0) return;
  const auto until = SteadyClock::now() + kOffsetsWait;
  const rd_kafka_resp_err_t error = rd_kafka_committed(client_.get(), partitions, timeout_ms(kOffsetsWait));
  Assignment::Positions ends;
  for (int i = 0; i < partitions->cnt; ++i) {
    rd_kafka_topic_partition_t& partition = partitions->elems[i];
    const bool unknown = error != RD_KAFKA_RESP_ERR_NO_ERROR || partition.err != RD_KAFKA_RESP_ERR_NO_ERROR;
    partition.err = RD_KAFKA_RESP_ERR_NO_ERROR;
    if (!unknown && partition.offset >= 0) continue;
    partition.offset = RD_KAFKA_OFFSET_INVALID;  // librdkafka asks again, and applies auto.offset.reset
    if (from_time_) {
      if (unknown || SteadyClock::now() >= until) return give_up("cannot ask for the offsets of the group");
      const PartitionList one = list(std::vector<std::int32_t>{partition.partition});
      if (!find_times(one.get(), until)) return give_up("cannot ask for the offsets of a time");
      partition.offset = one->elems[0].offset;
      if (partition.offset >= 0) {
        ends.emplace_back(partition.partition, partition.offset);
        continue;
      }
    }
    std::int64_t low = 0;
    std::int64_t high = 0;
    if (unknown || SteadyClock::now() >= until ||
        rd_kafka_query_watermark_offsets(client_.get(), topic_.c_str(), partition.partition, &low, &high,
                                         timeout_ms(until - SteadyClock::now())) != RD_KAFKA_RESP_ERR_NO_ERROR) {
      continue;
    }
    const bool at_end = from_end_ || from_time_;  // nothing is of that time or later yet
    partition.offset = at_end ? high : low;
    if (at_end) ends.emplace_back(partition.partition, high);
  }
  commit_and_wait(ends, SteadyClock::now() + kCommitWait);
}

/// The first offset of the time or later, for each; RD_KAFKA_OFFSET_END where there is none.
bool GroupMember::find_times(rd_kafka_topic_partition_list_t* partitions, TimePoint until) {
  for (int i = 0; i < partitions->cnt; ++i) partitions->elems[i].offset = *from_time_;
  if (rd_kafka_offsets_for_times(client_.get(), partitions, timeout_ms(until - SteadyClock::now())) !=
      RD_KAFKA_RESP_ERR_NO_ERROR) {
    return false;
  }
  return std::all_of(partitions->elems, partitions->elems + partitions->cnt,
                     [](const rd_kafka_topic_partition_t& partition) { return partition.err == RD_KAFKA_RESP_ERR_NO_ERROR; });
}

/// What the topic holds now is what a source with an end reads, through all rebalances to come.
void GroupMember::find_ends() {
  const auto until = SteadyClock::now() + kOffsetsWait;
  const auto left = [until] { return timeout_ms(std::max<SteadyClock::duration>(until - SteadyClock::now(), 1ms)); };
  const RdTopic topic{rd_kafka_topic_new(client_.get(), topic_.c_str(), nullptr)};
  const rd_kafka_metadata_t* found = nullptr;
  if (!topic || rd_kafka_metadata(client_.get(), 0, topic.get(), &found, left()) != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return give_up("cannot ask for the partitions of the topic");
  }
  const std::unique_ptr<const rd_kafka_metadata_t, Deleter<rd_kafka_metadata_destroy>> metadata{found};
  Assignment::Positions ends;
  for (int i = 0; metadata->topic_cnt == 1 && i < metadata->topics[0].partition_cnt; ++i) {
    const std::int32_t number = metadata->topics[0].partitions[i].id;
    std::int64_t low = 0;
    std::int64_t high = 0;
    if (rd_kafka_query_watermark_offsets(client_.get(), topic_.c_str(), number, &low, &high, left()) !=
        RD_KAFKA_RESP_ERR_NO_ERROR) {
      return give_up("cannot ask for the end of partition " + std::to_string(number));
    }
    ends.emplace_back(number, high);
  }
  assignment_.set_ends(ends);
}

/// Another member will try again, after a while.
void GroupMember::give_up(const std::string& why) {
  log_.say(LogLevel::warn, why + "; the consumer is made anew");
  dead_ = true;
}

// --- commits and flow -------------------------------------------------------------------------------------------------------

void GroupMember::commit() {
  const Assignment::Positions moved = assignment_.take_moved();
  if (moved.empty()) return;
  const rd_kafka_resp_err_t error = rd_kafka_commit(client_.get(), list(moved).get(), 1);
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) return;
  assignment_.not_committed(moved);
  log_.say_rarely(LogLevel::warn, "commit", "cannot commit: " + describe(error));
}

void GroupMember::committed(const Committed& result) {
  Assignment::Positions failed;
  rd_kafka_resp_err_t why = result.error;
  for (int i = 0; i < result.partitions->cnt; ++i) {
    const rd_kafka_topic_partition_t& partition = result.partitions->elems[i];
    if (result.error == RD_KAFKA_RESP_ERR_NO_ERROR && partition.err == RD_KAFKA_RESP_ERR_NO_ERROR) continue;
    if (why == RD_KAFKA_RESP_ERR_NO_ERROR) why = partition.err;
    failed.emplace_back(partition.partition, partition.offset);
  }
  if (failed.empty()) return;
  assignment_.not_committed(failed);
  log_.say_rarely(LogLevel::warn, "commit", "a commit failed and will be repeated: " + describe(why));
}

void GroupMember::commit_and_wait(const Assignment::Positions& positions, TimePoint deadline) {
  if (positions.empty()) return;
  const Queue answer{rd_kafka_queue_new(client_.get())};
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  do {
    // Cooperative members keep partitions through a rebalance; between its two phases the broker takes no commits.
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) std::this_thread::sleep_for(kCommitPause);
    error = rd_kafka_commit_queue(client_.get(), list(positions).get(), answer.get(), nullptr, nullptr);
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
      const RdEvent event{rd_kafka_queue_poll(answer.get(), timeout_ms(deadline - SteadyClock::now()))};
      error = event ? rd_kafka_event_error(event.get()) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
  } while (error == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS && SteadyClock::now() + kCommitPause < deadline);
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) return;
  assignment_.not_committed(positions);
  log_.say_rarely(LogLevel::warn, "last commit", "cannot commit, so messages will be delivered again: " + describe(error));
}

void GroupMember::steer(bool all_stopped) {
  const auto now = SteadyClock::now();
  const Assignment::Positions due = assignment_.due(now);
  if (!due.empty()) {
    const PartitionList targets = list(due);
    const RdError error{rd_kafka_seek_partitions(client_.get(), targets.get(), timeout_ms(kSeekWait))};
    for (int i = 0; i < targets->cnt; ++i) {
      const rd_kafka_topic_partition_t& target = targets->elems[i];
      if (!error && target.err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        assignment_.rewound(target.partition, target.offset, now);
      } else {
        log_.say_rarely(LogLevel::warn, "seek",
                        "cannot go back for a retry yet: " + (error ? describe(error.get()) : describe(target.err)));
      }
    }
  }
  const Assignment::Flow flow = assignment_.flow(all_stopped);
  const auto apply = [this](const std::vector<std::int32_t>& partitions, bool stop) {
    if (partitions.empty()) return;
    const PartitionList which = list(partitions);
    const auto change = stop ? &rd_kafka_pause_partitions : &rd_kafka_resume_partitions;
    std::vector<std::int32_t> failed;
    const rd_kafka_resp_err_t error = change(client_.get(), which.get());
    for (int i = 0; i < which->cnt; ++i) {
      if (error != RD_KAFKA_RESP_ERR_NO_ERROR || which->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        failed.push_back(which->elems[i].partition);
      }
    }
    if (!failed.empty()) assignment_.flow_failed(failed, stop);
  };
  apply(flow.stop, true);
  apply(flow.start, false);
}

// --- the end ----------------------------------------------------------------------------------------------------------------

void GroupMember::leave(TimePoint deadline) {
  if (!client_) return;
  leaving_ = true;
  // What goes into commits must not be missing for leaving: the broker would keep the partitions until the session ends.
  leave_by_ = std::min<TimePoint>(SteadyClock::now() + (deadline - SteadyClock::now()) / 2, SteadyClock::now() + kCommitWait);
  serve();
  if (!dead_) commit_and_wait(assignment_.take_moved(), leave_by_);
  if (!close(deadline)) {
    log_.say(LogLevel::warn, "the group did not let go in time; the broker notices after session.timeout.ms");
  }
  assignment_.clear();
  rebalances_.clear();
  commits_.clear();
  if (!end_client(std::move(client_))) {
    log_.say(LogLevel::error,
             "librdkafka does not end this consumer, as it does when a topic is deleted under it; its idle threads and their "
             "memory stay until the process ends");
  }
}

/// Not rd_kafka_consumer_close: it waits for the broker, and for ever where librdkafka (before 2.4) loses count.
///
/// Closing makes librdkafka ask for the partitions, and it waits for the answer; whatever the answer, it then gives up all.
/// Where it had asked before, it may not wait for an answer any more. Asked for anything in the moment in which it ends, it
/// never replies, or aborts the process, when that is a commit. So it is given a moment to end by itself, and then one answer.
bool GroupMember::close(TimePoint deadline) {
  const Queue queue{rd_kafka_queue_new(client_.get())};
  if (const RdError refused{rd_kafka_consumer_close_queue(client_.get(), queue.get())}) return false;
  const bool may_abort = rd_kafka_version() >= kAbortsFrom;
  const auto until = may_abort ? std::max<TimePoint>(deadline, SteadyClock::now() + kHandover) : deadline;
  std::optional<TimePoint> answer_at;
  while (rd_kafka_consumer_closed(client_.get()) == 0) {
    const auto now = SteadyClock::now();
    if (now >= until) return false;
    if (answer_at && now >= *answer_at) {
      rd_kafka_assign(client_.get(), nullptr);
      answer_at = TimePoint::max();
    }
    const RdEvent event{rd_kafka_queue_poll(queue.get(), timeout_ms(kCloseSlice))};
    const bool asked = event && rd_kafka_event_type(event.get()) == RD_KAFKA_EVENT_REBALANCE;
    if (asked && !answer_at) answer_at = SteadyClock::now() + kEndsByItself;
  }
  return true;
}

PartitionList GroupMember::list(const std::vector<std::int32_t>& partitions) const {
  PartitionList result{rd_kafka_topic_partition_list_new(static_cast<int>(partitions.size()))};
  for (const std::int32_t number : partitions) rd_kafka_topic_partition_list_add(result.get(), topic_.c_str(), number);
  return result;
}

PartitionList GroupMember::list(const Assignment::Positions& positions) const {
  PartitionList result{rd_kafka_topic_partition_list_new(static_cast<int>(positions.size()))};
  for (const auto& [number, offset] : positions) {
    rd_kafka_topic_partition_list_add(result.get(), topic_.c_str(), number)->offset = offset;
  }
  return result;
}

}  // namespace penstock::conduit
