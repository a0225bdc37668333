// SPDX-License-Identifier: Apache-2.0
// What a relay makes of events that a channel refuses, of channels that refuse everything, and of events without a channel.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "penstock/dead_letter.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "unit/core/relay_fixture.hpp"

namespace penstock {
namespace {

using ::penstock::testing::MemoryDatastore;
using test::confirmed;
using test::eventually;
using test::ids;
using test::kCursor;
using test::rejected;
using test::ScriptedPublisher;
using namespace std::chrono_literals;

class CountingLogger final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    const std::lock_guard lock{mutex_};
    if (level == LogLevel::error) {
      errors_.push_back(message);
    }
  }
  std::size_t errors(const std::string& part) {
    const std::lock_guard lock{mutex_};
    return static_cast<std::size_t>(std::count_if(
        errors_.begin(), errors_.end(), [&](const std::string& message) { return message.find(part) != std::string::npos; }));
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

class RelayFailures : public test::RelayTest {
 protected:
  std::shared_ptr<CountingLogger> logger_ = std::make_shared<CountingLogger>();
  RelayFailures() { options_.logger = logger_; }
};

TEST_F(RelayFailures, Rule6_OnePoisonEventAmongTenThousandCostsTheOthersNothing) {
  constexpr int kEvents = 10'000;
  publisher_->set([](const Event& event) { return event.id == "e5000" ? rejected(event) : confirmed(event); });
  for (const auto& id : ids("e", kEvents)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(all_stored(kEvents - 1));
  ASSERT_TRUE(eventually([&] { return log_.burials().size() == 1; }));
  ASSERT_TRUE(eventually([&] { return log_.checkpoint(kCursor) == kEvents; }));
  EXPECT_EQ(publisher_->sent(), kEvents + 2U) << "nobody else was sent twice";
  EXPECT_LE(publisher_->calls(), kEvents / options_.batch + 2U) << "no batch was torn";
}

TEST_F(RelayFailures, Rule17_ASystemicFailureIsSaidOnceAndEndsByItself) {
  publisher_->set(rejected);
  for (const auto& id : ids("e", 30)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(eventually([&] { return status().systemic; }));
  const auto calls = publisher_->calls();
  ASSERT_TRUE(eventually([&] { return publisher_->calls() > calls + 5; }));
  EXPECT_TRUE(log_.burials().empty());
  EXPECT_EQ(logger_->errors("nothing more is dead-lettered"), 1U);
  EXPECT_FALSE(status().away);
  EXPECT_EQ(status().last_error, "too large");
  EXPECT_TRUE(status().last_error_at.has_value());
  publisher_->set(confirmed);
  ASSERT_TRUE(all_stored(30));
  EXPECT_TRUE(eventually([&] { return !status().systemic; }));
  EXPECT_TRUE(log_.burials().empty());
}

TEST_F(RelayFailures, Rule17_OneKeyIsNotTheChannel) {
  options_.rejections = 1;
  publisher_->set(rejected);
  for (const auto& id : ids("e", 60)) {
    log_.append(id, "same");
  }
  start();
  EXPECT_TRUE(eventually([&] { return log_.burials().size() == 60; }));
  EXPECT_EQ(logger_->errors("nothing more"), 0U);
}

TEST_F(RelayFailures, Rule17_HowManyAreTooManyIsDeclared) {
  options_.rejections = 1;
  options_.systemic = {.rejected = 5, .of = 10, .keys = 3};
  publisher_->set(rejected);
  for (const auto& id : ids("e", 5)) {
    log_.append(id, id);
  }
  start();
  EXPECT_TRUE(eventually([&] { return status().systemic; }));
  EXPECT_TRUE(log_.burials().empty());
}

TEST_F(RelayFailures, Rule17_ManyPoisonEventsAmongGoodOnesAreBuriedAllTheSame) {
  const auto bad = [](const Event& event) { return event.id.front() == 'x'; };
  publisher_->set([bad](const Event& event) { return bad(event) ? rejected(event) : confirmed(event); });
  for (const auto& id : ids("e", 300)) {
    log_.append(id, id);
  }
  for (const auto& id : ids("x", 60)) {
    log_.append(id, id);
  }
  start();
  // They are more than `systemic` allows; but others go through all the while.
  int next = 0;
  EXPECT_TRUE(eventually([&] {
    const auto id = "later" + std::to_string(next++);
    log_.append(id, id);
    std::this_thread::sleep_for(1ms);
    return log_.burials().size() == 60;
  }));
  EXPECT_TRUE(all_stored(300 + static_cast<std::size_t>(next)));
  for (const auto& burial : log_.burials()) {
    EXPECT_EQ(burial.id.front(), 'x');
  }
}

TEST_F(RelayFailures, ReadsNoMoreBytesThanItMayHold) {
  publisher_->set({});
  options_.in_flight_bytes = 100'000;
  options_.batch = 10;
  for (const auto& id : ids("e", 200)) {
    log_.append(Event{.id = id, .source = "/s", .type = "t", .data = std::string(10'000, 'x')});
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->sent() >= 9; }));
  const auto calls = log_.calls();
  ASSERT_TRUE(eventually([&] { return log_.calls() > calls + 10; }));
  EXPECT_LE(publisher_->sent(), 12U);
  EXPECT_GE(status().in_flight_bytes, 90'000U);
  EXPECT_LE(status().in_flight_bytes, 125'000U);
  publisher_->set(confirmed);
  while (publisher_->held() > 0) {
    publisher_->answer_held(0, confirmed);
  }
  ASSERT_TRUE(all_stored(200));
  EXPECT_TRUE(eventually([&] { return status().in_flight_bytes == 0; }));
}

TEST_F(RelayFailures, AnEventLargerThanTheBoundGoesAlone) {
  options_.in_flight_bytes = 10;
  for (const auto& id : ids("e", 20)) {
    log_.append(id, "k");
  }
  start();
  EXPECT_TRUE(all_stored(20));
  EXPECT_EQ(publisher_->stored(), ids("e", 20));
}

// Keys that wait behind a dead letter.

class RelayHold : public test::RelayTest {
 protected:
  MemoryDatastore store_;
  std::set<std::string> bad_{"a0"};
  std::mutex mutex_;

  RelayHold() {
    options_.after_dead_letter = AfterDeadLetter::hold;
    publisher_->set([this](const Event& event) {
      const std::lock_guard lock{mutex_};
      return bad_.count(event.id) != 0 ? rejected(event) : confirmed(event);
    });
  }
  ~RelayHold() override { stop(); }

  void set_bad(std::set<std::string> bad) {
    const std::lock_guard lock{mutex_};
    bad_ = std::move(bad);
  }
  void append(const std::string& id, const std::string& key) {
    store_.append({.id = id, .source = "/s", .type = "t", .key = key});
  }
  void start_relay() {
    stop();
    relay_ = std::make_unique<Relay>(store_, std::vector<Route>{{"*", {"memory", "orders", publisher_}}}, options_);
    thread_ = std::jthread{[this](std::stop_token token) { drained_ = relay_->run(std::move(token)); }};
  }
};

TEST_F(RelayHold, Rule6_AHeldKeyWaitsAlsoAfterARestartAndGoesOnInOrder) {
  for (const auto& id : ids("a", 3)) {
    append(id, "a");
  }
  for (const auto& id : ids("b", 50)) {
    append(id, "b");
  }
  start_relay();
  ASSERT_TRUE(eventually([&] { return status().parked == 2; }));
  EXPECT_TRUE(eventually([&] { return publisher_->stored_of("b").size() == 50; })) << "other keys flow";
  EXPECT_EQ(status().buried, 1U);
  EXPECT_EQ(status().held_keys, 1U);
  append("a3", "a");
  ASSERT_TRUE(eventually([&] { return status().parked == 3; }));

  start_relay();  // another one: what is held is not in its memory
  append("a4", "a");
  append("b50", "b");
  ASSERT_TRUE(eventually([&] { return status().parked == 1; }));
  ASSERT_TRUE(eventually([&] { return publisher_->stored_of("b").size() == 51; }));
  EXPECT_TRUE(publisher_->stored_of("a").empty());
  EXPECT_EQ(publisher_->tries("a1"), 0);
  EXPECT_EQ(publisher_->tries("b0"), 1) << "what waits holds back no checkpoint, so nothing is repeated";

  store_.discard_dead_letters("a");
  ASSERT_TRUE(eventually([&] { return publisher_->stored_of("a").size() == 4; }));
  ASSERT_TRUE(eventually([&] { return status().held_keys == 0; }));
  append("a5", "a");
  ASSERT_TRUE(eventually([&] { return publisher_->stored_of("a").size() == 5; }));
  EXPECT_EQ(publisher_->stored_of("a"), (std::vector<std::string>{"a1", "a2", "a3", "a4", "a5"}));
  EXPECT_EQ(status().parked, 1U) << "the last went straight";
}

TEST_F(RelayHold, Rule6_AKeyThatWasFreedIsHeldAgainByTheNextPoison) {
  set_bad({"a0", "a2"});
  for (const auto& id : ids("a", 5)) {
    append(id, "a");
  }
  start_relay();
  ASSERT_TRUE(eventually([&] { return status().parked == 4; }));
  store_.discard_dead_letters("a");
  ASSERT_TRUE(eventually([&] { return status().buried == 2; }));
  EXPECT_EQ(publisher_->stored_of("a"), (std::vector<std::string>{"a1"}));
  ASSERT_EQ(store_.dead_letters().size(), 1U);
  EXPECT_EQ(store_.dead_letters()[0].message.event.id, "a2");
  store_.discard_dead_letters("a");
  ASSERT_TRUE(eventually([&] { return publisher_->stored_of("a").size() == 3; }));
  EXPECT_EQ(publisher_->stored_of("a"), (std::vector<std::string>{"a1", "a3", "a4"}));
}

TEST_F(RelayHold, Rule1_WhatWasFreedAndNotConfirmedIsSentAgain) {
  append("a0", "a");
  append("a1", "a");
  start_relay();
  ASSERT_TRUE(eventually([&] { return status().parked == 1; }));
  publisher_->set({});
  store_.discard_dead_letters("a");
  ASSERT_TRUE(eventually([&] { return publisher_->tries("a1") == 1; }));
  options_.drain_timeout = 20ms;
  thread_.request_stop();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 1; }));
  publisher_->answer_held(0, test::retryable);
  publisher_->set(confirmed);
  start_relay();
  ASSERT_TRUE(eventually([&] { return publisher_->stored_of("a").size() == 1; }));
  EXPECT_EQ(publisher_->stored_of("a"), (std::vector<std::string>{"a1"}));
}

TEST_F(RelayHold, EventsWithoutAKeyAreHeldByNobody) {
  append("a0", "");
  append("a1", "");
  start_relay();
  ASSERT_TRUE(eventually([&] { return status().buried == 1; }));
  EXPECT_TRUE(eventually([&] { return publisher_->stored().size() == 1; }));
  EXPECT_EQ(status().held_keys, 0U);
}

// Keys whose first event keeps failing.

class RelayAside : public RelayHold {
 protected:
  std::set<std::string> failing_{"a0"};

  RelayAside() {
    options_.after_dead_letter = AfterDeadLetter::next;
    options_.batch = 20;
    options_.in_flight = 100;
    set_bad({});
    publisher_->set([this](const Event& event) {
      const std::lock_guard lock{mutex_};
      return bad_.count(event.id) != 0       ? rejected(event)
             : failing_.count(event.id) != 0 ? test::retryable(event)
                                             : confirmed(event);
    });
  }
  ~RelayAside() override { stop(); }

  void set_failing(std::set<std::string> failing) {
    const std::lock_guard lock{mutex_};
    failing_ = std::move(failing);
  }
  bool all_stored_of(const std::string& key, std::size_t count) {
    return eventually([&] { return publisher_->stored_of(key).size() >= count; });
  }
};

TEST_F(RelayAside, Rule6_AKeyThatKeepsFailingTakesNoRoomFromOthersWhateverItsTraffic) {
  constexpr std::size_t kEvents = 3'000;
  for (std::size_t i = 0; i < kEvents; ++i) {
    append("a" + std::to_string(i), "a");
    append("b" + std::to_string(i), "b");
  }
  start_relay();
  ASSERT_TRUE(all_stored_of("b", kEvents));
  EXPECT_TRUE(eventually([&] { return status().fenced_keys == 1 && status().parked == kEvents; }));
  EXPECT_EQ(status().held_keys, 0U) << "no dead letter holds it";
  EXPECT_TRUE(publisher_->stored_of("a").empty());
  EXPECT_TRUE(store_.dead_letters().empty());
  EXPECT_EQ(publisher_->tries("a1"), 0);

  start_relay();  // what waits holds back no checkpoint, so nothing is repeated, and it is still tried
  const auto tries = publisher_->tries("a0");
  EXPECT_TRUE(eventually([&] { return publisher_->tries("a0") > tries; }));
  append("b" + std::to_string(kEvents), "b");
  ASSERT_TRUE(all_stored_of("b", kEvents + 1));
  EXPECT_EQ(publisher_->tries("b0"), 1);

  set_failing({});
  ASSERT_TRUE(all_stored_of("a", kEvents));
  EXPECT_EQ(publisher_->stored_of("a"), ids("a", kEvents));
  EXPECT_TRUE(eventually([&] { return status().fenced_keys == 0; }));
}

TEST_F(RelayAside, Rule6_NorDoManyKeysThatKeepFailing) {
  std::set<std::string> failing;
  for (std::size_t i = 0; i < 1'000; ++i) {
    const std::string number = std::to_string(i);
    failing.insert("a" + number);
    append("a" + number, "a" + number);
    append("later" + number, "a" + number);
    append("b" + number, "b");
  }
  set_failing(failing);
  start_relay();
  EXPECT_TRUE(all_stored_of("b", 1'000));
  set_failing({});
  EXPECT_TRUE(all_stored(3'000));
  EXPECT_EQ(publisher_->stored_of("a7"), (std::vector<std::string>{"a7", "later7"}));
}

TEST_F(RelayAside, Rule6_NorDoEventsWithoutAKey) {
  std::set<std::string> failing;
  for (std::size_t i = 0; i < 300; ++i) {
    failing.insert("a" + std::to_string(i));
    append("a" + std::to_string(i), "");
    append("b" + std::to_string(i), "b");
  }
  set_failing(failing);
  start_relay();
  EXPECT_TRUE(all_stored_of("b", 300));
  set_failing({});
  EXPECT_TRUE(all_stored(600));
}

TEST_F(RelayAside, Rule1_AnEventThatFailsForTenSecondsHoldsBackNoCheckpointThoughNothingElseWaits) {
  append("a0", "a");
  append("b0", "b");
  options_.clock = &clock_;
  start_relay();
  ASSERT_TRUE(all_stored_of("b", 1));
  ASSERT_TRUE(eventually([&] {
    clock_.advance(100ms);
    append("b", "b");  // so that it is not the broker that seems to be away
    return publisher_->tries("a0") > 3;
  }));
  EXPECT_EQ(status().parked, 0U) << "it may soon be over";
  ASSERT_TRUE(eventually([&] {
    clock_.advance(100ms);
    append("b", "b");
    return status().parked == 1;
  }));
  start_relay();
  set_failing({});
  ASSERT_TRUE(eventually([&] {
    clock_.advance(1s);
    return publisher_->stored_of("a").size() == 1;
  }));
  EXPECT_EQ(publisher_->tries("b0"), 1);
}

TEST_F(RelayAside, Rule6_WhatWasSetAsideMayBecomeADeadLetter) {
  for (std::size_t i = 0; i < 200; ++i) {
    append("a" + std::to_string(i), "a");
  }
  append("b", "b");
  start_relay();
  ASSERT_TRUE(all_stored_of("b", 1));
  set_bad({"a0"});
  set_failing({"a100"});
  ASSERT_TRUE(all_stored_of("a", 99));
  EXPECT_EQ(status().buried, 1U);
  ASSERT_EQ(store_.dead_letters().size(), 1U);
  EXPECT_GT(store_.dead_letters()[0].attempts.back().number, 3) << "those before count";
  set_failing({});
  ASSERT_TRUE(all_stored_of("a", 199));
  EXPECT_EQ(publisher_->stored_of("a").at(99), "a100");
}

TEST_F(RelayAside, Rule6_AndItsKeyIsHeldWhereThatIsDeclared) {
  options_.after_dead_letter = AfterDeadLetter::hold;
  for (std::size_t i = 0; i < 200; ++i) {
    append("a" + std::to_string(i), "a");
  }
  append("b", "b");
  start_relay();
  ASSERT_TRUE(all_stored_of("b", 1));
  set_bad({"a0"});
  set_failing({});
  ASSERT_TRUE(eventually([&] { return status().buried == 1 && status().held_keys == 1; }));
  EXPECT_TRUE(publisher_->stored_of("a").empty());
  store_.discard_dead_letters("a");
  ASSERT_TRUE(all_stored_of("a", 199));
  EXPECT_EQ(publisher_->stored_of("a").front(), "a1");
}

// Events that no route matches.

class RelayUnrouted : public RelayFailures {
 protected:
  void run_relay(const std::string& pattern) {
    relay_ = std::make_unique<Relay>(log_, std::vector<Route>{{pattern, {"memory", "orders", publisher_}}}, options_);
    thread_ = std::jthread{[this](std::stop_token token) { drained_ = relay_->run(std::move(token)); }};
  }
};

TEST_F(RelayUnrouted, AnEventWithoutARouteIsADeadLetter) {
  log_.append("e0", "k", "shop.order.placed");
  log_.append("e1", "k", "shop.ordre.placed");
  log_.append("e2", "k", dead_letters_of("jobs"));
  log_.append("e3", "k", "shop.order.placed");
  run_relay("shop.order.*");
  ASSERT_TRUE(all_stored(2));
  ASSERT_TRUE(eventually([&] { return log_.burials().size() == 1; }));
  EXPECT_EQ(log_.burials()[0].id, "e1");
  EXPECT_EQ(log_.burials()[0].channel, "unrouted");
  EXPECT_NE(log_.burials()[0].error.find("shop.ordre.placed"), std::string::npos);
  ASSERT_TRUE(eventually([&] { return relay_->status().unrouted->buried == 1; }));
  EXPECT_EQ(relay_->status().channels.size(), 1U);
  stop();
  EXPECT_EQ(log_.burials().size(), 1U) << "dead letters are recorded already";
}

TEST_F(RelayUnrouted, ManyOfThemAreNoSystemicFailure) {
  for (const auto& id : ids("e", 300)) {
    log_.append(id, id, "elsewhere");
  }
  run_relay("shop.*");
  EXPECT_TRUE(eventually([&] { return log_.burials().size() == 300; }));
  EXPECT_FALSE(relay_->status().unrouted->systemic);
}

TEST_F(RelayUnrouted, TheEventsOfAnotherRelayAreReportedAndNotBuried) {
  {
    // Another relay's cursor in the same log.
    Relay other{log_, {{"bank.*", {"memory", "bank", publisher_}}}, [&] {
                  RelayOptions options = options_;
                  options.unrouted = Unrouted::ignore;
                  return options;
                }()};
    EXPECT_FALSE(other.status().unrouted.has_value());
    std::jthread thread{[&](std::stop_token token) { other.run(std::move(token)); }};
    ASSERT_TRUE(eventually([&] { return other.status().channels[0].owner; }));
  }
  log_.append("e0", "k", "bank.transfer");
  log_.append("e1", "k", "bank.transfer");
  run_relay("shop.*");
  ASSERT_TRUE(eventually([&] { return relay_->status().unrouted->published == 2; }));
  EXPECT_TRUE(log_.burials().empty());
  EXPECT_EQ(logger_->errors("goes nowhere"), 1U);
  EXPECT_EQ(logger_->errors("memory:bank"), 1U);
}

TEST_F(RelayUnrouted, ThereIsNoneWhereEverythingHasARoute) {
  run_relay("*");
  EXPECT_FALSE(relay_->status().unrouted.has_value());
}

// What a relay says of itself.

TEST_F(RelayFailures, StatusTellsOfProgressToAnyThread) {
  std::atomic<bool> done{false};
  start();
  std::jthread reader{[&] {
    while (!done) {
      EXPECT_EQ(relay_->status().channels.size(), 1U);
    }
  }};
  for (const auto& id : ids("e", 500)) {
    log_.append(id, id);
  }
  ASSERT_TRUE(all_stored(500));
  EXPECT_TRUE(eventually([&] { return status().published == 500 && status().in_flight == 0; }));
  EXPECT_TRUE(status().owner);
  EXPECT_GT(status().rate, 0.0);
  EXPECT_TRUE(
      eventually([&] { return status().backlog && status().backlog->events == 0 && status().backlog->position == "500"; }));
  done = true;
}

TEST_F(RelayFailures, StatusTellsTheBacklogAlsoWithoutTheLease) {
  log_.set_held_elsewhere(kCursor, true);
  log_.append("e", "k");
  start();
  EXPECT_TRUE(eventually([&] { return status().backlog && status().backlog->events == 1; }));
  EXPECT_FALSE(status().owner);
}

TEST_F(RelayFailures, StatusTellsTheBacklogAnewWhenTheLeaseIsTaken) {
  log_.set_held_elsewhere(kCursor, true);
  log_.append("e", "k");
  start();
  ASSERT_TRUE(eventually([&] { return status().backlog && status().backlog->events == 1; }));
  log_.set_held_elsewhere(kCursor, false);
  ASSERT_TRUE(all_stored(1));
  const auto since = std::chrono::steady_clock::now();
  EXPECT_TRUE(eventually([&] { return status().backlog->events == 0; }));
  EXPECT_LT(std::chrono::steady_clock::now() - since, 5s);
}

TEST_F(RelayFailures, ABacklogBehindAnOutageIsMeasured) {
  publisher_->set(test::retryable);
  for (const auto& id : ids("e", 100)) {
    log_.append(id, id);
  }
  start();
  ASSERT_TRUE(eventually([&] { return status().away; }));
  EXPECT_TRUE(eventually([&] { return status().backlog && status().backlog->events == 100; }));
  EXPECT_EQ(status().in_flight, 100U);
}

}  // namespace
}  // namespace penstock
