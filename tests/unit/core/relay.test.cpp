// SPDX-License-Identifier: Apache-2.0
#include "penstock/relay.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "penstock/testing/manual_clock.hpp"
#include "unit/core/relay_fixture.hpp"

namespace penstock {
namespace {

using test::confirmed;
using test::eventually;
using test::ids;
using test::kCursor;
using test::rejected;
using test::RelayTest;
using test::retryable;
using test::ScriptedLog;
using test::ScriptedPublisher;
using namespace std::chrono_literals;

TEST_F(RelayTest, PublishesInOrderAndCheckpoints) {
  for (int i = 0; i < 50; ++i) {
    log_.append("a" + std::to_string(i), "a");
    log_.append("b" + std::to_string(i), "b");
  }
  start();
  ASSERT_TRUE(all_stored(100));
  log_.append("later", "a");
  ASSERT_TRUE(all_stored(101));
  EXPECT_TRUE(stop());
  auto expected = ids("a", 50);
  expected.push_back("later");
  EXPECT_EQ(publisher_->stored_of("a"), expected);
  EXPECT_EQ(publisher_->stored_of("b"), ids("b", 50));
  EXPECT_EQ(log_.checkpoint(kCursor), 101U);
  EXPECT_TRUE(log_.released(kCursor));
  EXPECT_EQ(status().published, 101U);
  EXPECT_EQ(status().channel, kCursor);
  EXPECT_EQ(status().in_flight, 0U);
  EXPECT_FALSE(publisher_->overtaking());
}

TEST_F(RelayTest, EventsWithoutAKeyWaitForNobody) {
  publisher_->set({});
  options_.batch = 10;
  for (const auto& id : ids("e", 40)) {
    log_.append(id, "");
  }
  start();
  EXPECT_TRUE(eventually([&] { return publisher_->held() == 4; })) << "all are on their way at once, in batches";
  EXPECT_EQ(publisher_->held_ids(0), ids("e", 10));
  publisher_->set(confirmed);
  while (publisher_->held() > 0) {
    publisher_->answer_held(0, confirmed);
  }
  EXPECT_TRUE(all_stored(40));
}

TEST_F(RelayTest, Rule1_TheCheckpointNeverPassesAnUnacknowledgedEvent) {
  publisher_->set({});
  options_.batch = 1;
  for (const auto& id : ids("e", 6)) {
    log_.append(id, "");
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 6; }));
  for (int i = 0; i < 4; ++i) {  // the first two stay open
    publisher_->answer_held(2, confirmed);
  }
  ASSERT_TRUE(eventually([&] { return status().published == 4; }));
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 10; })) << "checkpoints go on being written";
  EXPECT_EQ(log_.checkpoint(kCursor), 0U);
  publisher_->answer_held(0, confirmed);
  EXPECT_TRUE(eventually([&] { return log_.checkpoint(kCursor) == 1; }));
  publisher_->answer_held(0, confirmed);
  EXPECT_TRUE(eventually([&] { return log_.checkpoint(kCursor) == 6; }));
}

TEST_F(RelayTest, Rule1_AFailedEventHoldsTheCheckpointBack) {
  publisher_->set([](const Event& event) { return event.id == "e1" ? retryable(event) : confirmed(event); });
  for (const auto& id : ids("e", 5)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->tries("e1") > 5; }));
  EXPECT_EQ(log_.checkpoint(kCursor), 1U);
  EXPECT_EQ(publisher_->stored().size(), 4U);
  stop();
  EXPECT_EQ(log_.checkpoint(kCursor), 1U);
}

