// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "integration/lane_broker.hpp"
#include "penstock/lane.hpp"
#include "support/raw_amqp.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock::lane_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

amqp_table_entry_t header(std::string_view name, std::string_view value) {
  amqp_table_entry_t made{};
  made.key = support::RawAmqp::bytes(name);
  made.value.kind = AMQP_FIELD_KIND_UTF8;
  made.value.value.bytes = support::RawAmqp::bytes(value);
  return made;
}

class LaneReceiving : public LaneTest {
 protected:
  static void store(Lane& lane, const std::string& queue, const std::vector<Event>& sent) {
    for (const Outcome& outcome : lane.channel(queue).publisher->publish(sent, 20s)) {
      ASSERT_TRUE(outcome.confirmed()) << outcome.error;
    }
  }
};

// Each prefix that is in use somewhere, and attributes that are no text.
TEST_F(LaneReceiving, ReadsWhatStrangersWrite) {
  const auto queue = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue});
  support::RawAmqp stranger{url()};
  const std::vector<std::string> prefixes{"cloudEvents_", "cloudEvents:", "ce-", "ce_"};
  for (const std::string& prefix : prefixes) {
    const std::vector<std::string> names{prefix + "specversion", prefix + "id",   prefix + "source", prefix + "type",
                                         prefix + "attempt",     prefix + "last", prefix + "urgent", prefix + "time"};
    std::vector<amqp_table_entry_t> headers{header(names[0], "1.0"), header(names[1], prefix), header(names[2], "/stranger"),
                                            header(names[3], "stranger.spoke.v1")};
    amqp_table_entry_t number = header(names[4], "");
    number.value.kind = AMQP_FIELD_KIND_I64;
    number.value.value.i64 = 42;
    headers.push_back(number);
    amqp_table_entry_t flag = header(names[6], "");
    flag.value.kind = AMQP_FIELD_KIND_BOOLEAN;
    flag.value.value.boolean = 1;
    headers.push_back(flag);
    amqp_table_entry_t time = header(names[7], "");
    time.value.kind = AMQP_FIELD_KIND_TIMESTAMP;
    time.value.value.u64 = 1'795'336'200;
    headers.push_back(time);
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
    properties.delivery_mode = 2;
    properties.content_type = support::RawAmqp::bytes("text/plain");
    properties.headers = {static_cast<int>(headers.size()), headers.data()};
    stranger.publish(queue, properties, "hello");
  }
  const auto source = lane.source(queue);
  source->open("readers", nullptr);
  for (const Message& message : take(*source, prefixes.size())) {
    EXPECT_EQ(message.defect, "");
    EXPECT_THAT(prefixes, ::testing::Contains(message.id()));
    EXPECT_EQ(message.type(), "stranger.spoke.v1");
    EXPECT_EQ(message.event.content_type, "text/plain");
    EXPECT_EQ(message.event.extensions.at("attempt").text(), "42");
    EXPECT_EQ(message.event.extensions.at("urgent").text(), "true");
    EXPECT_EQ(message.event.time, "2026-11-22T08:30:00Z");
    EXPECT_EQ(message.data(), "hello");
    source->ack(message);
  }
  source->close(10s);
}

// RabbitMQ says that the consumer is gone, and the source declares and subscribes again.
TEST_F(LaneReceiving, AQueueDeletedUnderTheConsumerIsDeclaredAndConsumedAgain) {
  const auto queue = ready();
  const auto log = std::make_shared<Memo>();
  Lane lane{{.url = url(), .logger = log}};
  lane.declare({.name = queue});
  const auto source = lane.source(queue);
  source->open("workers", nullptr);
  store(lane, queue, events(2));
  const auto first = take(*source, 2);
  source->ack(first.at(0));
  support::RawAmqp{url()}.remove(queue);
  EXPECT_TRUE(eventually([&] { return log->has("cancelled the consumer"); }));
  source->ack(first.at(1));  // of a queue that is gone: harmless
  const Event sent = event(9);
  EXPECT_TRUE(eventually([&] { return lane.channel(queue).publisher->publish(sent, 5s).confirmed(); }));
  std::set<std::string> ids;
  EXPECT_TRUE(eventually([&] {
    for (const Message& message : source->poll(10, 50ms)) {
      ids.insert(message.id());
      source->ack(message);
    }
    return ids.contains(sent.id);
  }));
  source->close(10s);
}

