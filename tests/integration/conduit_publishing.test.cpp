// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "penstock/conduit.hpp"
#include "penstock/uuid.hpp"
#include "support/kafka.hpp"
#include "support/services.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kPatience = 60s;

Event event(const std::string& key, const std::string& data) {
  return {.id = uuid7(), .source = "/test", .type = "test.counted.v1", .key = key, .data = data};
}

class ConduitPublishing : public ::testing::Test {
 protected:
  ~ConduitPublishing() override {
    for (const std::string& topic : topics_) support::delete_topic(servers_, topic);
  }
  std::string fresh() { return topics_.emplace_back("publishing-" + uuid7()); }
  std::string declare(int partitions = 1, std::map<std::string, std::string> config = {}) {
    const std::string topic = fresh();
    conduit_.declare({.name = topic, .partitions = partitions, .config = std::move(config)});
    return topic;
  }

  std::string servers_ = support::address("PENSTOCK_KAFKA");
  Conduit conduit_{{.bootstrap_servers = servers_}};
  std::vector<std::string> topics_;
};

TEST_F(ConduitPublishing, DeclareCreatesOnceAndKeepsWhatExists) {
  const std::string topic = declare(3);
  EXPECT_NO_THROW(conduit_.declare({.name = topic, .partitions = 3}));
  try {
    conduit_.declare({.name = topic, .partitions = 5});
    FAIL() << "it exists with 3 partitions";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr(topic));
    EXPECT_THAT(error.what(), HasSubstr("partitions: wanted 5, found 3"));
  }
  try {
    conduit_.declare(
        {.name = topic, .partitions = 3, .replication = 2, .config = {{"retention.ms", "1"}, {"cleanup.policy", "delete"}}});
    FAIL() << "it has one replica and the default retention";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("replication: wanted 2, found 1"));
    EXPECT_THAT(error.what(), HasSubstr("retention.ms: wanted '1', found '604800000'"));
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("cleanup.policy")));
    EXPECT_THAT(error.what(), HasSubstr("Nothing was changed"));
  }
  EXPECT_NO_THROW(conduit_.declare({.name = topic, .partitions = 3, .config = {{"retention.ms", "604800000"}}}));
  EXPECT_NO_THROW(conduit_.declare({.name = topic, .partitions = 3})) << "nothing was changed";
}

TEST_F(ConduitPublishing, DeclareSaysWhatKafkaSays) {
  EXPECT_THROW(conduit_.declare({.name = "not a topic"}), std::invalid_argument);
  EXPECT_THROW(conduit_.declare({.name = fresh(), .replication = 99}), std::runtime_error);
  EXPECT_THROW(conduit_.declare({.name = fresh(), .config = {{"no.such.setting", "1"}}}), std::runtime_error);
}

// The values of Utils.murmur2 in the Java client.
TEST_F(ConduitPublishing, AKeyGoesToTheJavaClientsPartition) {
  const std::string topic = declare(8);
  const std::map<std::string, std::int32_t> hashes{{"21", -973932308},
                                                   {"foobar", -790332482},
                                                   {"a-little-bit-long-string", -985981536},
                                                   {"a-little-bit-longer-string", -1486304829},
                                                   {"abc", 479470107}};
  std::vector<Event> events;
  for (const auto& [key, hash] : hashes) events.push_back(event(key, "x"));
  for (const Outcome& outcome : conduit_.channel(topic).publisher->publish(events, kPatience)) {
    ASSERT_EQ(outcome.status, Status::confirmed) << outcome.error;
  }
  const auto stored = support::read_all(servers_, topic, 8);
  ASSERT_EQ(stored.size(), hashes.size());
  for (const auto& message : stored) {
    EXPECT_EQ(message.partition, (hashes.at(*message.wire.key) & 0x7fffffff) % 8) << *message.wire.key;
  }
}

TEST_F(ConduitPublishing, KeysHeadersAndPayloadsArriveAsTheyWere) {
  const std::string topic = declare();
  Event full = event("key", std::string{"\0\xff\r\n", 4});
  full.content_type = "application/octet-stream";
  full.headers = {{"x", "1"}, {"y", std::nullopt}, {"x", ""}, {"x", "2"}};
  Event tombstone = event("key", "");
  tombstone.data.reset();
  const std::vector<Event> events{full, tombstone, event("", "")};
  for (const Outcome& outcome : conduit_.channel(topic).publisher->publish(events, kPatience)) {
    ASSERT_EQ(outcome.status, Status::confirmed) << outcome.error;
  }
  const auto stored = support::read_all(servers_, topic, 1);
  ASSERT_EQ(stored.size(), 3U);
  EXPECT_EQ(stored[0].wire, encode(full, Binding::kafka));
  EXPECT_EQ(stored[1].wire.payload, std::nullopt);
  EXPECT_EQ(stored[2].wire.payload, "");
  EXPECT_EQ(stored[2].wire.key, std::nullopt);

  auto source = conduit_.source(topic);
  source->open("group-" + uuid7(), nullptr);
  std::vector<Event> received;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (received.size() < 3 && std::chrono::steady_clock::now() < deadline) {
    for (const Message& message : source->poll(10, 500ms)) {
      EXPECT_EQ(message.wire, stored.at(received.size()).wire);
      EXPECT_EQ(message.origin.backend, "kafka");
      EXPECT_EQ(message.origin.position, static_cast<std::int64_t>(received.size()));
      received.push_back(message.event);
    }
  }
  EXPECT_EQ(received, events);
  source->close(10s);
}

