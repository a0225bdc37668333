// SPDX-License-Identifier: Apache-2.0
// What groups share, and what a retry waits for.
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/event.hpp"

namespace penstock::contract {
namespace {

using SteadyClock = std::chrono::steady_clock;

TEST_P(Contract, MembersOfAGroupShareTheMessages) {
  const auto channel = declare(4);
  const auto group = fresh("group");
  const auto sent = events(400, 40);
  store(channel, sent);
  std::vector<std::unique_ptr<Source>> members;
  members.push_back(join(channel, group, 10));
  members.push_back(join(channel, group, 10));

  std::set<std::string> missing = ids_of(sent);
  std::vector<std::size_t> shares(members.size(), 0);
  int number = 400;
  const auto both_had_some = [&] {
    for (std::size_t m = 0; m < members.size(); ++m) {
      for (const Message& message : members[m]->poll(10, 20ms)) {
        members[m]->ack(message);
        missing.erase(message.id());
        ++shares[m];
      }
    }
    if (!missing.empty()) return false;
    if (shares[0] > 0 && shares[1] > 0) return true;
    // One had taken everything before the other was in.
    std::vector<Event> more;
    for (int key = 0; key < 40; ++key, ++number) more.push_back(event("key-" + std::to_string(key), number));
    store(channel, more);
    missing = ids_of(more);
    return false;
  };
  EXPECT_TRUE(eventually(both_had_some)) << missing.size() << " never came";
  EXPECT_GT(std::min(shares[0], shares[1]), 0U) << "a member got nothing";
}

TEST_P(Contract, MessagesOfAKeyGoToOneMemberAtATimeWhereOrdered) {
  const auto channel = declare(2);
  const auto group = fresh("group");
  std::vector<std::unique_ptr<Source>> members;
  members.push_back(join(channel, group, 2));
  members.push_back(join(channel, group, 2));
  // Both are in when both have been given something.
  std::set<std::size_t> in;
  const auto both_in = [&] {
    store(channel, {event("a", 0), event("b", 0), event("c", 0), event("d", 0)});
    for (std::size_t m = 0; m < members.size(); ++m) {
      for (const Message& message : members[m]->poll(1, 100ms)) {
        in.insert(m);
        members[m]->ack(message);
      }
    }
    return in.size() == members.size();
  };
  ASSERT_TRUE(eventually(both_in));
  const auto drained = [&] {
    bool any = false;
    for (auto& member : members) {
      for (const Message& message : member->poll(10, 200ms)) {
        member->ack(message);
        any = true;
      }
    }
    return !any;
  };
  ASSERT_TRUE(eventually(drained));

  const auto sent = events(6, 1);
  const auto ids = ids_of(sent);
  store(channel, sent);
  std::set<std::size_t> holders;
  const auto deadline =
      SteadyClock::now() + (traits().source.ordered ? SteadyClock::duration{2s} : SteadyClock::duration{patience});
  while (holders.size() < members.size() && SteadyClock::now() < deadline) {
    for (std::size_t m = 0; m < members.size(); ++m) {
      for (const Message& message : members[m]->poll(1, 50ms)) {
        if (ids.contains(message.id())) {
          holders.insert(m);
        } else {
          members[m]->ack(message);
        }
      }
    }
  }
  EXPECT_EQ(holders.size(), traits().source.ordered ? 1U : 2U) << "members that hold unsettled messages of the one key";
}

TEST_P(Contract, GroupsEachGetEverythingWhereThereAreGroups) {
  const auto channel = declare();
  const auto sent = events(30, 3);
  store(channel, sent);
  const auto first = join(channel, fresh("group"));
  const auto second = join(channel, fresh("group"));
  if (traits().groups) {
    expect_key_order(sent, consume(*first, sent.size()));
    expect_key_order(sent, consume(*second, sent.size()));
    return;
  }
  std::set<std::string> missing = ids_of(sent);
  std::size_t received = 0;
  const auto all = [&] {
    for (Source* source : {first.get(), second.get()}) {
      for (const Message& message : source->poll(100, 20ms)) {
        source->ack(message);
        missing.erase(message.id());
        ++received;
      }
    }
    return missing.empty();
  };
  EXPECT_TRUE(eventually(all));
  EXPECT_EQ(received, sent.size()) << "the channel is the group: each message goes to one of them";
}

TEST_P(Contract, NewGroupReadsFromTheStartWhereReplayable) {
  const auto channel = declare();
  const auto sent = events(50, 5);
  store(channel, sent);
  {
    const auto source = join(channel, fresh("group"));
    consume(*source, sent.size());
    source->close(10s);
  }
  const auto source = join(channel, fresh("late-group"));
  if (traits().source.replayable) {
    expect_key_order(sent, consume(*source, sent.size()));
  } else {
    EXPECT_EQ(leftovers(*source), Ids{}) << "settled messages can be read again: say `replayable`";
  }
}

TEST_P(Contract, RedeliveryToTheOtherMemberWhenOneLeaves) {
  const auto channel = declare(2);
  const auto group = fresh("group");
  auto leaver = join(channel, group);
  const auto sent = events(20, 10);
  store(channel, sent);
  hold(*leaver, sent.size());
  const auto stayer = join(channel, group);
  std::set<std::string> missing = ids_of(sent);
  const auto all = [&] {
    for (const Message& message : stayer->poll(100, 100ms)) {
      stayer->ack(message);
      missing.erase(message.id());
    }
    return missing.empty();
  };
  all();
  leaver.reset();
  EXPECT_TRUE(eventually(all)) << missing.size() << " never came";
}

TEST_P(Contract, RetryWaitsAtLeastItsDelay) {
  const auto channel = declare(1);
  const auto sent = events(1, 1);
  store(channel, sent);
  const auto source = join(channel, fresh("group"));
  const auto first = take(*source, 1);
  ASSERT_EQ(first.size(), 1U);
  const auto start = SteadyClock::now();
  source->retry(first[0], 700ms);
  const auto second = consume(*source, 1);
  ASSERT_EQ(second.size(), 1U);
  // Clocks of servers tick in milliseconds, and the server's delay may begin a moment before this clock was read.
  EXPECT_GE(SteadyClock::now() - start, 650ms);
  EXPECT_EQ(second[0].event, sent[0]) << "the same event, nothing added";
  EXPECT_TRUE(second[0].origin.redelivered);
  EXPECT_EQ(leftovers(*source), Ids{}) << "the acknowledged retry came again";
}

TEST_P(Contract, RetryLetsOthersPassWhereTheBackendDelays) {
  const auto channel = declare(1);
  const auto sent = std::vector<Event>{event("a", 1), event("b", 2), event("c", 3)};
  store(channel, sent);
  const auto source = join(channel, fresh("group"));
  const auto first = take(*source, 1);
  ASSERT_EQ(first.size(), 1U);
  ASSERT_EQ(first[0].id(), sent[0].id);
  source->retry(first[0], 2500ms);
  const auto rest = ids_of(consume(*source, 3));
  if (traits().source.delays) {
    EXPECT_EQ(rest, (Ids{sent[1].id, sent[2].id, sent[0].id}));
  } else {
    EXPECT_EQ(rest, (Ids{sent[0].id, sent[1].id, sent[2].id})) << "those behind wait, in order";
  }
}

TEST_P(Contract, RetryManyTimesLosesNothing) {
  const auto channel = declare();
  const auto sent = events(30, 10);
  store(channel, sent);
  const auto source = join(channel, fresh("group"), 100);
  std::map<std::string, int> attempts;
  std::set<std::string> done;
  const auto all = [&] {
    for (const Message& message : source->poll(10, 100ms)) {
      if (++attempts[message.id()] < 3) {
        source->retry(message, 20ms);
      } else {
        source->ack(message);
        done.insert(message.id());
      }
    }
    return done.size() == sent.size();
  };
  EXPECT_TRUE(eventually(all)) << done.size() << " of " << sent.size() << " came three times";
  EXPECT_EQ(leftovers(*source), Ids{});
}

}  // namespace
}  // namespace penstock::contract
