// SPDX-License-Identifier: Apache-2.0
#include "beacon/carriage.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "beacon/names.hpp"

namespace penstock::beacon {
namespace {

/// The client library does not start by itself for messages alone.
struct BeaconCarriage : testing::Test {
  static void SetUpTestSuite() { ASSERT_EQ(nats_Open(-1), NATS_OK); }
};

Event event(Headers headers = {}) {
  return {.id = "1",
          .source = "/shop",
          .type = "shop.order.placed.v1",
          .key = "order 7",
          .data = "{}",
          .headers = std::move(headers)};
}

Event carried(const Event& sent) {
  const auto message = Loader{"orders"}.load(sent, "orders", "_INBOX.x");
  auto arrival = from_message(message.get());
  auto event = read_event(arrival);
  EXPECT_EQ(decode(arrival.wire, Binding::nats), event) << "the wire kept is the event's";
  return event;
}

std::string value_of(natsMsg* message, const char* name) {
  const char* value = nullptr;
  return natsMsgHeader_Get(message, name, &value) == NATS_OK ? value : "";
}

TEST_F(BeaconCarriage, AnEventArrivesAsItWasSent) {
  auto sent = event();
  sent.content_type = "application/json";
  sent.subject = "Euro € 😀";
  sent.extensions.emplace("region", "eu");
  EXPECT_EQ(carried(sent), sent);
}

TEST_F(BeaconCarriage, NullAndEmptyPayloadsStayApart) {
  auto sent = event();
  sent.data = std::nullopt;
  EXPECT_EQ(carried(sent).data, std::nullopt);
  sent.data = "";
  EXPECT_EQ(carried(sent).data, "");
  sent.data = std::string{"\0\r\n\xff", 4};
  EXPECT_EQ(carried(sent).data, sent.data);
}

TEST_F(BeaconCarriage, ForeignHeadersKeepOrderAndRepeats) {
  const auto sent = event({{"z", "1"}, {"a", "2"}, {"z", "3"}, {"M-m", "4"}, {"a", "2"}, {"A", "5"}});
  EXPECT_EQ(carried(sent), sent);
}

TEST_F(BeaconCarriage, HeadersThatNatsWouldBendArriveUntouched) {
  const auto sent = event({{"empty", ""},
                           {"padded", "  x \t"},
                           {"Nats-Rollup", "all"},
                           {"nats-msg-id", "not ours"},
                           {"Status", "503"},
                           {"utf8", "zürich €"},
                           {"control", "a\x01z"},
                           {"Penstock-Headers", "a,b=c!"},
                           {"list", "a,b=c!d%"}});
  EXPECT_EQ(carried(sent), sent);
}

TEST_F(BeaconCarriage, CommandsToTheServerNeverReachIt) {
  const auto sent = event({{"Nats-Rollup", "all"}, {"NATS-Expected-Last-Sequence", "9"}});
  const auto message = Loader{"orders"}.load(sent, "orders", "");
  EXPECT_EQ(value_of(message.get(), "Nats-Rollup"), "");
  EXPECT_EQ(value_of(message.get(), "NATS-Expected-Last-Sequence"), "");
  EXPECT_EQ(value_of(message.get(), "Nats-Msg-Id"), "1:/shop");
  EXPECT_EQ(value_of(message.get(), "Nats-Expected-Stream"), "orders");
}

TEST_F(BeaconCarriage, OneForeignHeaderNeedsNoDirectory) {
  const auto sent = event({{"trace", "1"}, {"trace", "2"}});
  const auto message = Loader{"orders"}.load(sent, "orders", "");
  EXPECT_EQ(value_of(message.get(), "Penstock-Headers"), "");
  EXPECT_EQ(carried(sent), sent);
}

TEST_F(BeaconCarriage, NothingOfAnEventIsLeftForTheNext) {
  Loader loader{"orders"};
  const auto first = event({{"a", "1"}, {"b", "\x01"}});
  auto second = event({{"c", "2"}});
  second.key.clear();
  for (const auto& sent : {first, second, first}) {
    const auto message = loader.load(sent, "orders", "");
    auto arrival = from_message(message.get());
    EXPECT_EQ(read_event(arrival), sent);
  }
  EXPECT_THROW(static_cast<void>(loader.load(event({{"a:b", "1"}}), "orders", "")), InvalidEvent);
  const auto message = loader.load(second, "orders", "");
  auto arrival = from_message(message.get());
  EXPECT_EQ(read_event(arrival), second);
}

TEST_F(BeaconCarriage, AStrangersNatsHeadersAreKept) {
  const auto message = Loader{"orders"}.load(event(), "orders", "");
  ASSERT_EQ(natsMsgHeader_Set(message.get(), "Nats-Msg-Id", "a stranger's"), NATS_OK);
  auto arrival = from_message(message.get());
  const auto read = read_event(arrival);
  const Headers expected{{"Nats-Expected-Stream", "orders"}, {"Nats-Msg-Id", "a stranger's"}};
  EXPECT_EQ(read.headers, expected);
}

TEST_F(BeaconCarriage, ADamagedDirectoryLosesNoOtherHeader) {
  const auto message = Loader{"orders"}.load(event(), "orders", "");
  ASSERT_EQ(natsMsgHeader_Add(message.get(), "a", "1"), NATS_OK);
  ASSERT_EQ(natsMsgHeader_Add(message.get(), "b", "2"), NATS_OK);
  ASSERT_EQ(natsMsgHeader_Set(message.get(), "Penstock-Headers", "%zz,,b,missing,b,c=%1"), NATS_OK);
  auto arrival = from_message(message.get());
  const Headers expected{{"b", "2"}, {"a", "1"}};
  EXPECT_EQ(read_event(arrival).headers, expected);
}

TEST_F(BeaconCarriage, AMessageThatIsNoEventKeepsItsBytes) {
  natsMsg* made = nullptr;
  ASSERT_EQ(natsMsg_Create(&made, "orders", nullptr, "raw", 3), NATS_OK);
  const MessageHandle message{made};
  ASSERT_EQ(natsMsgHeader_Set(made, "Nats-Msg-Id", "7"), NATS_OK);
  auto arrival = from_message(made);
  EXPECT_THROW(read_event(arrival), MalformedMessage);
  EXPECT_EQ(arrival.wire.payload, "raw");
  const Headers expected{{"Nats-Msg-Id", "7"}};
  EXPECT_EQ(arrival.wire.headers, expected);
}

}  // namespace
}  // namespace penstock::beacon
