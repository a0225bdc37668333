// SPDX-License-Identifier: Apache-2.0
// What a source promises: each message until it is settled, from where it says, as its traits say.
#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/envelope.hpp"
#include "penstock/event.hpp"

namespace penstock::contract {
namespace {

TEST_P(Contract, Rule22_TraitsAreWhatTheTableSays) {
  const auto channel = declare();
  const auto source = backend().source(channel, 10);
  EXPECT_EQ(source->traits().ordered, traits().source.ordered);
  EXPECT_EQ(source->traits().replayable, traits().source.replayable);
  EXPECT_EQ(source->traits().delays, traits().source.delays);
  EXPECT_EQ(source->channel(), channel);
}

TEST_P(Contract, OriginSaysWhereAMessageCameFrom) {
  const auto channel = declare(1);
  store(channel, {event("key", 1), event("key", 2)});
  const auto source = join(channel, fresh("group"));
  const auto messages = consume(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  for (const Message& message : messages) {
    EXPECT_EQ(message.origin.backend, backend().channel(channel).backend);
    EXPECT_EQ(message.origin.channel, channel);
    EXPECT_EQ(message.origin.partition, traits().partitions ? 0 : -1);
    EXPECT_GE(message.origin.deliveries, traits().counts ? 1U : 0U);
    EXPECT_LE(message.origin.deliveries, 1U);
    EXPECT_FALSE(message.origin.redelivered);
  }
  if (traits().positions) {
    EXPECT_GE(messages[0].origin.position, 0);
    EXPECT_LT(messages[0].origin.position, messages[1].origin.position);
  } else {
    EXPECT_EQ(messages[0].origin.position, -1);
  }
}

TEST_P(Contract, PollOfAnEmptyChannelWaitsAndReturnsNothing) {
  const auto channel = declare();
  const auto source = join(channel, fresh("group"));
  EXPECT_EQ(ids_of(source->poll(10, 50ms)), Ids{});
  const auto sent = events(3, 3);
  store(channel, sent);
  consume_ids(*source, ids_of(sent));
}

TEST_P(Contract, SettledIsNotDeliveredAgain) {
  const auto channel = declare();
  const auto group = fresh("group");
  const auto sent = events(60, 6);
  store(channel, sent);
  {
    const auto source = join(channel, group);
    consume(*source, sent.size());
    source->close(10s);
  }
  const auto next = event("key-0", 60);
  store(channel, {next});
  const auto source = join(channel, group);
  EXPECT_EQ(ids_of(consume(*source, 1)), (Ids{next.id}));
  EXPECT_EQ(leftovers(*source), Ids{});
}

// Nothing is settled before its effect: a receiver that dies between receiving and acknowledging loses nothing.
TEST_P(Contract, RedeliveryOfWhatALostReceiverHadNotSettled) {
  const auto channel = declare(1);
  const auto group = fresh("group");
  const auto sent = events(5, 1);
  store(channel, sent);
  std::size_t lost = 0;
  {
    const auto source = join(channel, group);
    consume(*source, 2);
    lost = hold(*source, 3).size();
    source->close(10s);
  }
  const auto source = join(channel, group);
  const auto messages = consume(*source, 3);
  EXPECT_EQ(ids_of(messages), (Ids{sent[2].id, sent[3].id, sent[4].id}));
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool again = i < lost;
    EXPECT_EQ(messages[i].origin.deliveries, !traits().counts ? 0U : again ? 2U : 1U);
    EXPECT_EQ(messages[i].origin.redelivered, traits().marks && again);
  }
  EXPECT_EQ(leftovers(*source), Ids{});
}

TEST_P(Contract, RedeliveryAfterASourceVanishesWithoutClose) {
  const auto channel = declare();
  const auto group = fresh("group");
  const auto sent = events(40, 8);
  store(channel, sent);
  {
    const auto source = join(channel, group);
    hold(*source, sent.size());  // and is gone, as in a crash
  }
  const auto source = join(channel, group);
  expect_key_order(sent, consume(*source, sent.size()));
}

// Rule 11: an ack covers exactly what was processed, also when work completes out of order.
TEST_P(Contract, RedeliveryCoversExactlyWhatWasNotAcknowledged) {
  const auto channel = declare(1);
  const auto group = fresh("group");
  const auto sent = events(6, 1);
  store(channel, sent);
  {
    const auto source = join(channel, group);
    const auto messages = hold(*source, 6);
    ASSERT_EQ(messages.size(), traits().serial ? 1U : 6U);
    if (!traits().serial) {
      for (const std::size_t i : {5U, 3U, 1U}) source->ack(messages[i]);
    }
    source->close(10s);
  }
  const auto source = join(channel, group);
  if (traits().serial) {
    expect_key_order(sent, consume(*source, 6));  // nothing can be acknowledged ahead of another
  } else if (traits().exact) {
    EXPECT_EQ(ids_of(consume(*source, 3)), (Ids{sent[0].id, sent[2].id, sent[4].id}));
  } else {
    // One position per partition: from the lowest unsettled message on, all come again. More than needed, never less.
    expect_key_order(sent, consume(*source, 6));
  }
  EXPECT_EQ(leftovers(*source), Ids{});
}

TEST_P(Contract, SettlingTwiceOrAfterCloseIsHarmless) {
  const auto channel = declare(1);
  const auto group = fresh("group");
  const auto sent = events(2, 1);
  store(channel, sent);
  const auto source = join(channel, group);
  const auto first = consume(*source, 1);
  ASSERT_EQ(first.size(), 1U);
  source->ack(first[0]);  // twice is once
  const auto second = take(*source, 1);
  ASSERT_EQ(second.size(), 1U);
  source->ack(first[0]);
  source->close(10s);
  source->ack(second[0]);  // too late, and no harm
  source->retry(second[0], 0ms);
  const auto after = join(channel, group);
  EXPECT_EQ(ids_of(consume(*after, 1)), (Ids{sent[1].id}));
}

TEST_P(Contract, PrefetchBoundsWhatIsUnsettled) {
  const auto channel = declare(1);
  const auto sent = events(12, 1);
  store(channel, sent);
  const auto source = join(channel, fresh("group"), 4);
  if (traits().serial) {
    for (const Event& event : {sent[0], sent[1]}) {
      const auto one = take(*source, 1);
      ASSERT_EQ(ids_of(one), Ids{event.id});
      EXPECT_EQ(leftovers(*source), Ids{}) << "more than one of a partition";
      source->ack(one[0]);
    }
    return;
  }
  if (!traits().bounded) {
    consume(*source, 4);
    EXPECT_EQ(take(*source, 8).size(), 8U) << "intake never stops: the caller bounds it with `max` and `pause`";
    return;
  }
  auto messages = take(*source, 4);
  ASSERT_EQ(messages.size(), 4U);
  EXPECT_EQ(leftovers(*source), Ids{}) << "more than prefetch allows";
  source->ack(messages[1]);
  source->ack(messages[2]);
  EXPECT_EQ(ids_of(take(*source, 2)), (Ids{sent[4].id, sent[5].id}));
  EXPECT_EQ(leftovers(*source), Ids{});
}

TEST_P(Contract, PauseStopsIntakeAndKeepsTheSubscription) {
  const auto channel = declare(1);
  const auto source = join(channel, fresh("group"));
  const auto sent = events(6, 1);
  store(channel, {sent.begin(), sent.begin() + 3});
  auto messages = consume(*source, 3);
  source->pause(true);
  store(channel, {sent.begin() + 3, sent.end()});
  EXPECT_EQ(leftovers(*source), Ids{});
  source->pause(false);
  auto more = consume(*source, 3);
  messages.insert(messages.end(), more.begin(), more.end());
  expect_key_order(sent, messages);
}

// A message that is no event comes with its bytes and a reason, and keeps nothing else from coming.
TEST_P(Contract, PoisonMessagesComeWithADefectAndOthersFlow) {
  const auto channel = declare(1);
  const Wire garbage{.key = "key", .headers = {}, .payload = std::string{"\xff\xfe not an event", 15}};
  const Wire broken{.key = "key",
                    .headers = {{"content-type", "application/cloudevents+json; charset=UTF-8"}},
                    .payload = R"({"specversion":"1.0","id":"cut o)"};
  const auto sent = events(2, 1);
  store(channel, {sent[0]});
  backend().put_raw(channel, garbage);
  backend().put_raw(channel, broken);
  store(channel, {sent[1]});

  const auto group = fresh("group");
  const auto source = join(channel, group);
  const auto messages = consume(*source, 4);
  ASSERT_EQ(messages.size(), 4U);
  EXPECT_EQ(messages[0].id(), sent[0].id);
  EXPECT_NE(messages[1].defect, "");
  EXPECT_EQ(messages[1].wire.payload, garbage.payload) << "the exact bytes, for the dead letter";
  EXPECT_NE(messages[2].defect, "");
  EXPECT_EQ(messages[2].wire.payload, broken.payload);
  EXPECT_EQ(messages[3].id(), sent[1].id);
  EXPECT_EQ(messages[3].defect, "");
  EXPECT_EQ(leftovers(*source), Ids{}) << "an acknowledged poison message came again";
}

TEST_P(Contract, CloseIsInTimeAndMayBeRepeated) {
  const auto channel = declare();
  store(channel, events(10, 2));
  const auto source = join(channel, fresh("group"));
  hold(*source, 10);
  const auto start = std::chrono::steady_clock::now();
  source->close(5s);
  source->close(5s);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

}  // namespace
}  // namespace penstock::contract