TEST_F(RelayTest, Rule5_ABrokerThatWasAwayForTenMinutesIsDrainedAtFullBatchSpeed) {
  options_.clock = &clock_;
  options_.retry = RetryPolicy::exponential(100ms).cap(10s).attempts(1'000'000).jitter(Jitter::equal);
  publisher_->set(retryable);
  constexpr int kEvents = 5000;
  for (const auto& id : ids("e", kEvents)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->sent() > 0; }));
  for (int second = 0; second < 600; ++second) {
    clock_.advance(1s);
    std::this_thread::yield();
  }
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 10; }));
  EXPECT_LT(publisher_->calls(), 700U) << "no hot loop while the broker is away";
  const auto before = publisher_->calls();
  publisher_->set(confirmed);
  clock_.advance(10s);  // the longest back-off
  // From here on time stands still: nothing waits for a back-off of its own.
  ASSERT_TRUE(all_stored(kEvents));
  EXPECT_LE(publisher_->calls() - before, 2U + 2U * kEvents / options_.batch);
}

TEST_F(RelayTest, Rule6_AnEventThatCannotBePublishedIsIsolatedAndBuried) {
  publisher_->set([](const Event& event) { return event.id == "bad" ? rejected(event) : confirmed(event); });
  log_.append("a0", "a");
  log_.append("bad", "a");
  log_.append("a1", "a");
  for (const auto& id : ids("b", 50)) {
    log_.append(id, "b");
  }
  start();
  ASSERT_TRUE(all_stored(52));
  ASSERT_TRUE(eventually([&] { return log_.checkpoint(kCursor) == 53; }));
  ASSERT_EQ(log_.burials().size(), 1U);
  EXPECT_EQ(log_.burials()[0].id, "bad");
  EXPECT_EQ(log_.burials()[0].channel, "orders");
  EXPECT_EQ(log_.burials()[0].error, "too large");
  EXPECT_EQ(log_.burials()[0].attempts, 3);
  EXPECT_EQ(publisher_->tries("bad"), 3) << "no hot loop";
  EXPECT_EQ(publisher_->stored_of("a"), (std::vector<std::string>{"a0", "a1"})) << "its key goes on";
  EXPECT_EQ(status().buried, 1U);
}

TEST_F(RelayTest, Rule6_OtherKeysFlowWhileAnEventIsBackedOff) {
  options_.clock = &clock_;  // time stands still, so the first event is never tried again
  publisher_->set([](const Event& event) { return event.id == "bad" ? rejected(event) : confirmed(event); });
  log_.append("bad", "a");
  log_.append("after", "a");
  for (const auto& id : ids("b", 50)) {
    log_.append(id, "b");
  }
  start();
  ASSERT_TRUE(all_stored(50));
  EXPECT_EQ(publisher_->tries("after"), 0) << "its key waits";
  EXPECT_TRUE(eventually([&] { return status().fenced_keys == 1; }));
  EXPECT_EQ(status().last_error, "too large");
  ASSERT_TRUE(eventually([&] {
    clock_.advance(5ms);
    return !log_.burials().empty();
  }));
  EXPECT_TRUE(eventually([&] { return publisher_->tries("after") == 1; }));
}

TEST_F(RelayTest, Rule6_ABurialThatFailsIsRepeatedBeforeTheKeyGoesOn) {
  publisher_->set({});
  log_.append("bad", "a");
  log_.append("after", "a");
  options_.rejections = 1;
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 1; }));
  log_.set_away(true);
  publisher_->answer_held(0, rejected);
  publisher_->set(confirmed);
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 3; }));
  EXPECT_EQ(publisher_->tries("after"), 0);
  log_.set_away(false);
  ASSERT_TRUE(all_stored(1));
  EXPECT_EQ(log_.burials().size(), 1U);
}

TEST_F(RelayTest, Rule7_ABatchThatFailsInPartKeepsTheOrderOfItsKeys) {
  int failures = 2;
  publisher_->set([&](const Event& event) { return event.id == "a0" && failures-- > 0 ? retryable(event) : confirmed(event); });
  for (const auto& id : ids("a", 3)) {
    log_.append(id, "a");
  }
  for (const auto& id : ids("b", 3)) {
    log_.append(id, "b");
  }
  start();
  ASSERT_TRUE(all_stored(6));
  EXPECT_EQ(publisher_->stored_of("a"), ids("a", 3));
  EXPECT_EQ(publisher_->stored_of("b"), ids("b", 3));
  EXPECT_FALSE(publisher_->overtaking());
}

