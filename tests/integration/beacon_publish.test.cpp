// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <nats/nats.h>

#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "integration/beacon_server.hpp"
#include "penstock/beacon.hpp"

namespace penstock::beacon_test {
namespace {

using Status = Outcome::Status;
constexpr auto kTimeout = 20s;

/// A stream on the shared server, gone at the end.
class BeaconPublish : public testing::Test {
 protected:
  BeaconPublish() { beacon_.declare({.name = stream_}); }
  ~BeaconPublish() override { raw_.remove(stream_); }

  Publisher& publisher() { return *channel_.publisher; }
  static void expect_confirmed(const Outcomes& outcomes) {
    for (const auto& outcome : outcomes) EXPECT_TRUE(outcome.confirmed()) << to_string(outcome.status) << ": " << outcome.error;
  }

  const std::string stream_ = fresh("publish");
  Raw raw_{shared_url()};
  Beacon beacon_{{.url = shared_url(), .window = 50}};
  Channel channel_ = beacon_.channel(stream_);
};

TEST_F(BeaconPublish, ConfirmedMeansStoredInTheOrderGiven) {
  const auto sent = events(500);  // ten times the window
  expect_confirmed(publisher().publish(sent, kTimeout));
  EXPECT_EQ(raw_.ids(stream_), ids_of(sent));
}

TEST_F(BeaconPublish, BatchesUnderWayTogetherKeepTheirOrder) {
  const auto sent = events(300);
  std::vector<std::future<Outcomes>> futures;
  for (std::size_t i = 0; i < sent.size(); i += 10)
    futures.push_back(publisher().submit(std::span{sent}.subspan(i, 10), kTimeout));
  for (auto& future : futures) expect_confirmed(future.get());
  EXPECT_EQ(raw_.ids(stream_), ids_of(sent));
}

TEST_F(BeaconPublish, AnEventSentAgainIsConfirmedAndStoredOnce) {
  const auto sent = events(3);
  expect_confirmed(publisher().publish(sent, kTimeout));
  expect_confirmed(publisher().publish(sent, kTimeout));
  auto other = event(1);
  other.source = "/another";  // the identity is the pair
  expect_confirmed({publisher().publish(other, kTimeout)});
  EXPECT_EQ(raw_.ids(stream_), (std::vector<std::string>{"1", "2", "3", "1"}));
}

TEST_F(BeaconPublish, WhatIsInvalidOrTooLargeIsRejectedAlone) {
  std::vector<Event> sent{event(1), event(2), event(3, "k", std::string(2U << 20U, 'x')), event(4)};
  sent[1].type.clear();
  const auto outcomes = publisher().publish(sent, kTimeout);
  EXPECT_TRUE(outcomes[0].confirmed());
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_NE(outcomes[1].error.find("type"), std::string::npos);
  EXPECT_EQ(outcomes[2].status, Status::rejected);
  EXPECT_NE(outcomes[2].error.find("max_payload"), std::string::npos);
  EXPECT_TRUE(outcomes[3].confirmed());
  EXPECT_EQ(raw_.ids(stream_), (std::vector<std::string>{"1", "4"}));
}

TEST_F(BeaconPublish, ASubjectWithoutAStreamIsRejectedWithTheRemedy) {
  const auto outcomes = beacon_.channel(fresh("nowhere")).publisher->publish(events(20), kTimeout);
  for (const auto& outcome : outcomes) {
    EXPECT_EQ(outcome.status, Status::rejected);
    EXPECT_NE(outcome.error.find("declare it first"), std::string::npos) << outcome.error;
  }
}

TEST_F(BeaconPublish, ASubjectOfAnotherStreamIsRejected) {
  const auto subject = fresh("taken");
  const auto owner = fresh("owner");
  raw_.add(owner.c_str(), subject.c_str());
  const auto outcome = beacon_.channel(subject).publisher->publish(event(1), kTimeout);
  EXPECT_EQ(outcome.status, Status::rejected) << outcome.error;
  EXPECT_TRUE(raw_.ids(owner).empty());
  raw_.remove(owner);
}

TEST_F(BeaconPublish, AFullStreamIsRetryableAndStoresNothing) {
  const auto full = fresh("full");
  raw_.add(full.c_str(), full.c_str(), [](jsStreamConfig& config) {
    config.MaxMsgs = 2;
    config.Discard = js_DiscardNew;
  });
  const auto outcomes = beacon_.channel(full).publisher->publish(events(3), kTimeout);
  EXPECT_TRUE(outcomes[0].confirmed());
  EXPECT_TRUE(outcomes[1].confirmed());
  EXPECT_EQ(outcomes[2].status, Status::retryable) << outcomes[2].error;
  EXPECT_EQ(raw_.ids(full).size(), 2U);
  raw_.remove(full);
}

TEST_F(BeaconPublish, TheStreamsOwnLimitIsRejected) {
  const auto small = fresh("small");
  raw_.add(small.c_str(), small.c_str(), [](jsStreamConfig& config) { config.MaxMsgSize = 1'000; });
  const auto outcome = beacon_.channel(small).publisher->publish(event(1, "k", std::string(2'000, 'x')), kTimeout);
  EXPECT_EQ(outcome.status, Status::rejected) << outcome.error;
  raw_.remove(small);
}

TEST_F(BeaconPublish, NoEventsAndNoTimeAreAnswered) {
  EXPECT_TRUE(publisher().publish(std::span<const Event>{}, kTimeout).empty());
  expect_confirmed({publisher().publish(event(1), kTimeout)});
  for (const auto& outcome : publisher().publish(events(100, 2), 0ms)) EXPECT_NE(outcome.status, Status::rejected);
}

TEST_F(BeaconPublish, ADottedChannelHasItsStream) {
  const auto name = stream_ + ".dead";
  beacon_.declare({.name = name});
  expect_confirmed({beacon_.channel(name).publisher->publish(event(1), kTimeout)});
  EXPECT_EQ(raw_.ids(stream_ + "=2Edead"), std::vector<std::string>{"1"});
  raw_.remove(stream_ + "=2Edead");
}

TEST_F(BeaconPublish, DeclaringAgainChangesNothingAndADifferenceIsAnError) {
  expect_confirmed({publisher().publish(event(1), kTimeout)});
  beacon_.declare({.name = stream_});
  try {
    beacon_.declare({.name = stream_, .max_age = 1h});
    FAIL() << "a difference was accepted";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string{error.what()}.find("max_age: wanted 3600 s, found none"), std::string::npos) << error.what();
  }
  try {
    beacon_.declare({.name = fresh("overlap"), .subjects = {stream_}});
    FAIL() << "two streams of one subject";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string{error.what()}.find("overlap"), std::string::npos) << error.what();
  }
  EXPECT_EQ(raw_.ids(stream_), std::vector<std::string>{"1"});
}

struct Lines final : Logger {
  void log(LogLevel /*level*/, const std::string& message) override {
    const std::lock_guard lock{mutex};
    text += message + '\n';
  }
  std::mutex mutex;
  std::string text;
};

TEST(BeaconServer, APublishThatIsNotAllowedIsRejectedAndSecretsAreNotLogged) {
  Server server{
      "authorization { users: [ {user: boss, password: bo55-s3cret}, {user: kim, password: k1m-s3cret, permissions: {"
      " publish: {deny: [\"forbidden\"]} } } ] }\n"};
  server.start();
  const auto lines = std::make_shared<Lines>();
  Raw raw{"nats://boss:bo55-s3cret@" + server.address()};
  raw.add("forbidden", "forbidden");
  Beacon beacon{{.url = "nats://kim:k1m-s3cret@" + server.address(), .logger = lines}};
  const auto outcome = beacon.channel("forbidden").publisher->publish(event(1), 500ms);
  EXPECT_EQ(outcome.status, Status::rejected) << outcome.error;
  EXPECT_NE(outcome.error.find("ermissions"), std::string::npos) << outcome.error;

  Beacon stranger{{.url = "nats://kim:wr0ng-s3cret@" + server.address(), .logger = lines}};
  EXPECT_EQ(stranger.channel("forbidden").publisher->publish(event(1), 500ms).status, Status::retryable);
  EXPECT_THROW(stranger.declare({.name = "forbidden"}, 500ms), std::runtime_error);
  EXPECT_TRUE(raw.ids("forbidden").empty());
  const std::lock_guard lock{lines->mutex};
  EXPECT_FALSE(lines->text.empty());
  EXPECT_EQ(lines->text.find("s3cret"), std::string::npos) << lines->text;
}

TEST(BeaconServer, WithoutJetStreamPublishingIsRejected) {
  Server server{"", false};
  server.start();
  Beacon beacon{{.url = server.url()}};
  const auto outcome = beacon.channel("orders").publisher->publish(event(1), kTimeout);
  EXPECT_EQ(outcome.status, Status::rejected);
  EXPECT_NE(outcome.error.find("--jetstream"), std::string::npos) << outcome.error;
  EXPECT_THROW(beacon.declare({.name = "orders"}, 300ms), std::runtime_error);
}

}  // namespace
}  // namespace penstock::beacon_test