// A handler that takes three heartbeats costs nothing: the connection lives, the acknowledgement counts.
TEST_F(LaneReceiving, ASlowHandlerKeepsItsConnection) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port()), .heartbeat = 2s}};
  lane.declare({.name = queue});
  store(lane, queue, events(1));
  const auto source = lane.source(queue);
  source->open("slow", nullptr);
  const auto messages = take(*source, 1);
  const int before = wire.accepted();
  std::this_thread::sleep_for(6s);  // the handler at work: nobody calls poll
  source->ack(messages.at(0));
  source->close(10s);
  EXPECT_EQ(wire.accepted(), before);
  support::RawAmqp stranger{url()};
  EXPECT_FALSE(stranger.get(queue, [](const amqp_message_t&) {})) << "the acknowledgement was lost";
}

// A receipt of an earlier channel is ignored. Used as a tag it would close the new channel, or settle another message.
TEST_F(LaneReceiving, AReceiptFromBeforeACutIsIgnored) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  const auto log = std::make_shared<Memo>();
  Lane lane{{.url = url_by(wire.port()), .logger = log}};
  lane.declare({.name = queue});
  const auto sent = events(5);
  store(lane, queue, sent);
  const auto source = lane.source(queue);
  source->open("workers", nullptr);
  const auto stale = take(*source, 5);
  wire.cut();
  const auto again = take(*source, 5);
  for (const Message& message : stale) source->ack(message);
  for (const Message& message : stale) source->retry(message, 0ms);
  EXPECT_TRUE(again.at(0).origin.redelivered);
  EXPECT_EQ(again.at(0).origin.deliveries, 2U);
  for (std::size_t i = 0; i < 4; ++i) source->ack(again.at(i));
  source->close(10s);
  EXPECT_FALSE(log->has("406")) << log->text();
  const auto successor = lane.source(queue);
  successor->open("workers", nullptr);
  const auto rest = take(*successor, 1);
  EXPECT_EQ(rest.at(0).id(), again.at(4).id());
  successor->ack(rest.at(0));
  EXPECT_THAT(successor->poll(10, 300ms), IsEmpty());
  successor->close(10s);
}

// A channel that RabbitMQ closes (there is no such queue) is opened again until it stays.
TEST_F(LaneReceiving, AChannelErrorIsRecoveredFrom) {
  const auto queue = fresh();
  const auto log = std::make_shared<Memo>();
  Lane lane{{.url = url()}};
  const auto source = lane.source(queue);
  source->open("early", log);
  EXPECT_TRUE(eventually([&] { return log->has("404"); }));
  EXPECT_THAT(source->poll(10, 10ms), IsEmpty());
  support::RawAmqp{url()}.declare(queue);
  store(lane, queue, events(3));
  for (const Message& message : take(*source, 3)) source->ack(message);
  source->close(10s);
}

