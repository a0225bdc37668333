// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "conduit/assignment.hpp"
#include "conduit/client_log.hpp"
#include "conduit/handles.hpp"
#include "conduit/trouble.hpp"
#include "penstock/conduit.hpp"

namespace penstock::conduit {

/// One librdkafka consumer in its group: rebalances, commits, stopping and rewinding of partitions. It is replaced when it
/// dies.
///
/// librdkafka's callbacks only note what happened; `serve` acts on it, outside of librdkafka.
/// Thread safety: one thread. Lifetime: ends the membership, without waiting for the broker, if `leave` was not called.
class GroupMember {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  GroupMember(const ConduitOptions& options, const ConduitSourceOptions& source, const std::string& group, std::string topic,
              Assignment& assignment, ClientLog& log);
  ~GroupMember();
  GroupMember(const GroupMember&) = delete;
  GroupMember& operator=(const GroupMember&) = delete;

  /// The next message, or null. An error is logged and is no message. A rebalance it meets is only noted.
  RdMessage poll(std::chrono::steady_clock::duration wait);
  /// Does what the group wants: gives partitions up, which waits for messages in work, and takes new ones. To be called
  /// between polls, and only while every message that was delivered is in the hands of somebody who can settle it.
  void serve();
  /// A fatal error was met: the member is of no more use.
  [[nodiscard]] bool dead() const noexcept { return dead_; }

  /// Stops and starts partitions and goes back for retries, as the assignment wants it.
  void steer(bool all_stopped);
  /// Commits what moved, without waiting.
  void commit();
  /// Commits what moved and leaves the group, until the deadline.
  void leave(TimePoint deadline);

 private:
  struct Rebalance {
    rd_kafka_resp_err_t kind = RD_KAFKA_RESP_ERR_NO_ERROR;
    PartitionList partitions{};
  };
  struct Committed {
    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
    PartitionList partitions{};
  };

  static void on_rebalance(rd_kafka_t* client, rd_kafka_resp_err_t kind, rd_kafka_topic_partition_list_t* partitions,
                           void* self);
  static void on_commit(rd_kafka_t* client, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t* partitions, void* self);
  static void on_log(const rd_kafka_t* client, int level, const char* facility, const char* text);
  static Trouble::Judge on_certificate;

  void rebalance(Rebalance event);
  void assigned(rd_kafka_topic_partition_list_t* partitions, bool cooperative);
  void revoked(rd_kafka_topic_partition_list_t* partitions, bool cooperative);
  void find_start(rd_kafka_topic_partition_list_t* partitions);
  bool find_times(rd_kafka_topic_partition_list_t* partitions, TimePoint until);
  void find_ends();
  void give_up(const std::string& why);
  void committed(const Committed& result);
  void commit_and_wait(const Assignment::Positions& positions, TimePoint deadline);
  void handle_error(const rd_kafka_message_t& message);
  /// Makes the client look whether it may fetch again, when it has brought much and has nothing left.
  void hurry_fetching();
  bool close(TimePoint deadline);
  PartitionList list(const std::vector<std::int32_t>& partitions) const;
  PartitionList list(const Assignment::Positions& positions) const;

  const std::string topic_;
  Assignment& assignment_;
  ClientLog& log_;
  std::chrono::milliseconds revoke_timeout_;
  bool from_start_ = false;                  ///< a group without committed offsets begins at the start
  bool from_end_ = false;                    ///< … at the end
  std::optional<std::int64_t> from_time_{};  ///< … at this time, in milliseconds since 1970
  bool until_end_ = false;
  bool leaving_ = false;
  TimePoint leave_by_ = TimePoint::max();  ///< when commits must be done
  bool dead_ = false;
  std::size_t since_hurried_ = 0;  ///< bytes
  std::size_t hurried_ = 0;        ///< partitions, over and over
  std::vector<Rebalance> rebalances_;
  std::vector<Committed> commits_;
  Client client_;
};

}  // namespace penstock::conduit
