// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <future>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "integration/lane_broker.hpp"
#include "penstock/lane.hpp"
#include "support/raw_amqp.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock::lane_test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Status = Outcome::Status;

class LanePublishing : public LaneTest {};

// What another program finds in the queue: CloudEvents headers as text, and the properties RabbitMQ's tools show.
TEST_F(LanePublishing, AStrangerReadsTheEvent) {
  const auto queue = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue});
  Event sent = event(7);
  sent.time = "2026-11-22T08:30:00Z";
  sent.correlation_id = "story";
  sent.headers = {{"foreign", "1"}, {"nothing", std::nullopt}};
  ASSERT_TRUE(lane.channel(queue).publisher->publish(sent, 20s).confirmed());

  support::RawAmqp stranger{url()};
  std::map<std::string, std::string> headers;
  const bool found = stranger.get(queue, [&](const amqp_message_t& message) {
    EXPECT_EQ(support::RawAmqp::text(message.body), sent.data);
    EXPECT_EQ(message.properties.delivery_mode, 2) << "persistent";
    EXPECT_EQ(support::RawAmqp::text(message.properties.content_type), "application/json");
    EXPECT_EQ(support::RawAmqp::text(message.properties.message_id), sent.id);
    EXPECT_EQ(support::RawAmqp::text(message.properties.type), sent.type);
    EXPECT_EQ(support::RawAmqp::text(message.properties.app_id), sent.source);
    EXPECT_EQ(support::RawAmqp::text(message.properties.correlation_id), "story");
    EXPECT_EQ(message.properties.timestamp, 1'795'336'200U);
    for (int i = 0; i < message.properties.headers.num_entries; ++i) {
      const amqp_table_entry_t& item = message.properties.headers.entries[i];
      const std::string name = support::RawAmqp::text(item.key);
      if (name == "nothing") {
        EXPECT_EQ(item.value.kind, AMQP_FIELD_KIND_VOID);
      } else if (item.value.kind == AMQP_FIELD_KIND_UTF8) {
        headers[name] = support::RawAmqp::text(item.value.value.bytes);
      }
    }
  });
  ASSERT_TRUE(found);
  EXPECT_EQ(headers["cloudEvents_specversion"], "1.0");
  EXPECT_EQ(headers["cloudEvents_id"], sent.id);
  EXPECT_EQ(headers["cloudEvents_partitionkey"], sent.key);
  EXPECT_EQ(headers["foreign"], "1");
}

// Rule 9: an unroutable message is acknowledged all the same, after a return. Only some of a batch may be so.
TEST_F(LanePublishing, Rule9_UnroutableIsRejectedThoughItIsAcked) {
  const auto queue = fresh();
  Lane lane{{.url = url()}};
  const auto channel = lane.channel(queue);
  for (const Outcome& outcome : channel.publisher->publish(events(50), 20s)) {
    EXPECT_EQ(outcome.status, Status::rejected);
    EXPECT_THAT(outcome.error, HasSubstr("312 NO_ROUTE"));
    EXPECT_THAT(outcome.error, HasSubstr(queue));
    EXPECT_THAT(outcome.error, HasSubstr("Lane::declare"));
  }
  lane.declare({.name = queue});
  for (const Outcome& outcome : channel.publisher->publish(events(50), 20s)) EXPECT_TRUE(outcome.confirmed()) << outcome.error;
  support::RawAmqp{url()}.remove(queue);
  EXPECT_EQ(channel.publisher->publish(event(1), 20s).status, Status::rejected);
}

