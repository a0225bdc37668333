// SPDX-License-Identifier: Apache-2.0
#include "conduit/producer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/conduit.hpp"
#include "penstock/uuid.hpp"
#include "support/kafka.hpp"

namespace penstock::conduit {
namespace {

using namespace std::chrono_literals;
using Status = Outcome::Status;
using ::testing::Contains;
using ::testing::HasSubstr;
using SteadyClock = std::chrono::steady_clock;

constexpr char kTopic[] = "events";
constexpr auto kPatience = 30s;

Event event(const std::string& key, int number) {
  return {.id = uuid7(), .source = "/test", .type = "test.counted.v1", .key = key, .data = std::to_string(number)};
}

class Lines final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    const std::lock_guard lock{mutex_};
    lines_.emplace_back(level, message);
  }
  std::vector<std::pair<LogLevel, std::string>> lines() {
    const std::lock_guard lock{mutex_};
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<LogLevel, std::string>> lines_;
};

class ProducerOnMock : public ::testing::Test {
 protected:
  ProducerOnMock() { cluster_.create(kTopic, 1); }

  Producer& producer(support::Properties properties = {}) {
    producer_ = std::make_unique<Producer>(
        ConduitOptions{.bootstrap_servers = cluster_.servers(), .properties = std::move(properties), .logger = lines_});
    return *producer_;
  }
  Outcomes publish(const std::vector<Event>& events, std::chrono::milliseconds timeout = kPatience) {
    return producer_->submit(kTopic, events, timeout).get();
  }
  Outcome publish(const Event& one, std::chrono::milliseconds timeout = kPatience) {
    return publish(std::vector<Event>{one}, timeout).front();
  }
  std::vector<std::string> stored() {
    std::vector<std::string> payloads;
    for (const auto& message : support::read_all(cluster_.servers(), kTopic, 1)) payloads.push_back(*message.wire.payload);
    return payloads;
  }

  support::MockCluster cluster_;
  std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
  std::unique_ptr<Producer> producer_;
};

TEST_F(ProducerOnMock, ConfirmsWhatIsStored) {
  producer();
  EXPECT_EQ(publish(event("k", 1)).status, Status::confirmed);
  EXPECT_THAT(stored(), ::testing::ElementsAre("1"));
}

TEST_F(ProducerOnMock, APermanentErrorOfTheBrokerIsARejection) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED});
  const Outcome outcome = publish(event("k", 1));
  EXPECT_EQ(outcome.status, Status::rejected);
  EXPECT_THAT(outcome.error, HasSubstr("TOPIC_AUTHORIZATION_FAILED"));
  // librdkafka holds the topic to be forbidden until it has asked again.
  Outcome next;
  const auto deadline = SteadyClock::now() + kPatience;
  while (!next.confirmed() && SteadyClock::now() < deadline) {
    next = publish(event("k", 2));
    std::this_thread::yield();
  }
  EXPECT_EQ(next.status, Status::confirmed) << next.error;
}

// One set of properties serves both roles, so a consumer's property is no mistake in a producer.
TEST_F(ProducerOnMock, SaysNothingAboutTheOtherRolesProperties) {
  producer({{"auto.offset.reset", "earliest"}});
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  for (const auto& [level, text] : lines_->lines()) EXPECT_THAT(text, ::testing::Not(HasSubstr("will be ignored"))) << text;
}

TEST_F(ProducerOnMock, APassingErrorIsRetriedInsideAndStoredOnce) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION});
  EXPECT_EQ(publish(event("k", 1)).status, Status::confirmed);
  EXPECT_THAT(stored(), ::testing::ElementsAre("0", "1"));
}

TEST_F(ProducerOnMock, TheOutcomeComesInTimeWithABrokerThatIsAway) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  const auto start = SteadyClock::now();
  const Outcomes outcomes = publish({event("k", 1), event("k", 2)}, 300ms);
  EXPECT_GE(SteadyClock::now() - start, 300ms);
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.status, Status::unknown);
}

