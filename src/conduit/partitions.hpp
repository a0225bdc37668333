// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conduit/handles.hpp"

namespace penstock::conduit {

/// The topics of one producer client, and in which of their partitions it has stored something.
///
/// A broker refuses a batch whose sequence number does not follow the one before from the same client, and so whatever is
/// behind a refused batch; but of a client it has nothing from it takes any number as the first. Until a partition is `proved`,
/// nothing of a key may be on its way behind another event of that key.
///
/// Thread safety: none, but for what librdkafka calls. Lifetime: `release` before the client ends, destroyed after it.
class Partitions {
 public:
  /// Null if librdkafka takes no such topic.
  rd_kafka_topic_t* handle(rd_kafka_t* client, const std::string& topic);
  /// Whether the client has stored something in the partition of that key. False also while the partition is unknown.
  [[nodiscard]] bool proved(const std::string& topic, const std::string& key) const;
  /// The broker has confirmed the message.
  void prove(const rd_kafka_message_t& message);
  void release();

 private:
  using Partitioner = int32_t (*)(const rd_kafka_topic_t*, const void*, size_t, int32_t, void*, void*);
  struct Topic {
    RdTopic handle{};
    Partitioner partitioner = nullptr;
    std::atomic<int32_t> partitions = 0;  ///< as the partitioner was last told, on any thread
    std::vector<bool> proved{};
  };
  static int32_t place(const rd_kafka_topic_t* handle, const void* key, size_t size, int32_t partitions, void* topic,
                       void* message);
  static Partitioner configured(rd_kafka_topic_conf_t* conf);

  std::map<std::string, std::unique_ptr<Topic>, std::less<>> topics_;
};

}  // namespace penstock::conduit