// Not before its delay, others pass, the bytes and the types of its headers stay, the count rises, and no copy is left.
TEST_F(LaneReceiving, ADelayedRetryWaitsAtTheBrokerAndKeepsTheMessage) {
  for (const auto kind : {QueueSpec::Kind::quorum, QueueSpec::Kind::classic}) {
    const auto queue = ready(kind);
    clean_up(queue + ".retry.500");
    clean_up(queue + ".retry.200");
    Lane lane{{.url = url()}};
    lane.declare({.name = queue, .kind = kind});
    amqp_table_entry_t number = header("number", "");
    number.value.kind = AMQP_FIELD_KIND_I32;
    number.value.value.i32 = 7;
    std::vector<amqp_table_entry_t> headers{header("cloudEvents_specversion", "1.0"), header("cloudEvents_id", "late"),
                                            header("cloudEvents_source", "/stranger"), header("cloudEvents_type", "late.v1"),
                                            number};
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_REPLY_TO_FLAG;
    properties.headers = {static_cast<int>(headers.size()), headers.data()};
    properties.reply_to = support::RawAmqp::bytes("answers");
    const std::string body{"\0\xff opaque", 9};
    support::RawAmqp stranger{url()};
    stranger.publish(queue, properties, body);

    const auto source = lane.source(queue, {.prefetch = 1});
    source->open("workers", nullptr);
    const auto first = take(*source, 1);
    ASSERT_EQ(first.size(), 1U);
    const auto start = SteadyClock::now();
    source->retry(first[0], 350ms);
    const auto other = event(1);
    store(lane, queue, {other});
    const auto passed = take(*source, 1);
    EXPECT_EQ(passed.at(0).id(), other.id) << "others pass meanwhile";
    source->ack(passed.at(0));
    const auto second = take(*source, 1);
    EXPECT_GE(SteadyClock::now() - start, 350ms);
    ASSERT_EQ(second.size(), 1U);
    EXPECT_EQ(second[0].wire, first[0].wire);
    EXPECT_EQ(second[0].event, first[0].event);
    EXPECT_EQ(second[0].origin.deliveries, 2U);
    EXPECT_TRUE(second[0].origin.redelivered);
    source->retry(second[0], 150ms);
    const auto third = take(*source, 1);
    EXPECT_EQ(third.at(0).origin.deliveries, 3U);
    EXPECT_EQ(third.at(0).wire, first[0].wire);
    source->retry(third.at(0), 0ms);  // at once
    const auto fourth = take(*source, 1);
    EXPECT_EQ(fourth.at(0).origin.deliveries, 4U);
    source->ack(fourth.at(0));
    EXPECT_THAT(source->poll(10, 300ms), IsEmpty());
    source->close(10s);
  }
}

// Where the copy cannot be stored, the original waits here, unacknowledged, and is given back.
TEST_F(LaneReceiving, ARetryWithoutItsQueueLosesNothing) {
  const auto queue = fresh();
  const auto blocked = queue + ".retry.200";
  clean_up(blocked);
  support::RawAmqp{url()}.declare(blocked);  // with other arguments: cannot be declared as a delay queue
  const auto log = std::make_shared<Memo>();
  Lane lane{{.url = url(), .logger = log}};
  lane.declare({.name = queue});
  store(lane, queue, {event(1)});
  const auto source = lane.source(queue);
  source->open("workers", nullptr);
  const auto first = take(*source, 1);
  const auto start = SteadyClock::now();
  source->retry(first.at(0), 200ms);
  const auto second = take(*source, 1);
  EXPECT_GE(SteadyClock::now() - start, 200ms);
  EXPECT_EQ(second.at(0).id(), first.at(0).id());
  EXPECT_THAT(log->text(), HasSubstr("PRECONDITION_FAILED"));
  source->ack(second.at(0));
  source->close(10s);
}

// RabbitMQ 4 drops after 20 deliveries unless told otherwise; how often is enough is not for the broker to say.
TEST_F(LaneReceiving, NothingIsDroppedForBeingDeliveredOften) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port())}};
  lane.declare({.name = queue});
  store(lane, queue, {event(1)});
  for (std::uint32_t i = 1; i <= 25; ++i) {
    const auto source = lane.source(queue);
    source->open("crashing", nullptr);
    const auto messages = take(*source, 1);
    ASSERT_EQ(messages.size(), 1U);
    EXPECT_EQ(messages[0].origin.deliveries, i);
  }
}

// A quorum queue's own client holds acknowledgements back; a source that closes waits for them.
TEST_F(LaneReceiving, CloseKeepsEveryAcknowledgement) {
  for (const auto kind : {QueueSpec::Kind::quorum, QueueSpec::Kind::classic}) {
    const auto queue = ready(kind);
    Lane lane{{.url = url()}};
    lane.declare({.name = queue, .kind = kind});
    store(lane, queue, events(500));
    const auto source = lane.source(queue, {.prefetch = 500});
    source->open("workers", nullptr);
    for (const Message& message : take(*source, 500)) source->ack(message);
    source->close(20s);
    const auto successor = lane.source(queue);
    successor->open("workers", nullptr);
    EXPECT_THAT(successor->poll(10, 500ms), IsEmpty());
    successor->close(10s);
  }
}