// What was given up stays in its place; what comes again waits for it instead of being stored twice, or behind later events.
TEST_F(ProducerOnMock, RepeatedEventsAreStoredOnceAndInOrderAfterAnOutage) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  const std::vector<Event> events{event("k", 1), event("k", 2), event("k", 3)};
  for (int round = 0; round < 3; ++round) {
    for (const Outcome& outcome : publish(events, 100ms)) EXPECT_EQ(outcome.status, Status::unknown);
  }
  auto last = producer_->submit(kTopic, events, kPatience);
  cluster_.up();
  for (const Outcome& outcome : last.get()) EXPECT_EQ(outcome.status, Status::confirmed) << outcome.error;
  EXPECT_THAT(stored(), ::testing::ElementsAre("0", "1", "2", "3"));
}

TEST_F(ProducerOnMock, AFullQueueIsWaitedForAndThenRetryable) {
  producer({{"queue.buffering.max.messages", "10"}});
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  std::vector<Event> events;
  for (int i = 1; i <= 30; ++i) events.push_back(event("k", i));
  const Outcomes outcomes = publish(events, 300ms);
  ASSERT_EQ(outcomes.size(), events.size());
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i].status, i < 10 ? Status::unknown : Status::retryable) << i;
  }
}

TEST_F(ProducerOnMock, MoreThanTheQueueHoldsGoesThroughInOneCallAndInOrder) {
  producer({{"queue.buffering.max.messages", "10"}});
  std::vector<Event> events;
  std::vector<std::string> expected;
  for (int i = 0; i < 200; ++i) {
    events.push_back(event("k", i));
    expected.push_back(std::to_string(i));
  }
  for (const Outcome& outcome : publish(events)) EXPECT_EQ(outcome.status, Status::confirmed) << outcome.error;
  EXPECT_EQ(stored(), expected);
}

TEST_F(ProducerOnMock, AnInvalidOrTooLargeEventDoesNotKeepOthersFromBeingSent) {
  producer();
  Event nameless = event("nameless", 2);
  nameless.type = "";
  Event huge = event("huge", 3);
  huge.data = std::string(1'500'000, 'x');
  const Outcomes outcomes = publish({event("k", 1), nameless, huge, event("k", 4)});
  EXPECT_EQ(outcomes[0].status, Status::confirmed);
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_THAT(outcomes[1].error, HasSubstr("type"));
  EXPECT_EQ(outcomes[2].status, Status::rejected);
  EXPECT_THAT(outcomes[2].error, HasSubstr("MSG_SIZE_TOO_LARGE"));
  EXPECT_EQ(outcomes[3].status, Status::confirmed);
  EXPECT_THAT(stored(), ::testing::ElementsAre("1", "4"));
}

// Rule 6: one event that cannot be published is isolated. The broker refuses whole batches; no innocent event is lost in one.
TEST_F(ProducerOnMock, Rule6_ABatchTooLargeForTheBrokerIsSentEventByEvent) {
  producer({{"linger.ms", "50"}});
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE});
  const std::vector<Event> events{event("k", 1), event("k", 2)};
  for (const Outcome& outcome : publish(events)) EXPECT_EQ(outcome.status, Status::retryable) << outcome.error;
  // The second one is refused alone now: it is the one.
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE});
  const Outcomes outcomes = publish(events);
  EXPECT_EQ(outcomes[0].status, Status::confirmed) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected) << outcomes[1].error;
  EXPECT_EQ(publish(event("k", 3)).status, Status::confirmed);
  EXPECT_THAT(stored(), ::testing::ElementsAre("0", "1", "3"));
}

TEST_F(ProducerOnMock, ASingleEventTooLargeForTheBrokerIsRejectedAtOnce) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE});
  EXPECT_EQ(publish(event("k", 1)).status, Status::rejected);
}