TEST_F(RelayTest, AnUnknownOutcomeIsSentAgainWithTheSameId) {
  bool first = true;
  publisher_->set([&](const Event& event) {
    return std::exchange(first, false) ? Outcome{Outcome::Status::unknown, "timed out"} : confirmed(event);
  });
  log_.append("e", "k");
  start();
  ASSERT_TRUE(all_stored(1));
  EXPECT_EQ(publisher_->tries("e"), 2);
}

TEST_F(RelayTest, Rule17_AChannelThatRejectsEverythingBuriesNothing) {
  options_.clock = &clock_;
  publisher_->set(rejected);
  constexpr int kEvents = 60;
  for (const auto& id : ids("e", kEvents)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->sent() >= kEvents; }));
  for (int i = 0; i < 20; ++i) {
    const auto calls = publisher_->calls();
    ASSERT_TRUE(eventually([&] {
      clock_.advance(1s);
      return publisher_->calls() > calls;
    })) << "it goes on looking whether it is over";
  }
  EXPECT_TRUE(log_.burials().empty());
  EXPECT_EQ(log_.checkpoint(kCursor), 0U);
  publisher_->set([](const Event& event) { return event.id == "e7" ? rejected(event) : confirmed(event); });
  ASSERT_TRUE(eventually([&] {
    clock_.advance(1s);
    return !log_.burials().empty();
  })) << "the one that really is bad";
  ASSERT_TRUE(all_stored(kEvents - 1));
  ASSERT_EQ(log_.burials().size(), 1U);
  EXPECT_EQ(log_.burials()[0].id, "e7");
}

TEST_F(RelayTest, Rule4_ALostLeaseIsTakenAgainAndNothingIsLost) {
  for (int round = 0; round < 20; ++round) {
    log_.append("e" + std::to_string(round), "k");
    if (!relay_) {
      start();
    }
    ASSERT_TRUE(eventually([&] {
      const auto stored = publisher_->stored_of("k");
      return std::find(stored.begin(), stored.end(), "e" + std::to_string(round)) != stored.end();
    }));
    log_.lose_lease(kCursor);
  }
  stop();
  std::vector<std::string> once;
  for (const auto& id : publisher_->stored_of("k")) {
    if (std::find(once.begin(), once.end(), id) == once.end()) {
      once.push_back(id);
    }
  }
  EXPECT_EQ(once, ids("e", 20));
}

TEST_F(RelayTest, Rule4_WhatWasSentUnderALostLeaseIsThroughBeforeItIsSentAgain) {
  publisher_->set({});
  log_.append("e0", "k");
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 1; }));
  log_.lose_lease(kCursor);
  ASSERT_TRUE(eventually([&] { return !status().owner; }));
  EXPECT_EQ(publisher_->held(), 1U);
  publisher_->answer_held(0, confirmed);
  publisher_->set(confirmed);
  ASSERT_TRUE(all_stored(2));
  EXPECT_FALSE(publisher_->overtaking());
}

TEST_F(RelayTest, WaitsForALeaseThatAnotherRelayHolds) {
  log_.set_held_elsewhere(kCursor, true);
  log_.append("e", "k");
  start();
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 3; }));
  EXPECT_EQ(publisher_->sent(), 0U);
  EXPECT_FALSE(status().owner);
  log_.set_held_elsewhere(kCursor, false);
  EXPECT_TRUE(all_stored(1));
}

