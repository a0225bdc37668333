// SPDX-License-Identifier: Apache-2.0
// Where a publisher keeps the order within a call, a relay hands it many events of a key at once; D5 holds all the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/relay_pending.hpp"
#include "unit/core/relay_fixture.hpp"

namespace penstock {
namespace {

using test::confirmed;
using test::eventually;
using test::ids;
using test::rejected;
using test::RelayTest;
using test::ScriptedPublisher;
using namespace std::chrono_literals;

class RelayChain : public RelayTest {
 protected:
  RelayChain() { publisher_ = std::make_shared<ScriptedPublisher>(confirmed, true); }
};

TEST_F(RelayChain, TheEventsOfAKeyGoInOneCallAndTheNextOfItWaitForItsOutcome) {
  publisher_->set({});
  for (const auto& id : ids("k", 5)) {
    log_.append(id, "k");
  }
  start();
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 1; }));
  EXPECT_EQ(publisher_->held_ids(0), ids("k", 5));
  log_.append("k5", "k");
  log_.append("other", "o");
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 2; }));
  EXPECT_EQ(publisher_->held_ids(1), std::vector<std::string>{"other"});
  publisher_->answer_held(0, confirmed);
  ASSERT_TRUE(eventually([&] { return publisher_->held() == 2; }));
  EXPECT_EQ(publisher_->held_ids(1), std::vector<std::string>{"k5"});
  publisher_->answer_held(0, confirmed);
  publisher_->answer_held(0, confirmed);
  EXPECT_TRUE(all_stored(7));
  EXPECT_FALSE(publisher_->overtaking());
}

TEST_F(RelayChain, Rule7_WhatWentInVainBehindAFailureComesBackInOrder) {
  for (const auto& id : ids("k", 100)) {
    log_.append(id, "k");
  }
  int failures = 3;
  publisher_->set(
      [&](const Event& event) { return event.id == "k40" && failures-- > 0 ? test::retryable(event) : confirmed(event); });
  start();
  ASSERT_TRUE(all_stored(100));
  EXPECT_EQ(publisher_->stored_of("k"), ids("k", 100));
  EXPECT_EQ(publisher_->tries("k40"), 4);
  EXPECT_EQ(publisher_->tries("k41"), 2) << "behind one that has failed before nothing is sent along";
  EXPECT_FALSE(status().away) << "what went in vain is no sign that the broker is away";
}

TEST_F(RelayChain, Rule6_APoisonEventAmongManyOfItsKeyIsBuriedAndTheRestArriveInOrder) {
  for (const auto& id : ids("k", 100)) {
    log_.append(id, "k");
  }
  publisher_->set([](const Event& event) { return event.id == "k7" ? rejected(event) : confirmed(event); });
  start();
  ASSERT_TRUE(all_stored(99));
  auto expected = ids("k", 100);
  expected.erase(expected.begin() + 7);
  EXPECT_EQ(publisher_->stored_of("k"), expected);
  ASSERT_EQ(log_.burials().size(), 1U);
  EXPECT_EQ(log_.burials()[0].id, "k7");
  EXPECT_EQ(log_.burials()[0].attempts, options_.rejections);
}

TEST_F(RelayChain, NothingBehindADeadLetterIsSentWhenItsKeyIsHeld) {
  options_.after_dead_letter = AfterDeadLetter::hold;
  for (const auto& id : ids("k", 20)) {
    log_.append(id, "k");
  }
  log_.append("other", "o");
  publisher_->set([](const Event& event) { return event.id == "k3" ? rejected(event) : confirmed(event); });
  start();
  ASSERT_TRUE(eventually([&] { return log_.parked().size() == 16; }));
  ASSERT_TRUE(all_stored(4));
  EXPECT_EQ(publisher_->stored_of("k"), ids("k", 3));
  auto behind = ids("k", 20);
  behind.erase(behind.begin(), behind.begin() + 4);
  EXPECT_EQ(log_.parked(), behind);
}

// Against a model: whatever is taken, confirmed, fenced and held, each key's events are stored in their order, each once.
TEST(RelayPendingModel, Rule7_AnyRunOfOutcomesKeepsTheOrderOfEachKey) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random{seed};
    const bool chained = seed % 2 == 0;
    RelayPending pending{chained};
    std::map<std::string, std::vector<std::uint64_t>> stored;
    std::map<std::string, std::vector<std::uint64_t>> appended;
    std::vector<std::vector<std::uint64_t>> calls;
    std::uint64_t last = 0;
    std::set<std::uint64_t> settled;
    const auto finish = [&](std::uint64_t sequence) {
      pending.settle(sequence);
      EXPECT_TRUE(settled.insert(sequence).second);
    };
    Clock::TimePoint now{};
    for (int step = 0; step < 400 || pending.size() > 0; ++step) {
      const bool ending = step >= 400;
      switch (random() % 4) {
        case 0:
          if (!ending) {
            const std::string key = random() % 5 == 0 ? "" : std::string(1, static_cast<char>('a' + random() % 4));
            pending.add({.sequence = ++last, .event = {.id = std::to_string(last), .key = key}});
            appended[key].push_back(last);
          }
          break;
        case 1:
          if (auto taken = pending.take(1 + random() % 8); !taken.empty()) {
            EXPECT_TRUE(std::is_sorted(taken.begin(), taken.end()));
            calls.push_back(std::move(taken));
          }
          break;
        case 2:
          if (!calls.empty()) {
            const auto call = calls.begin() + static_cast<std::ptrdiff_t>(random() % calls.size());
            std::set<std::string> failed;
            std::vector<std::uint64_t> fence;
            for (const std::uint64_t sequence : *call) {
              const std::string key = pending.item(sequence).entry.event.key;
              const bool fails = failed.count(key) != 0 || (!ending && random() % 6 == 0);
              if (!fails) {
                stored[key].push_back(sequence);
                finish(sequence);
              } else if (pending.is_behind(sequence)) {
                pending.put_back(sequence);
              } else {
                ++pending.item(sequence).failures;
                fence.push_back(sequence);
                if (!key.empty()) failed.insert(key);
              }
            }
            for (const std::uint64_t sequence : fence) {
              pending.fence(sequence, now + std::chrono::milliseconds{random() % 10});
            }
            calls.erase(call);
          }
          break;
        default: now += 3ms; pending.release_due(now);
      }
      EXPECT_EQ(pending.size(), last - settled.size());
      const std::uint64_t through = pending.settled_through();
      EXPECT_EQ(settled.count(through + 1), 0U);
      EXPECT_TRUE(through == 0 || settled.count(through) == 1);
    }
    EXPECT_EQ(pending.bytes(), 0U);
    EXPECT_FALSE(pending.any_ready() || pending.any_fenced());
    for (const auto& [key, sequences] : appended) {
      if (!key.empty()) {
        EXPECT_EQ(stored[key], sequences) << "key " << key << ", seed " << seed << (chained ? ", chained" : "");
      } else {
        EXPECT_EQ(stored[key].size(), sequences.size());
      }
    }
  }
}

}  // namespace
}  // namespace penstock
