// SPDX-License-Identifier: Apache-2.0
#include "conduit/assignment.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace penstock::conduit {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(Assignment, HandsOutNothingOfAPartitionItDoesNotHold) {
  Assignment assignment;
  EXPECT_FALSE(assignment.deliver(0, 0));
  assignment.add({0});
  EXPECT_TRUE(assignment.deliver(0, 0));
  assignment.remove({0});
  EXPECT_FALSE(assignment.deliver(0, 1));
}

TEST(Assignment, AReceiptFromBeforeARebalanceIsIgnored) {
  Assignment assignment;
  assignment.add({0});
  const auto before = assignment.deliver(0, 7);
  assignment.remove({0});
  EXPECT_FALSE(assignment.settle(0, 7, before->receipt));
  assignment.add({0});
  EXPECT_FALSE(assignment.settle(0, 7, before->receipt));
  const auto after = assignment.deliver(0, 7);
  ASSERT_TRUE(after);
  EXPECT_TRUE(after->redelivered);
  EXPECT_FALSE(assignment.settle(0, 7, before->receipt));
  EXPECT_TRUE(assignment.settle(0, 7, after->receipt));
}

TEST(Assignment, ARetryHoldsItsPartitionUntilItHasGoneBack) {
  Assignment assignment;
  assignment.add({0, 1});
  const auto first = assignment.deliver(0, 5);
  static_cast<void>(assignment.deliver(0, 6));
  const auto due = SteadyClock::now() + 1h;
  EXPECT_TRUE(assignment.retry(0, 5, first->receipt, due));
  EXPECT_FALSE(assignment.deliver(0, 7));
  EXPECT_TRUE(assignment.deliver(1, 0)) << "other partitions flow";
  const auto flow = assignment.flow(false);
  EXPECT_THAT(flow.stop, ElementsAre(0));
  EXPECT_THAT(assignment.flow(false).stop, IsEmpty()) << "asked for once";
  EXPECT_EQ(assignment.next_due(), due);
  EXPECT_THAT(assignment.due(due - 1ns), IsEmpty());
  EXPECT_THAT(assignment.due(due), ElementsAre(Pair(0, 5)));
  const auto epoch = assignment.epoch(0);
  assignment.rewound(0, 5, due);
  EXPECT_NE(assignment.epoch(0), epoch);
  EXPECT_THAT(assignment.flow(false).start, ElementsAre(0));
  const auto again = assignment.deliver(0, 5);
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->redelivered);
  EXPECT_TRUE(assignment.deliver(0, 6));
}

TEST(Assignment, TwoRetriesOfAPartitionGoBackToTheEarlierOffsetAtTheLaterTime) {
  Assignment assignment;
  assignment.add({0});
  const auto first = assignment.deliver(0, 5);
  const auto second = assignment.deliver(0, 6);
  const auto now = SteadyClock::now();
  assignment.retry(0, 6, second->receipt, now + 1s);
  assignment.retry(0, 5, first->receipt, now + 3s);
  EXPECT_THAT(assignment.due(now + 2s), IsEmpty());
  EXPECT_THAT(assignment.due(now + 3s), ElementsAre(Pair(0, 5)));
}

TEST(Assignment, ARetryThatComesWhileGoingBackIsNotForgotten) {
  Assignment assignment;
  assignment.add({0});
  const auto first = assignment.deliver(0, 5);
  const auto second = assignment.deliver(0, 6);
  const auto now = SteadyClock::now();
  assignment.retry(0, 6, second->receipt, now);
  ASSERT_THAT(assignment.due(now), ElementsAre(Pair(0, 6)));
  assignment.retry(0, 5, first->receipt, now);
  assignment.rewound(0, 6, now);
  EXPECT_THAT(assignment.due(now), ElementsAre(Pair(0, 5)));
}

TEST(Assignment, APartitionThatRemembersTooMuchIsStopped) {
  Assignment assignment{3};
  assignment.add({0});
  const auto first = assignment.deliver(0, 0);
  for (std::int64_t offset = 1; offset < 3; ++offset) {
    const auto later = assignment.deliver(0, offset);
    assignment.settle(0, offset, later->receipt);
  }
  EXPECT_THAT(assignment.flow(false).stop, ElementsAre(0));
  assignment.settle(0, 0, first->receipt);
  EXPECT_THAT(assignment.flow(false).start, ElementsAre(0));
}