TEST_F(RelayTest, AReadThatFoundNothingSoFarIsGoneOnWithAtOnceAndIsNoEndOfTheBacklog) {
  options_.idle_wait = 10s;
  log_.append("e", "k");
  log_.set_in_vain(1'000'000'000);
  start();
  ASSERT_TRUE(eventually([&] { return status().backlog.has_value(); }));
  std::this_thread::sleep_for(1'100ms);  // it has been asked for again
  EXPECT_EQ(status().backlog->events, 1U);
  log_.set_in_vain(1'000);
  const auto since = std::chrono::steady_clock::now();
  ASSERT_TRUE(all_stored(1));
  EXPECT_LT(std::chrono::steady_clock::now() - since, 5s);
  log_.set_in_vain(1'000'000'000);
  EXPECT_TRUE(stop());
}

TEST_F(RelayTest, TheKeysThatAreHeldAreLookedAtTheLessOftenTheMoreThatTakes) {
  options_.after_dead_letter = AfterDeadLetter::hold;
  log_.set_held_keys({"k"}, 200ms);
  start();
  std::this_thread::sleep_for(3'900ms);
  EXPECT_EQ(log_.key_looks(), 1U);
  log_.append("e", "other");
  EXPECT_TRUE(all_stored(1));
}

TEST_F(RelayTest, ALogThatIsAwayIsAskedAgain) {
  log_.set_away(true);
  log_.append("e", "k");
  start();
  ASSERT_TRUE(eventually([&] { return log_.calls() > 2; }));
  log_.set_away(false);
  ASSERT_TRUE(all_stored(1));
  EXPECT_TRUE(stop());
  EXPECT_EQ(log_.checkpoint(kCursor), 1U);
}

TEST_F(RelayTest, StoppingConfirmsAndCheckpointsWhatIsOnItsWay) {
  publisher_->set({});
  options_.batch = 1;
  log_.append("e0", "a");
  log_.append("e1", "a");
  log_.append("e2", "b");
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 2; }));
  thread_.request_stop();
  publisher_->answer_held(1, confirmed);
  publisher_->answer_held(0, confirmed);
  EXPECT_TRUE(stop());
  EXPECT_EQ(publisher_->tries("e1"), 0) << "nothing more is sent";
  EXPECT_EQ(log_.checkpoint(kCursor), 1U);
  EXPECT_TRUE(log_.released(kCursor));
}

TEST_F(RelayTest, StoppingEndsWithinTheDrainTimeout) {
  publisher_->set({});
  options_.drain_timeout = 20ms;
  log_.append("e0", "a");
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 1; }));
  EXPECT_FALSE(stop()) << "it says that it was not done";
  EXPECT_EQ(log_.checkpoint(kCursor), 0U);
  EXPECT_TRUE(log_.released(kCursor));
}

TEST_F(RelayTest, ReadsNoMoreThanItMayHold) {
  publisher_->set({});
  options_.in_flight = 30;
  options_.batch = 7;
  for (const auto& id : ids("e", 100)) {
    log_.append(id, "");
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->sent() == 30; }));
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 10; }));
  EXPECT_EQ(publisher_->sent(), 30U);
  publisher_->set(confirmed);
  while (publisher_->held() > 0) {
    publisher_->answer_held(0, confirmed);
  }
  EXPECT_TRUE(all_stored(100));
}

class ThrowingPublisher final : public Publisher {
 public:
  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    std::promise<Outcomes> promise;
    switch (calls_++) {
      case 0: throw std::runtime_error("no memory");
      case 1: promise.set_value({}); break;
      case 2: promise.set_exception(std::make_exception_ptr(std::runtime_error("broken"))); break;
      default: promise.set_value(Outcomes(events.size(), Outcome{Outcome::Status::confirmed, {}})); confirmed_ = true;
    }
    return promise.get_future();
  }
  std::atomic<int> calls_{0};
  std::atomic<bool> confirmed_{false};
};

TEST_F(RelayTest, APublisherThatBreaksItsContractLosesNothing) {
  const auto publisher = std::make_shared<ThrowingPublisher>();
  log_.append("e", "k");
  Relay relay{log_, {{"*", {"memory", "orders", publisher}}}, options_};
  std::jthread thread{[&](std::stop_token token) { relay.run(std::move(token)); }};
  EXPECT_TRUE(eventually([&] { return log_.checkpoint(kCursor) == 1; }));
  EXPECT_TRUE(publisher->confirmed_);
}

