// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <atomic>
#include <future>
#include <stdexcept>

#include "consumer_support.hpp"

namespace penstock::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Status = Outcome::Status;

/// Keeps what it was given, and answers as told.
class FakePublisher final : public Publisher {
 public:
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds /*timeout*/) override {
    const std::lock_guard guard{mutex_};
    Outcomes outcomes;
    for (const Event& event : events) {
      const bool fails = failures_ > 0;
      failures_ -= fails ? 1 : 0;
      if (!fails) stored_.push_back(event);
      outcomes.push_back(fails ? Outcome{Status::retryable, "broker away"} : Outcome{Status::confirmed, {}});
    }
    std::promise<Outcomes> promise;
    promise.set_value(std::move(outcomes));
    return promise.get_future();
  }
  void fail(int events) {
    const std::lock_guard guard{mutex_};
    failures_ = events;
  }
  [[nodiscard]] std::vector<Event> stored() const {
    const std::lock_guard guard{mutex_};
    return stored_;
  }

 private:
  mutable std::mutex mutex_;
  int failures_ = 0;
  std::vector<Event> stored_;
};

class ConsumerAtLeastOnce : public ConsumerTest {
 protected:
  std::shared_ptr<FakePublisher> dead = std::make_shared<FakePublisher>();
  std::shared_ptr<FakePublisher> emits = std::make_shared<FakePublisher>();
  AtLeastOnce channels{.dead_letters = {"memory", "jobs.dead", dead}, .emits = {"memory", "next", emits}};
};

TEST_F(ConsumerAtLeastOnce, EmittedEventsAreConfirmedBeforeTheMessageIsSettled) {
  emits->fail(1);
  const auto consumer = run_without_store(channels, [this](const Message& message, Context& context) {
    seen.add(message.id());
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return !consumer->status().last_error.empty(); }));
  EXPECT_THAT(script->acked(), IsEmpty());
  EXPECT_THAT(consumer->status().last_error, HasSubstr("broker away"));
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 1;
  }));
  EXPECT_EQ(emits->stored().size(), 1U);
  EXPECT_THAT(seen.all(), ElementsAre("a-1")) << "published again, not handled again";
}

TEST_F(ConsumerAtLeastOnce, EmittingWithADelayIsAFailure) {
  options.retry = RetryPolicy::none();
  const auto consumer = run_without_store(channels, [](const Message&, Context& context) {
    context.emit({.type = "test.followed.v1"}, 1s);
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return dead->stored().size() == 1; }));
  EXPECT_THAT(consumer->status().last_error, HasSubstr("there is no Datastore that could keep it"));
  EXPECT_TRUE(emits->stored().empty());
}

TEST_F(ConsumerAtLeastOnce, EmittingWithoutAChannelIsAFailure) {
  channels.emits = {};
  options.retry = RetryPolicy::none();
  const auto consumer = run_without_store(channels, [](const Message&, Context& context) {
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(consumer->status().last_error, HasSubstr("AtLeastOnce::emits"));
  EXPECT_EQ(consumer->status().dead, 1U);
}

TEST_F(ConsumerAtLeastOnce, RetriesWaitAtABrokerThatHasADelay) {
  script->traits = {.ordered = false, .replayable = false, .delays = true};
  const auto consumer = run_without_store(channels, [this](const Message&, Context& context) {
    seen.add(std::to_string(context.attempt()));
    return Verdict::retry("no");
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->retried().size() == 1; }));
  script->deliver(numbered("a", 1));  // the broker does not count: remembered
  ASSERT_TRUE(eventually([&] { return script->retried().size() == 2; }));
  EXPECT_EQ(script->retried()[0], std::make_pair(std::string{"a-1"}, std::chrono::milliseconds{1000}));
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(seen.all(), ElementsAre("1", "2", "3"));
  ASSERT_EQ(dead->stored().size(), 1U);
  EXPECT_EQ(consumer->status().dead, 1U);
}

TEST_F(ConsumerAtLeastOnce, TheBrokersCountOfDeliveriesIsTheAttempt) {
  script->traits = {.ordered = false, .replayable = false, .delays = true};
  const auto consumer = run_without_store(channels, [this](const Message&, Context& context) {
    seen.add(std::to_string(context.attempt()));
    return Verdict::retry("no");
  });
  script->deliver(numbered("a", 1), 3);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(seen.all(), ElementsAre("3"));
  EXPECT_EQ(dead->stored().size(), 1U);
}

TEST_F(ConsumerAtLeastOnce, Rule7_InOrderTheKeyOfAFailedMessageWaitsAndOthersFlow) {
  const auto consumer = run_without_store(channels, [this](const Message& message, Context& context) {
    if (message.id() == "a-1" && context.attempt() < 3) return Verdict::retry("no");
    seen.add(message.id());
    return Verdict::done();
  });
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  script->deliver(numbered("b", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(seen.all(), ElementsAre("b-1"));
  EXPECT_THAT(script->retried(), IsEmpty());
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 4;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("b-1", "a-1", "a-2", "a-3"));
}

TEST_F(ConsumerAtLeastOnce, Rule16_TheDeadLetterIsConfirmedBeforeTheMessageIsSettled) {
  dead->fail(2);
  const auto consumer = run_without_store(channels, [this](const Message& message, Context&) {
    seen.add(message.id());
    return Verdict::reject("address unknown");
  });
  const Event event = numbered("a", 1);
  script->deliver(event);
  ASSERT_TRUE(eventually([&] { return !consumer->status().last_error.empty(); }));
  EXPECT_THAT(script->acked(), IsEmpty());
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 1;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1"));
  ASSERT_EQ(dead->stored().size(), 1U);
  EXPECT_EQ(dead->stored()[0].data, event.data);
  EXPECT_EQ(consumer->status().last_error, "address unknown");
}

TEST_F(ConsumerAtLeastOnce, AMessageThatIsNoEventIsADeadLetter) {
  const auto consumer = run_without_store(channels, [](const Message&, Context&) { return Verdict::done(); });
  Message broken;
  broken.wire.payload = "what";
  broken.defect = "no ce_id header";
  script->deliver(broken);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  ASSERT_EQ(dead->stored().size(), 1U);
  EXPECT_EQ(dead->stored()[0].type, "penstock.malformed.v1");
}

TEST_F(ConsumerAtLeastOnce, Rule14_StopIsNeitherSuccessNorAFailedAttempt) {
  Gate started;
  const auto consumer = run_without_store(channels, [&](const Message&, Context& context) -> Verdict {
    started.open();
    while (!context.stop_token().stop_requested()) std::this_thread::yield();
    throw std::runtime_error{"interrupted"};
  });
  script->deliver(numbered("a", 1));
  started.pass();
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(script->acked(), IsEmpty());
  EXPECT_THAT(script->retried(), IsEmpty());
  EXPECT_EQ(consumer->status().parked, 0U);
}

}  // namespace
}  // namespace penstock::test