// Rule 9: a window of one, of a few and of many give one outcome per event, and the queue holds each once.
TEST_F(LanePublishing, Rule9_EveryWindowConfirmsEachEventOnce) {
  for (const std::size_t window : {1U, 7U, 5'000U}) {
    const auto queue = ready(QueueSpec::Kind::classic);
    Lane lane{{.url = url(), .window = window}};
    lane.declare({.name = queue, .kind = QueueSpec::Kind::classic});
    const auto sent = events(300);
    for (const Outcome& outcome : lane.channel(queue).publisher->publish(sent, 60s)) {
      ASSERT_TRUE(outcome.confirmed()) << outcome.error;
    }
    support::RawAmqp stranger{url()};
    for (const Event& expected : sent) {
      ASSERT_TRUE(stranger.get(queue, [&](const amqp_message_t& message) {
        EXPECT_EQ(support::RawAmqp::text(message.properties.message_id), expected.id);
      }));
    }
    EXPECT_FALSE(stranger.get(queue, [](const amqp_message_t&) {}));
  }
}

TEST_F(LanePublishing, WrongCredentialsAndVhostAreRetryableWithTheReasonAndWithoutThePassword) {
  const auto log = std::make_shared<Memo>();
  const std::string host = "@127.0.0.1:" + std::to_string(port());
  struct Case {
    std::string url;
    std::string reason;
  };
  for (const Case& wrong : {Case{"amqp://guest:s3cr3t-w0rd" + host + "/%2f", "403"},
                            Case{"amqp://guest:guest" + host + "/no-such-vhost", "no-such-vhost"}}) {
    Lane lane{{.url = wrong.url, .logger = log}};
    const auto channel = lane.channel("anything");
    const Outcome outcome = channel.publisher->publish(event(1), 4s);
    EXPECT_EQ(outcome.status, Status::retryable);
    EXPECT_THAT(outcome.error, HasSubstr(wrong.reason));
    EXPECT_THAT(outcome.error, Not(HasSubstr("s3cr3t")));
    EXPECT_THROW(lane.declare({.name = "anything"}, 20s), std::runtime_error);
  }
  EXPECT_THAT(log->text(), HasSubstr("guest@127.0.0.1"));
  EXPECT_THAT(log->text(), Not(HasSubstr("s3cr3t")));
}

TEST_F(LanePublishing, OversizedHeadersAreRejectedAndNeighboursConfirmed) {
  const auto queue = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue});
  auto sent = events(3);
  sent[1].headers = {{"large", std::string(200'000, 'h')}};
  const auto outcomes = lane.channel(queue).publisher->publish(sent, 20s);
  EXPECT_TRUE(outcomes[0].confirmed()) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_THAT(outcomes[1].error, HasSubstr("frame"));
  EXPECT_TRUE(outcomes[2].confirmed()) << outcomes[2].error;
}

// A cut connection: what was sent is `unknown`, and sent again under the same id by whoever publishes it is there.
TEST_F(LanePublishing, ACutConnectionLosesNoOutcomeAndNoConfirmedEvent) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port())}};
  lane.declare({.name = queue});
  const auto channel = lane.channel(queue);
  ASSERT_TRUE(channel.publisher->publish(event(0), 20s).confirmed());
  wire.deafen(true);  // sent into the void
  const auto sent = events(20);
  auto call = channel.publisher->submit(sent, 60s);
  EXPECT_EQ(call.wait_for(200ms), std::future_status::timeout);
  wire.deafen(false);
  wire.cut();
  for (const Outcome& outcome : call.get()) {
    EXPECT_EQ(outcome.status, Status::unknown) << outcome.error;
    EXPECT_NE(outcome.error, "");
  }
  for (const Outcome& outcome : channel.publisher->publish(sent, 20s)) EXPECT_TRUE(outcome.confirmed()) << outcome.error;
}

// Delivery tags start anew with the channel, also when nothing was unconfirmed as the old one ended.
TEST_F(LanePublishing, TagsStartAnewAfterAnIdleConnectionWasCut) {
  const auto queue = ready();
  const auto log = std::make_shared<Memo>();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port()), .logger = log}};
  lane.declare({.name = queue});
  const auto channel = lane.channel(queue);
  for (const Outcome& outcome : channel.publisher->publish(events(3), 20s)) ASSERT_TRUE(outcome.confirmed()) << outcome.error;
  wire.cut();
  ASSERT_TRUE(eventually([&] { return log->has("receiving"); })) << log->text();
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = channel.publisher->publish(event(i), 20s);
    EXPECT_TRUE(outcome.confirmed()) << outcome.error;
  }
}

