// SPDX-License-Identifier: Apache-2.0
#include "beacon/reply.hpp"

#include <gtest/gtest.h>

#include <string>

namespace penstock::beacon {
namespace {

using Status = Outcome::Status;

TEST(BeaconReply, PubAckIsConfirmedAlsoAsDuplicate) {
  EXPECT_TRUE(outcome_of_reply(R"({"stream":"ORD","seq":1})").confirmed());
  EXPECT_TRUE(outcome_of_reply(R"({"stream":"ORD", "seq":18446744073709551615})").confirmed());
  EXPECT_TRUE(outcome_of_reply(R"({"stream":"O\u0052\"D","seq":1})").confirmed());
  EXPECT_TRUE(outcome_of_reply(R"({ "seq" : 1, "stream" : "ORD" })").confirmed());
  EXPECT_TRUE(outcome_of_reply(R"({"stream":"ORD","seq":1,"duplicate":true,"domain":"hub"})").confirmed());
}

TEST(BeaconReply, WhatIsNoPubAckIsUnknown) {
  for (const char* body :
       {"", "{", "null", "[]", "{}", "+OK", R"({"stream":"ORD"})", R"({"stream":"ORD","seq":0})", R"({"stream":1,"seq":1})",
        R"({"stream":"","seq":0})", R"({"stream":"ORD","seq":})", R"({"stream":"ORD","seq":1)", R"({"stream":"ORD","seq":1}})",
        R"({"stream":"ORD","seq":-1})", R"({"stream":"ORD","seq":18446744073709551616})", R"({"stream":"ORD","seq":"1"})",
        R"({"error":"text"})", "\xff\xfe"}) {
    EXPECT_EQ(outcome_of_reply(body).status, Status::unknown) << body;
  }
}

struct Refusal {
  int code;
  int err_code;
  Status status;
};

TEST(BeaconReply, RefusalsByCode) {
  const Refusal table[] = {
      {400, 10054, Status::rejected},   // message size exceeds maximum
      {400, 10060, Status::rejected},   // expected stream does not match
      {404, 10059, Status::rejected},   // stream not found
      {503, 10039, Status::rejected},   // JetStream not enabled for account
      {503, 10076, Status::rejected},   // JetStream not enabled
      {400, 10109, Status::rejected},   // sealed stream
      {400, 10071, Status::rejected},   // wrong last sequence
      {400, 99999, Status::rejected},   // something newer
      {503, 10077, Status::retryable},  // store failed: maximum bytes exceeded, disk full
      {400, 10002, Status::retryable},  // resource limits exceeded for account
      {503, 10023, Status::retryable},  // insufficient resources
      {500, 10028, Status::retryable},  // memory
      {500, 10047, Status::retryable},  // storage
      {503, 10008, Status::retryable},  // temporarily unavailable
      {500, 10009, Status::retryable},  // not the leader
      {500, 99999, Status::retryable},  // something newer
  };
  for (const auto& [code, err_code, status] : table) {
    const auto outcome = outcome_of_reply(R"({"error":{"code":)" + std::to_string(code) + R"(,"err_code":)" +
                                          std::to_string(err_code) + R"(,"description":"because"},"stream":"ORD","seq":0})");
    EXPECT_EQ(outcome.status, status) << err_code;
    EXPECT_NE(outcome.error.find("because"), std::string::npos);
    EXPECT_NE(outcome.error.find(std::to_string(err_code)), std::string::npos);
  }
}

TEST(BeaconReply, SendsByStatus) {
  EXPECT_EQ(outcome_of_send(NATS_MAX_PAYLOAD, "").status, Status::rejected);
  EXPECT_EQ(outcome_of_send(NATS_NO_SERVER_SUPPORT, "").status, Status::rejected);
  EXPECT_EQ(outcome_of_send(NATS_INVALID_SUBJECT, "").status, Status::rejected);
  EXPECT_EQ(outcome_of_send(NATS_CONNECTION_CLOSED, "").status, Status::retryable);
  EXPECT_EQ(outcome_of_send(NATS_INSUFFICIENT_BUFFER, "").status, Status::retryable);
  EXPECT_EQ(outcome_of_send(NATS_TIMEOUT, "").status, Status::unknown);
  EXPECT_EQ(outcome_of_send(NATS_IO_ERROR, "").status, Status::unknown);
  EXPECT_EQ(outcome_of_send(NATS_NO_MEMORY, "").status, Status::unknown);
  EXPECT_FALSE(outcome_of_send(NATS_IO_ERROR, "").error.empty());
}

TEST(BeaconReply, DeliveriesFromTheAckSubject) {
  const auto delivery = delivery_of("$JS.ACK.ORD.group.3.41.77.1700000000000000000.5");
  ASSERT_TRUE(delivery);
  EXPECT_EQ(delivery->deliveries, 3U);
  EXPECT_EQ(delivery->sequence, 41);
  for (const char* newer : {"$JS.ACK.hub.ACCHASH.ORD.group.3.41.77.1700000000000000000.5",
                            "$JS.ACK._.ACCHASH.ORD.group.3.41.77.1700000000000000000.5.token"}) {
    const auto found = delivery_of(newer);
    ASSERT_TRUE(found) << newer;
    EXPECT_EQ(found->deliveries, 3U);
    EXPECT_EQ(found->sequence, 41);
  }
  for (const char* bad : {"", "$JS.ACK.", "$JS.ACK.ORD.group.x.41.77.1.5", "_INBOX.a.b", "$JS.ACK.ORD.group.1.41.77.1"}) {
    EXPECT_FALSE(delivery_of(bad)) << bad;
  }
}

}  // namespace
}  // namespace penstock::beacon