TEST(Assignment, PositionsAreGivenOutWhenTheyMovedAndAgainWhenTheCommitFailed) {
  Assignment assignment;
  assignment.add({0, 1});
  const auto message = assignment.deliver(0, 4);
  EXPECT_THAT(assignment.take_moved(), ElementsAre(Pair(0, 4)));
  EXPECT_THAT(assignment.take_moved(), IsEmpty());
  assignment.settle(0, 4, message->receipt);
  EXPECT_THAT(assignment.take_moved({1}), IsEmpty());
  const auto moved = assignment.take_moved({0});
  EXPECT_THAT(moved, ElementsAre(Pair(0, 5)));
  assignment.not_committed(moved);
  EXPECT_THAT(assignment.take_moved(), ElementsAre(Pair(0, 5)));
}

// The topic was made anew, or its end was cut by an unclean election: what comes there now was never seen.
TEST(Assignment, OffsetsThatGoBackByThemselvesAreNewMessages) {
  Assignment assignment;
  assignment.add({0});
  const auto old = assignment.deliver(0, 100);
  assignment.settle(0, 100, old->receipt);
  const auto fresh = assignment.deliver(0, 3);
  ASSERT_TRUE(fresh);
  EXPECT_THAT(assignment.take_moved(), ElementsAre(Pair(0, 3)));
  EXPECT_TRUE(assignment.settle(0, 3, fresh->receipt));
}

TEST(Assignment, WithEndsItDeliversWhatIsBeforeThemAndIsFinishedWhenThatIsSettled) {
  Assignment assignment;
  EXPECT_FALSE(assignment.finished());
  assignment.set_ends({{0, 2}, {1, 0}});
  EXPECT_FALSE(assignment.finished()) << "nothing was given";
  assignment.add({0, 1, 7});
  const auto first = assignment.deliver(0, 0);
  const auto second = assignment.deliver(0, 1);
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(assignment.deliver(0, 2)) << "came later";
  EXPECT_FALSE(assignment.deliver(7, 0)) << "a partition that was not there";
  assignment.read_to(1, 0);
  EXPECT_EQ(assignment.flow(false).stop, (std::vector<std::int32_t>{0, 1, 7})) << "nothing more is wanted of them";
  EXPECT_TRUE(assignment.settle(0, 1, second->receipt));
  EXPECT_FALSE(assignment.finished());
  EXPECT_TRUE(assignment.retry(0, 0, first->receipt, {}));
  EXPECT_FALSE(assignment.finished());
  assignment.rewound(0, 0, {});
  EXPECT_EQ(assignment.flow(false).start, std::vector<std::int32_t>{0});
  const auto again = assignment.deliver(0, 0);
  ASSERT_TRUE(again);
  EXPECT_TRUE(assignment.settle(0, 0, again->receipt));
  EXPECT_FALSE(assignment.finished()) << "not seen to its end again";
  assignment.read_to(0, 1);
  EXPECT_FALSE(assignment.finished());
  assignment.read_to(0, 2);
  EXPECT_TRUE(assignment.finished());
  assignment.remove({0, 1, 7});
  EXPECT_FALSE(assignment.finished()) << "in the middle of a rebalance";
  assignment.add({});
  EXPECT_TRUE(assignment.finished()) << "others read them";
}

TEST(Assignment, WaitingEndsWhenTheLastMessageInWorkIsSettled) {
  Assignment assignment;
  assignment.add({0, 1});
  const auto message = assignment.deliver(0, 0);
  static_cast<void>(assignment.deliver(1, 0));
  EXPECT_FALSE(assignment.wait_settled({0}, SteadyClock::now()));
  std::jthread worker{[&] { assignment.settle(0, 0, message->receipt); }};
  EXPECT_TRUE(assignment.wait_settled({0}, SteadyClock::now() + 1min));
  EXPECT_EQ(assignment.in_work({0, 1}), 1U);
}

}  // namespace
}  // namespace penstock::conduit