TEST_F(ProducerOnMock, Rule7_NothingOfAKeyIsSentBehindAnEventThatIsRefused) {
  producer({{"message.max.bytes", "2000"}});
  std::vector<Event> events{event("k", 0), event("k", 1), event("k", 2), event("other", 3), event("", 4)};
  events[1].data = std::string(5000, 'x');
  const auto outcomes = publish(events);
  EXPECT_EQ(outcomes[0].status, Status::confirmed) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected) << outcomes[1].error;
  EXPECT_EQ(outcomes[2].status, Status::retryable) << outcomes[2].error;
  EXPECT_THAT(outcomes[2].error, HasSubstr("an earlier event of its key failed"));
  EXPECT_EQ(outcomes[3].status, Status::confirmed) << outcomes[3].error;
  EXPECT_EQ(outcomes[4].status, Status::confirmed) << outcomes[4].error;
  EXPECT_THAT(stored(), ::testing::ElementsAre("0", "3", "4"));
  // An event that is no valid one is refused in the same way.
  events = {event("k", 5), event("k", 6)};
  events[0].source = "no uri";
  EXPECT_EQ(publish(events)[1].status, Status::retryable);
}

// What is behind it on its way is refused by a real broker alone, which looks at sequence numbers (ConduitPublishing.Rule7_*).
TEST_F(ProducerOnMock, Rule7_AnEventThatTheBrokerRefusesMakesTheClientNew) {
  producer({{"batch.num.messages", "7"}, {"linger.ms", "0"}});
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  std::vector<Event> events;
  for (int i = 1; i <= 500; ++i) events.push_back(event("k", i));
  cluster_.fail_produce({RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_INVALID_RECORD});
  const auto outcomes = publish(events);
  const auto failed =
      std::find_if(outcomes.begin(), outcomes.end(), [](const Outcome& outcome) { return !outcome.confirmed(); });
  ASSERT_NE(failed, outcomes.end()) << "the broker refused nothing";
  EXPECT_EQ(failed->status, Status::rejected) << failed->error;
  EXPECT_FALSE(outcomes.back().confirmed());
  const Event next = event("k", 501);
  const auto deadline = SteadyClock::now() + kPatience;
  Outcome outcome = publish(next);
  while (outcome.status == Status::retryable && SteadyClock::now() < deadline) outcome = publish(next);
  EXPECT_EQ(outcome.status, Status::confirmed) << outcome.error;
  for (const auto& [level, text] : lines_->lines()) EXPECT_THAT(text, ::testing::Not(HasSubstr("experimental"))) << text;
}

TEST_F(ProducerOnMock, Rule7_OneEventOfAKeyIsOnItsWayUntilItsPartitionIsKnownToTheBroker) {
  producer();
  cluster_.down();
  const std::vector<Event> events{event("k", 0), event("k", 1), event("other", 2)};
  const Outcomes away = publish(events, 300ms);
  EXPECT_EQ(away[0].status, Status::unknown) << away[0].error;
  EXPECT_EQ(away[1].status, Status::retryable) << away[1].error;
  EXPECT_THAT(away[1].error, HasSubstr("an earlier event of its key"));
  EXPECT_EQ(away[2].status, Status::retryable) << away[2].error;
  cluster_.up();
  for (const Outcome& outcome : publish(events)) EXPECT_EQ(outcome.status, Status::confirmed) << outcome.error;
  EXPECT_THAT(stored(), ::testing::ElementsAre("0", "1", "2"));
  cluster_.down();
  for (const Outcome& outcome : publish({event("k", 3), event("k", 4)}, 300ms)) EXPECT_EQ(outcome.status, Status::unknown);
}

TEST_F(ProducerOnMock, AFatalErrorMakesTheOutstandingUnknownAndTheClientNew) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  auto outstanding = producer_->submit(kTopic, std::vector<Event>{event("k", 1)}, kPatience);
  producer_->with_client([](rd_kafka_t* client) {
    ASSERT_NE(client, nullptr);
    rd_kafka_test_fatal_error(client, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "made up");
  });
  ASSERT_EQ(outstanding.wait_for(kPatience), std::future_status::ready);
  const Outcome outcome = outstanding.get().front();
  EXPECT_THAT(outcome.status, ::testing::AnyOf(Status::unknown, Status::retryable)) << outcome.error;
  cluster_.up();
  const Outcome next = publish(event("k", 2));
  EXPECT_EQ(next.status, Status::confirmed) << "submitting waits for the new client: " << next.error;
  EXPECT_THAT(lines_->lines(), Contains(::testing::Pair(LogLevel::error, HasSubstr("made up"))));
}

