// SPDX-License-Identifier: Apache-2.0
// What a Consumer makes of the backend: effects exactly once, in key order, whatever fails.
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/consumer.hpp"
#include "penstock/testing/memory_datastore.hpp"

namespace penstock::contract {
namespace {

constexpr auto kEffect = "penstock.contract.effect.v1";

/// The effect of a message is the event it emits: it says which message it is of.
void effect(const Message& message, Context& context) {
  context.emit({.type = kEffect, .key = message.key(), .data = message.id()});
}

std::vector<std::string> effects(const penstock::testing::MemoryDatastore& datastore, const std::string& key = {}) {
  std::vector<std::string> ids;
  for (const Event& event : datastore.emitted()) {
    if (event.type == kEffect && (key.empty() || event.key == key)) ids.push_back(event.data.value_or(""));
  }
  return ids;
}

std::vector<std::string> ids_of_key(const std::vector<Event>& events, const std::string& key) {
  std::vector<std::string> ids;
  for (const Event& event : events) {
    if (event.key == key) ids.push_back(event.id);
  }
  return ids;
}

ConsumerOptions options(const std::string& group) {
  return {.group = group,
          .workers = {.min = 3, .max = 3},
          .retry = RetryPolicy::fixed(20ms).attempts(4),
          .in_flight = 50,
          .parked_poll = 10ms};
}

/// A consumer that runs until it goes out of scope.
class Running {
 public:
  Running(std::unique_ptr<Source> source, Datastore& datastore, const std::string& group, Handler handler)
      : consumer_{std::move(source), datastore, options(group), std::move(handler)}, thread_{[this](std::stop_token stop) {
          EXPECT_TRUE(consumer_.run(std::move(stop))) << "drained in time";
        }} {}

  [[nodiscard]] const Consumer& operator*() const { return consumer_; }

 private:
  Consumer consumer_;
  std::jthread thread_;
};

TEST_P(Contract, ConsumerAppliesEachEffectOnceAndInKeyOrderThroughFailures) {
  const auto channel = declare();
  const auto sent = events(300, 12);
  store(channel, sent);
  std::map<std::string, int> failures;  // how often each message fails before it succeeds
  for (std::size_t i = 0; i < sent.size(); i += 11) failures[sent[i].id] = static_cast<int>(i % 3) + 1;

  penstock::testing::MemoryDatastore datastore;
  {
    const Running running{backend().source(channel, 100), datastore, fresh("group"), [&](const Message& message, Context& ctx) {
                            effect(message, ctx);  // undone when the attempt fails
                            const auto found = failures.find(message.id());
                            if (found != failures.end() && ctx.attempt() <= found->second) return Verdict::retry("scripted");
                            return Verdict::done();
                          }};
    EXPECT_TRUE(eventually([&] { return effects(datastore).size() >= sent.size(); }));
  }
  EXPECT_EQ(effects(datastore).size(), sent.size());
  for (int key = 0; key < 12; ++key) {
    const auto name = "key-" + std::to_string(key);
    EXPECT_EQ(effects(datastore, name), ids_of_key(sent, name)) << "order of " << name;
  }
  EXPECT_EQ(datastore.dead_letters().size(), 0U);
}

TEST_P(Contract, ConsumerDeadLettersWhatCannotBeAndGoesOn) {
  const auto channel = declare(1);
  const auto sent = events(20, 2);
  store(channel, {sent.begin(), sent.begin() + 10});
  backend().put_raw(channel, {.key = "key-0", .headers = {}, .payload = "not an event"});
  store(channel, {sent.begin() + 10, sent.end()});

  penstock::testing::MemoryDatastore datastore;
  {
    const Running running{backend().source(channel, 100), datastore, fresh("group"), [&](const Message& message, Context& ctx) {
                            effect(message, ctx);
                            if (message.id() == sent[3].id) return Verdict::retry("never works");
                            if (message.id() == sent[4].id) return Verdict::reject("refused");
                            return Verdict::done();
                          }};
    EXPECT_TRUE(eventually([&] { return effects(datastore).size() >= 18 && datastore.dead_letters().size() >= 3; }));
  }
  EXPECT_EQ(effects(datastore).size(), 18U);
  std::multiset<std::string> dead;
  for (const DeadLetter& letter : datastore.dead_letters()) {
    dead.insert(letter.message.id());
    if (letter.message.defect.empty()) continue;
    EXPECT_EQ(letter.message.wire.payload, "not an event") << "the exact original";
  }
  EXPECT_EQ(dead, (std::multiset<std::string>{"", sent[3].id, sent[4].id}));
}

TEST_P(Contract, ConsumerThatIsStoppedAndStartedAgainAppliesEachEffectOnce) {
  const auto channel = declare();
  const auto group = fresh("group");
  const auto sent = events(300, 12);
  store(channel, sent);
  penstock::testing::MemoryDatastore datastore;
  const auto handler = [](const Message& message, Context& ctx) {
    effect(message, ctx);
    return Verdict::done();
  };
  {
    const Running running{backend().source(channel, 100), datastore, group, handler};
    ASSERT_TRUE(eventually([&] { return effects(datastore).size() >= 40; }));
  }
  {
    const Running running{backend().source(channel, 100), datastore, group, handler};
    EXPECT_TRUE(eventually([&] { return effects(datastore).size() >= sent.size(); }));
  }
  const auto all = effects(datastore);
  EXPECT_EQ(all.size(), sent.size());
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()), ids_of(sent));
  if (!traits().source.ordered) return;  // what was given back may come after its successors
  for (int key = 0; key < 12; ++key) {
    const auto name = "key-" + std::to_string(key);
    EXPECT_EQ(effects(datastore, name), ids_of_key(sent, name)) << "order of " << name;
  }
}

TEST_P(Outage, ConsumerAppliesEachEffectOnceAcrossAnOutage) {
  const auto channel = declare();
  const auto first = events(100, 10);
  store(channel, first);
  penstock::testing::MemoryDatastore datastore;
  const auto second = events(100, 10);
  {
    const Running running{backend().source(channel, 100), datastore, fresh("group"), [](const Message& message, Context& ctx) {
                            effect(message, ctx);
                            return Verdict::done();
                          }};
    EXPECT_TRUE(eventually([&] { return effects(datastore).size() >= 20; }));
    backend().stop_broker();
    backend().start_broker();
    confirm_all(*publisher(channel), second);
    EXPECT_TRUE(eventually([&] { return effects(datastore).size() >= 200; }));
  }
  const auto all = effects(datastore);
  auto expected = ids_of(first);
  expected.merge(ids_of(second));
  EXPECT_EQ(all.size(), 200U);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()), expected);
}

}  // namespace
}  // namespace penstock::contract