TEST_F(RelayTest, ChannelsDoNotWaitForEachOtherAndAnEventGoesToEachOnce) {
  const auto away = std::make_shared<ScriptedPublisher>(retryable);
  Relay relay{log_,
              {{"shop.order.*", {"memory", "orders", publisher_}},
               {"shop.*", {"memory", "orders", publisher_}},
               {"shop.order.*", {"memory", "archive", away}}},
              options_};
  ASSERT_EQ(relay.status().channels.size(), 2U);
  log_.append("e0", "k", "shop.order.placed");
  log_.append("e1", "k", "shop.shipment");
  log_.append("e2", "k", "other");
  {
    std::jthread thread{[&](std::stop_token token) { relay.run(std::move(token)); }};
    ASSERT_TRUE(all_stored(2));
    ASSERT_TRUE(eventually([&] { return away->tries("e0") > 1; }));
    away->set(confirmed);
    ASSERT_TRUE(eventually([&] { return away->stored().size() == 1; }));
  }
  EXPECT_EQ(publisher_->stored(), (std::vector<std::string>{"e0", "e1"}));
  EXPECT_EQ(away->stored(), (std::vector<std::string>{"e0"}));
}

TEST_F(RelayTest, WhateverFailsNothingIsLostAndKeysStayInOrder) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ScriptedLog log;
    std::mt19937 random{seed};
    const auto publisher = std::make_shared<ScriptedPublisher>([&](const Event& event) {
      switch (random() % 8) {
        case 0: return retryable(event);
        case 1: return Outcome{Outcome::Status::unknown, "?"};
        case 2: return rejected(event);
        default: return confirmed(event);
      }
    });
    RelayOptions options = options_;
    options.batch = 1 + seed % 7;
    options.in_flight = 20 + seed;
    options.rejections = 1000;
    constexpr int kKeys = 7;
    constexpr int kEach = 30;
    for (int i = 0; i < kEach; ++i) {
      for (int k = 0; k < kKeys; ++k) {
        log.append(std::to_string(k) + "." + std::to_string(i), std::to_string(k));
      }
    }
    {
      Relay relay{log, {{"*", {"memory", "orders", publisher}}}, options};
      std::jthread thread{[&](std::stop_token token) { relay.run(std::move(token)); }};
      for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(eventually([&] { return publisher->stored().size() >= static_cast<std::size_t>(30 * (i + 1)); }));
        log.lose_lease(kCursor);
      }
      ASSERT_TRUE(eventually([&] { return log.checkpoint(kCursor) == kKeys * kEach && log.waiting() == 0; }));
    }
    EXPECT_FALSE(publisher->overtaking());
    for (int k = 0; k < kKeys; ++k) {
      int next = 0;
      for (const auto& id : publisher->stored_of(std::to_string(k))) {
        const int n = std::stoi(id.substr(id.find('.') + 1));
        EXPECT_LE(n, next) << "stored before its predecessor";
        next = std::max(next, n + 1);
      }
      EXPECT_EQ(next, kEach);
    }
  }
}

TEST_F(RelayTest, NamesWhatIsWrong) {
  const Channel good{"memory", "orders", publisher_};
  EXPECT_THROW((Relay{log_, {}}), std::invalid_argument);
  EXPECT_THROW((Relay{log_, {{"", good}}}), std::invalid_argument);
  EXPECT_THROW((Relay{log_, {{"*", {"memory", "orders", nullptr}}}}), std::invalid_argument);
  const auto with = [&](auto change) {
    RelayOptions options;
    change(options);
    try {
      Relay{log_, {{"*", good}}, options};
    } catch (const std::invalid_argument& error) {
      return std::string{error.what()};
    }
    return std::string{};
  };
  EXPECT_NE(with([](auto& o) { o.batch = 0; }).find("batch"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.in_flight = 0; }).find("in_flight"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.rejections = 0; }).find("rejections"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.idle_wait = 0ms; }).find("idle_wait"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.publish_timeout = -1ms; }).find("publish_timeout"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.drain_timeout = 0ms; }).find("drain_timeout"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.clock = nullptr; }).find("clock"), std::string::npos);
  Relay relay{log_, {{"*", good}}};
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_TRUE(relay.run(stopped.get_token()));
  EXPECT_THROW(relay.run(stopped.get_token()), std::logic_error);
}

}  // namespace
}  // namespace penstock