TEST_F(ProducerOnMock, RepeatedFatalErrorsAreSurvived) {
  producer();
  for (int round = 0; round < 3; ++round) {
    // What is submitted between the error and its discovery may come back unsent.
    const Event one = event("k", round);
    const auto deadline = SteadyClock::now() + kPatience;
    Outcome outcome = publish(one);
    while (outcome.status == Status::retryable && SteadyClock::now() < deadline) outcome = publish(one);
    ASSERT_EQ(outcome.status, Status::confirmed) << round << ": " << outcome.error;
    producer_->with_client([](rd_kafka_t* client) {
      if (client != nullptr) rd_kafka_test_fatal_error(client, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "made up");
    });
  }
}

TEST_F(ProducerOnMock, DestroyingGivesEveryOutstandingEventItsOutcome) {
  producer();
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  std::vector<std::future<Outcomes>> calls;
  for (int i = 1; i < 20; ++i) calls.push_back(producer_->submit(kTopic, std::vector<Event>{event("k", i)}, 1h));
  producer_.reset();
  for (auto& call : calls) {
    ASSERT_EQ(call.wait_for(0s), std::future_status::ready);
    EXPECT_EQ(call.get().front().status, Status::unknown);
  }
}

TEST_F(ProducerOnMock, ManyThreadsEachKeepTheirOrder) {
  producer();
  constexpr int kThreads = 4;
  constexpr int kCalls = 25;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([this, t] {
        for (int call = 0; call < kCalls; ++call) {
          const std::vector<Event> events{event("k", t * 1000 + call * 2), event("k", t * 1000 + call * 2 + 1)};
          for (const Outcome& outcome : publish(events)) EXPECT_EQ(outcome.status, Status::confirmed) << outcome.error;
        }
      });
    }
  }
  std::vector<int> last(kThreads, -1);
  const auto all = stored();
  EXPECT_EQ(all.size(), static_cast<std::size_t>(kThreads) * kCalls * 2);
  for (const std::string& payload : all) {
    const int number = std::stoi(payload);
    EXPECT_GT(number % 1000, last.at(static_cast<std::size_t>(number / 1000)));
    last.at(static_cast<std::size_t>(number / 1000)) = number % 1000;
  }
}

TEST_F(ProducerOnMock, ABrokerThatIsAwayIsLoggedAndNotAThousandTimes) {
  producer({{"reconnect.backoff.ms", "10"}, {"reconnect.backoff.max.ms", "20"}});
  ASSERT_TRUE(publish(event("k", 0)).confirmed());
  cluster_.down();
  static_cast<void>(publish(event("k", 1), 1s));
  const auto lines = lines_->lines();
  EXPECT_FALSE(lines.empty());
  EXPECT_LT(lines.size(), 20U);
  for (const auto& [level, line] : lines) EXPECT_THAT(line, ::testing::StartsWith("conduit: "));
}

TEST(ProducerWithoutBroker, ConstructionAndDestructionDoNotWaitForIt) {
  std::future<Outcomes> call;
  {
    Conduit conduit{{.bootstrap_servers = "127.0.0.1:1"}};
    const Channel channel = conduit.channel("topic");
    EXPECT_EQ(channel.backend, "kafka");
    EXPECT_EQ(channel.name, "topic");
    EXPECT_EQ(channel.publisher->publish(event("k", 1), 50ms).status, Status::unknown);
    EXPECT_THROW(conduit.declare({.name = "topic"}, 300ms), std::runtime_error);
    EXPECT_THROW(conduit.declare({.name = "topic", .partitions = 0}, 300ms), std::invalid_argument);
    call = channel.publisher->submit(std::vector<Event>{event("k", 2)}, 1h);
  }
  EXPECT_EQ(call.get().front().status, Status::unknown);
}

}  // namespace
}  // namespace penstock::conduit
