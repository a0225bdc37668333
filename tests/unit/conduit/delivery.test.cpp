// SPDX-License-Identifier: Apache-2.0
#include "conduit/delivery.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace penstock::conduit {
namespace {

using Status = Outcome::Status;
using ::testing::HasSubstr;

TEST(Delivery, OutcomeSaysWhetherTheEventIsStored) {
  struct Row {
    rd_kafka_resp_err_t error;
    rd_kafka_msg_status_t persisted;
    Status expected;
  };
  const std::vector<Row> rows{
      {RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_MSG_STATUS_PERSISTED, Status::confirmed},
      {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::retryable},
      {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::unknown},
      {RD_KAFKA_RESP_ERR__QUEUE_FULL, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::retryable},
      {RD_KAFKA_RESP_ERR__PURGE_QUEUE, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::retryable},
      {RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::unknown},
      {RD_KAFKA_RESP_ERR__FATAL, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::unknown},
      {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::unknown},
      {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::retryable},
      {RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      {RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      {RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      {RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::rejected},
      // A permanent error on a repeated request says nothing of the first one.
      {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::unknown},
  };
  for (const Row& row : rows) {
    const Outcome outcome = outcome_of(row.error, row.persisted);
    EXPECT_EQ(outcome.status, row.expected) << rd_kafka_err2name(row.error);
    EXPECT_EQ(outcome.error.empty(), outcome.confirmed());
    EXPECT_THAT(outcome.error, HasSubstr(outcome.confirmed() ? "" : rd_kafka_err2name(row.error)));
  }
}

TEST(Delivery, ARejectedEventNamesTheRemedy) {
  EXPECT_THAT(outcome_of(RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_MSG_STATUS_NOT_PERSISTED).error,
              HasSubstr("create the topic"));
  EXPECT_THAT(outcome_of(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_MSG_STATUS_NOT_PERSISTED).error,
              HasSubstr("grant"));
}

TEST(Delivery, HeadersKeepOrderRepetitionNullAndEmpty) {
  Event event{.id = "1", .source = "/s", .type = "t"};
  event.headers = {{"a", "1"}, {"b", std::nullopt}, {"a", ""}, {"a", std::string{"\0x", 2}}};
  const RdHeaders made = to_headers(event);
  Headers read;
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  for (std::size_t i = 0; rd_kafka_header_get_all(made.get(), i, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR; ++i) {
    read.push_back({name, value == nullptr ? std::nullopt
                                           : std::optional<std::string>{std::string{static_cast<const char*>(value), size}}});
  }
  EXPECT_EQ(read, encode(event, Binding::kafka).headers);
  event.source = "no uri";
  EXPECT_THROW(to_headers(event), InvalidEvent);
}

// The Java client's values (org.apache.kafka.common.utils.Utils.murmur2).
TEST(Delivery, PartitionOfAKeyIsTheJavaClients) {
  const std::vector<std::pair<std::string, std::int32_t>> hashes{
      {"21", -973932308},
      {"foobar", -790332482},
      {"a-little-bit-long-string", -985981536},
      {"a-little-bit-longer-string", -1486304829},
      {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
      {"abc", 479470107},
  };
  for (const auto& [key, hash] : hashes) {
    for (const std::int32_t partitions : {1, 3, 8, 12, 100}) {
      EXPECT_EQ(rd_kafka_msg_partitioner_murmur2_random(nullptr, key.data(), key.size(), partitions, nullptr, nullptr),
                (hash & 0x7fffffff) % partitions)
          << key;
    }
  }
}

}  // namespace
}  // namespace penstock::conduit
