// SPDX-License-Identifier: Apache-2.0
// A whole pipeline in memory, as a user's unit test would have it: broker, store, consumer, virtual time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "support/consumer_run.hpp"
#include "support/scripted_source.hpp"

namespace penstock::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class ConsumerInMemory : public ::testing::Test {
 protected:
  ConsumerInMemory() {
    options.group = "shipping";
    options.clock = &clock;
    options.retry = RetryPolicy::fixed(1min).attempts(3);
    broker.declare("jobs", 4);
    broker.declare("jobs.dead");
  }
  std::unique_ptr<test::Running> run(Handler handler) {
    return std::make_unique<test::Running>(
        std::make_unique<Consumer>(broker.source("jobs"), store, options, std::move(handler)));
  }
  void publish(const std::string& key, int number) {
    ASSERT_TRUE(broker.publish("jobs", test::numbered(key, number)).confirmed());
  }

  ManualClock clock;
  MemoryBroker broker{{.seed = 7, .clock = &clock}};
  MemoryDatastore store{clock};
  ConsumerOptions options;
};

TEST_F(ConsumerInMemory, EveryEffectOnceAndInKeyOrderUnderLostAcksAndRebalances) {
  options.workers = {4, 4};
  std::mutex mutex;
  std::map<std::string, std::vector<int>> order;
  const auto consumer = run([&](const Message& message, Context& context) {
    context.emit({.type = "test.followed.v1", .key = message.key()});
    const std::lock_guard guard{mutex};
    order[message.key()].push_back(std::stoi(message.id().substr(message.id().find('-') + 1)));
    return Verdict::done();
  });
  for (int number = 0; number < 60; ++number) {
    for (const char* key : {"a", "b", "c", "d", "e"}) publish(key, number);
    if (number % 20 == 10) broker.lose_acks("jobs", 2);
    if (number % 20 == 15) broker.rebalance("jobs", "shipping");
  }
  ASSERT_TRUE(broker.wait_settled("jobs", "shipping", 30s)) << broker.describe("jobs");
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(store.emitted(), SizeIs(300));
  for (const auto& [key, numbers] : order) {
    ASSERT_THAT(numbers, SizeIs(60)) << key;
    for (int number = 0; number < 60; ++number) EXPECT_EQ(numbers[static_cast<std::size_t>(number)], number) << key;
  }
}

TEST_F(ConsumerInMemory, RetriesInVirtualTimeAndDeadLettersOnTheirRoute) {
  const auto consumer =
      run([](const Message& message, Context&) { return message.key() == "bad" ? Verdict::retry("no") : Verdict::done(); });
  publish("bad", 1);
  publish("good", 1);
  ASSERT_TRUE(broker.wait_settled("jobs", "shipping", 30s)) << broker.describe("jobs");
  const auto deadline = std::chrono::steady_clock::now() + 30s;
  while (store.dead_letters().empty() && std::chrono::steady_clock::now() < deadline) clock.advance(1min);
  ASSERT_THAT(store.dead_letters(), SizeIs(1));
  EXPECT_EQ(store.dead_letters()[0].attempts.size(), 3U);
  const auto cursor = store.cursor("dead", {dead_letters_of("jobs")});
  ASSERT_TRUE(cursor->acquire());
  EXPECT_THAT(cursor->read(10), SizeIs(1));
  EXPECT_TRUE(consumer->stop());
}

TEST_F(ConsumerInMemory, WithoutADatastoreDeadLettersArePublished) {
  const AtLeastOnce channels{.dead_letters = broker.channel("jobs.dead"), .emits = {}};
  test::Running consumer{std::make_unique<Consumer>(
      broker.source("jobs"), channels, options, [](const Message&, Context&) { return Verdict::reject("address unknown"); })};
  publish("a", 1);
  ASSERT_TRUE(broker.wait_settled("jobs", "shipping", 30s)) << broker.describe("jobs");
  EXPECT_THAT(broker.dead_letters(), SizeIs(1));
  EXPECT_TRUE(consumer.stop());
}

}  // namespace
}  // namespace penstock::testing
