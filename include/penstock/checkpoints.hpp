// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "penstock/export.hpp"

namespace penstock {

/// How far a group with a PostgresDatastore came on a partition; a row of the view `checkpoint_status`.
struct Checkpoint {
  std::string group{};
  std::string channel{};
  std::int32_t partition = 0;  ///< -1 where the backend has none
  std::int64_t position = -1;  ///< the highest settled offset (Kafka) or stream sequence (NATS); -1 where there is none
  std::int64_t settled = 0;    ///< messages settled since the group began
  std::string updated_at{};    ///< RFC 3339, by the database's clock
};

struct SeekRequest {
  std::string group{};
  std::string channel{};
  std::int32_t partition = 0;
  std::int64_t position = -1;  ///< what is to count as settled last; -1: nothing yet
  std::string who{};           ///< required, kept in the audit trail
  std::string why{};           ///< required, likewise
  /// A group that has settled something on the partition so recently is at work, and the seek is refused.
  std::chrono::milliseconds quiet{30'000};
};

/// Reads and moves the checkpoints that consumers write beside their effects. They are for people and for lag: what a consumer
/// is delivered is decided by the broker, so a seek moves no delivery by itself. Beside it, with the group stopped:
///
///   Kafka     move the group's committed offsets (`kafka-consumer-groups --reset-offsets`); the next member begins there
///   NATS      make the durable consumer anew, to begin at the sequence
///   RabbitMQ  there is nothing to seek: what was acknowledged is gone
///
/// Moving back brings deliveries that the inbox knows, and they are ignored: an effect is not had twice by a seek. Moving
/// forward skips what lies between, for good.
///
/// Each call connects by itself and throws libpqxx's exceptions. Thread safety: any thread. Lifetime: a value.
class PENSTOCK_EXPORT Checkpoints {
 public:
  /// Does not connect. Throws std::invalid_argument for a bad schema name.
  explicit Checkpoints(std::string url, std::string schema = "penstock");

  /// All, by group, channel and partition.
  [[nodiscard]] std::vector<Checkpoint> list() const;
  /// Moves one, in one transaction with a row in the audit trail (outcome 'seek'); returns the position it had. Throws
  /// std::runtime_error while the group is at work, as far as its checkpoint shows it, and std::invalid_argument, which names
  /// field, value and remedy, for a group that never settled anything there.
  std::int64_t seek(const SeekRequest& request) const;

 private:
  std::string url_;
  std::string schema_;
};

}  // namespace penstock