// A peer that is there and silent. Each event has its outcome at its timeout, and the heartbeat ends the connection.
TEST_F(LanePublishing, AHalfOpenConnectionIsGivenUpAndReplaced) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port()), .heartbeat = 1s}};
  lane.declare({.name = queue});
  const auto channel = lane.channel(queue);
  ASSERT_TRUE(channel.publisher->publish(event(0), 20s).confirmed());
  wire.stall(true);
  for (const Outcome& outcome : channel.publisher->publish(events(5), 300ms)) EXPECT_EQ(outcome.status, Status::unknown);
  const int before = wire.accepted();
  // A large one fills the socket; its outcome comes in time although the sending thread cannot move.
  Event large = event(1);
  large.data = std::string(std::size_t{3} << 20U, 'x');
  EXPECT_THAT(channel.publisher->publish(large, 300ms).status, ::testing::AnyOf(Status::unknown, Status::retryable));
  wire.stall(false);
  wire.cut();
  EXPECT_TRUE(eventually([&] { return channel.publisher->publish(event(2), 1s).confirmed(); }));
  EXPECT_GT(wire.accepted(), before);
}

// Heartbeats go on while nothing is published, so the connection is still the first one.
TEST_F(LanePublishing, AnIdlePublisherKeepsItsConnection) {
  const auto queue = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port()), .heartbeat = 1s}};
  lane.declare({.name = queue});
  const auto channel = lane.channel(queue);
  ASSERT_TRUE(channel.publisher->publish(event(0), 20s).confirmed());
  const int before = wire.accepted();
  std::this_thread::sleep_for(4s);  // four heartbeats: what is tested is that time may pass
  EXPECT_TRUE(channel.publisher->publish(event(1), 20s).confirmed());
  EXPECT_EQ(wire.accepted(), before);
}

TEST_F(LanePublishing, ChannelsOfOneNameShareAPublisher) {
  Lane lane{{.url = url()}};
  EXPECT_EQ(lane.channel("a").publisher, lane.channel("a").publisher);
  const auto kept = lane.channel("a");
  EXPECT_EQ(kept.publisher, lane.channel("a").publisher);
  EXPECT_EQ(kept.backend, "rabbitmq");
}

class LaneDeclaring : public LaneTest {};

TEST_F(LaneDeclaring, IsIdempotentAndSaysWhatDiffers) {
  const auto queue = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = queue});
  lane.declare({.name = queue});
  try {
    lane.declare({.name = queue, .kind = QueueSpec::Kind::classic});
    FAIL() << "a quorum queue passed for a classic one";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("classic"));
    EXPECT_THAT(error.what(), HasSubstr("quorum"));
    EXPECT_THAT(error.what(), HasSubstr("PRECONDITION_FAILED"));
    EXPECT_THAT(error.what(), HasSubstr("QueueSpec"));
  }
  EXPECT_THROW(lane.declare({.name = queue, .single_active_consumer = true}), std::runtime_error);
  const auto plain = fresh("plain");
  support::RawAmqp{url()}.declare(plain);
  EXPECT_NO_THROW(lane.declare({.name = plain, .kind = QueueSpec::Kind::classic})) << "a plain durable queue is a classic one";
}

TEST_F(LaneDeclaring, GivesUpInTime) {
  support::TcpProxy wire{1};  // nobody listens there
  Lane lane{{.url = url_by(wire.port())}};
  const auto start = SteadyClock::now();
  EXPECT_THROW(lane.declare({.name = "anything"}, 500ms), std::runtime_error);
  EXPECT_LT(SteadyClock::now() - start, 20s);
}

}  // namespace
}  // namespace penstock::lane_test