TEST_F(ConduitPublishing, AnUnknownTopicIsRejectedUntilItIsMade) {
  const std::string topic = fresh();
  const auto publisher = conduit_.channel(topic).publisher;
  const Outcome outcome = publisher->publish(event("k", "1"), kPatience);
  EXPECT_EQ(outcome.status, Status::rejected) << outcome.error;
  EXPECT_THAT(outcome.error, HasSubstr("declare"));
  EXPECT_EQ(publisher->publish(event("k", "2"), kPatience).status, Status::rejected) << "and the next one at once";

  Conduit elsewhere{{.bootstrap_servers = servers_}};
  elsewhere.declare({.name = topic, .partitions = 1});
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Outcome later;
  while (!later.confirmed() && std::chrono::steady_clock::now() < deadline) later = publisher->publish(event("k", "3"), 10s);
  EXPECT_EQ(later.status, Status::confirmed) << later.error;
}

TEST_F(ConduitPublishing, ATopicThatIsDeletedUnderAPublisherShowsAsRejected) {
  const std::string topic = declare();
  const auto publisher = conduit_.channel(topic).publisher;
  ASSERT_TRUE(publisher->publish(event("k", "1"), kPatience).confirmed());
  support::delete_topic(servers_, topic);
  EXPECT_EQ(publisher->publish(event("k", "2"), kPatience).status, Status::rejected);
}

// Rule 6: one event that cannot be published is isolated; everything else flows.
TEST_F(ConduitPublishing, Rule6_OneTooLargeForItsTopicIsRejectedAndItsNeighboursAreConfirmed) {
  const std::string topic = declare(1, {{"max.message.bytes", "20000"}});
  const auto publisher = conduit_.channel(topic).publisher;
  std::vector<Event> open;
  for (int i = 0; i < 5; ++i) open.push_back(event("k", i == 2 ? std::string(50'000, 'x') : std::to_string(i)));
  const std::string too_large = open[2].id;
  std::vector<std::string> rejected;
  // As a relay does: what is retryable is sent again.
  for (int round = 0; round < 5 && !open.empty(); ++round) {
    const Outcomes outcomes = publisher->publish(open, kPatience);
    std::vector<Event> again;
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (outcomes[i].status == Status::rejected) rejected.push_back(open[i].id);
      if (outcomes[i].status == Status::retryable) again.push_back(open[i]);
    }
    open = std::move(again);
  }
  EXPECT_TRUE(open.empty());
  EXPECT_THAT(rejected, ElementsAre(too_large));
  std::vector<std::string> stored;
  for (const auto& message : support::read_all(servers_, topic, 1)) stored.push_back(*message.wire.payload);
  EXPECT_THAT(stored, ElementsAre("0", "1", "3", "4"));
}

// Rule 7: what is on its way behind a refused batch is not stored either, whether the client has written to the partition or
// not.
TEST_F(ConduitPublishing, Rule7_WhatTheBrokerRefusesIsNotPassedByWhatIsBehindIt) {
  Conduit conduit{{.bootstrap_servers = servers_, .properties = {{"batch.num.messages", "7"}, {"linger.ms", "0"}}}};
  for (const std::size_t refused : {std::size_t{0}, std::size_t{1}, std::size_t{100}}) {
    const std::string topic = declare(1, {{"max.message.bytes", "20000"}});
    const auto publisher = conduit.channel(topic).publisher;
    std::vector<Event> events;
    for (std::size_t i = 0; i < 500; ++i)
      events.push_back(event("k", i == refused ? std::string(50'000, 'x') : std::to_string(i)));
    const Outcomes outcomes = publisher->publish(events, kPatience);
    std::size_t stored = 0;
    while (stored < outcomes.size() && outcomes[stored].confirmed()) ++stored;
    EXPECT_LE(stored, refused);
    for (std::size_t i = stored; i < outcomes.size(); ++i) EXPECT_FALSE(outcomes[i].confirmed()) << refused << ", " << i;
    EXPECT_EQ(support::read_all(servers_, topic, 1).size(), stored) << refused;
  }
}

}  // namespace
}  // namespace penstock
