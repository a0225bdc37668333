// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <string>

namespace penstock::conduit {

template <auto Function>
struct Deleter {
  template <class T>
  void operator()(T* handle) const noexcept {
    Function(handle);
  }
};

using Conf = std::unique_ptr<rd_kafka_conf_t, Deleter<rd_kafka_conf_destroy>>;
using Queue = std::unique_ptr<rd_kafka_queue_t, Deleter<rd_kafka_queue_destroy>>;
using RdEvent = std::unique_ptr<rd_kafka_event_t, Deleter<rd_kafka_event_destroy>>;
using RdMessage = std::unique_ptr<rd_kafka_message_t, Deleter<rd_kafka_message_destroy>>;
using RdHeaders = std::unique_ptr<rd_kafka_headers_t, Deleter<rd_kafka_headers_destroy>>;
using RdTopic = std::unique_ptr<rd_kafka_topic_t, Deleter<rd_kafka_topic_destroy>>;
using RdError = std::unique_ptr<rd_kafka_error_t, Deleter<rd_kafka_error_destroy>>;
using PartitionList = std::unique_ptr<rd_kafka_topic_partition_list_t, Deleter<rd_kafka_topic_partition_list_destroy>>;

/// Ends a client without waiting for the group or for messages. Every handle made from it must be gone before.
struct DestroyClient {
  void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE); }
};
using Client = std::unique_ptr<rd_kafka_t, DestroyClient>;

/// librdkafka's words for an error, with its name: "Broker: Unknown topic or partition (UNKNOWN_TOPIC_OR_PART)".
inline std::string describe(rd_kafka_resp_err_t error) {
  return std::string{rd_kafka_err2str(error)} + " (" + rd_kafka_err2name(error) + ")";
}
inline std::string describe(const rd_kafka_error_t* error) { return describe(rd_kafka_error_code(error)); }

/// A wait as librdkafka takes it.
inline int timeout_ms(std::chrono::steady_clock::duration wait) {
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  return static_cast<int>(std::clamp<std::chrono::milliseconds::rep>(milliseconds, 0, std::numeric_limits<int>::max()));
}

/// As long as anybody waits: keeps the sum with a clock's time from overflowing.
inline std::chrono::milliseconds bounded(std::chrono::milliseconds wait) {
  return std::clamp(wait, std::chrono::milliseconds{0}, std::chrono::milliseconds{std::chrono::hours{24 * 365}});
}

}  // namespace penstock::conduit