// A queue that RabbitMQ has just made is lost by a crash with all it confirmed, whoever had it made.
TEST_F(LaneReceiving, WhatAQueueMadeAnewConfirmsCountsWhenItWouldSurviveACrash) {
  const auto queue = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue});
  const auto publisher = lane.channel(queue).publisher;
  ASSERT_TRUE(publisher->publish(event(1), patience).confirmed());
  auto source = lane.source(queue);
  source->open("group", nullptr);
  ASSERT_EQ(take(*source, 1).size(), 1U);
  support::RawAmqp{url()}.remove(queue);
  // The source makes it again, over a connection that the publisher knows nothing of.
  ASSERT_TRUE(eventually([&] {
    try {
      support::RawAmqp{url()}.purge(queue);
      return true;
    } catch (const std::exception&) {
      return false;
    }
  })) << "it is not made again";
  const auto start = SteadyClock::now();
  ASSERT_TRUE(eventually([&] { return publisher->publish(event(2), patience).confirmed(); }));
  EXPECT_GE(SteadyClock::now() - start, 2s);
}

TEST_F(LaneReceiving, EnvironmentsShareARabbitmqAndDoNotMeet) {
  const std::string jobs = "jobs-" + uuid7();
  std::vector<std::unique_ptr<Source>> sources;
  for (const char* prefix : {"staging.", "live.", ""}) {
    support::RawAmqp{url()}.declare_as_lane(prefix + jobs, true);
    clean_up(prefix + jobs);
    Lane lane{{.url = url(), .prefix = prefix}};
    lane.declare({.name = jobs});  // finds that one
    const Channel channel = lane.channel(jobs);
    EXPECT_EQ(channel.name, jobs);
    Event made = event(1);
    made.subject = prefix;
    store(lane, jobs, {made});
    sources.push_back(lane.source(jobs));
  }
  for (std::size_t i = 0; i < sources.size(); ++i) {
    Source& source = *sources[i];
    EXPECT_EQ(source.channel(), jobs);
    source.open("workers", nullptr);
    const Message message = take(source, 1).front();
    EXPECT_EQ(message.event.subject, (std::vector<std::string>{"staging.", "live.", ""}[i]));
    EXPECT_EQ(message.origin.channel, jobs);
    source.ack(message);
    EXPECT_THAT(source.poll(1, 100ms), IsEmpty());
    source.close(5s);
  }
}

TEST_F(LaneReceiving, AHigherPriorityComesFirst) {
  const auto queue = fresh("priorities");
  amqp_table_entry_t most{};  // as Lane declares it; declaring it anew would wait
  most.key = support::RawAmqp::bytes("x-max-priority");
  most.value.kind = AMQP_FIELD_KIND_I64;
  most.value.value.i64 = 9;
  support::RawAmqp{url()}.declare(queue, {most});
  Lane lane{{.url = url()}};
  lane.declare({.name = queue, .kind = QueueSpec::Kind::classic, .priorities = 9});
  std::vector<Event> made = events(4);
  made[1].headers = {{"amqp-priority", "5"}};
  made[2].headers = {{"amqp-priority", "9"}};
  store(lane, queue, made);
  const auto source = lane.source(queue);
  source->open("workers", nullptr);
  std::vector<std::string> ids;
  for (const Message& message : take(*source, 4)) {
    ids.push_back(message.id());
    source->ack(message);
  }
  EXPECT_EQ(ids, (std::vector<std::string>{made[2].id, made[1].id, made[0].id, made[3].id}));
  source->close(10s);
  EXPECT_THROW(lane.declare({.name = queue, .kind = QueueSpec::Kind::classic, .priorities = 3}), std::runtime_error);
  EXPECT_THROW(lane.declare({.name = queue, .priorities = 9}), std::invalid_argument) << "a quorum queue has none";
}

TEST_F(LaneReceiving, OnlyOneMemberReceivesWhereASingleActiveConsumerIsAsked) {
  const auto queue = fresh();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue, .single_active_consumer = true});
  auto first = lane.source(queue);
  first->open("workers", nullptr);
  store(lane, queue, events(4));
  const auto held = take(*first, 4);
  const auto second = lane.source(queue);
  second->open("workers", nullptr);
  store(lane, queue, events(4));
  first->pause(true);
  EXPECT_THAT(second->poll(10, 300ms), IsEmpty()) << "a paused member stays the active one";
  first.reset();
  EXPECT_EQ(take(*second, 8).size(), 8U);
  second->close(10s);
}

}  // namespace
}  // namespace penstock::lane_test
