// SPDX-License-Identifier: Apache-2.0
#include "conduit/offset_tracker.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace penstock::conduit {
namespace {

TEST(OffsetTracker, KnowsNoPositionBeforeTheFirstDelivery) { EXPECT_FALSE(OffsetTracker{}.position()); }

// Rule 1: never let the durable position pass the lowest un-acknowledged event.
TEST(OffsetTracker, Rule1_PositionStaysAtTheLowestUnsettled) {
  OffsetTracker tracker;
  for (std::int64_t offset = 10; offset < 14; ++offset) EXPECT_TRUE(tracker.deliver(offset, 1));
  EXPECT_EQ(tracker.position(), 10);
  EXPECT_TRUE(tracker.settle(11, 1));
  EXPECT_TRUE(tracker.settle(13, 1));
  EXPECT_EQ(tracker.position(), 10);
  EXPECT_TRUE(tracker.settle(10, 1));
  EXPECT_EQ(tracker.position(), 12);
  EXPECT_TRUE(tracker.settle(12, 1));
  EXPECT_EQ(tracker.position(), 14);
  EXPECT_EQ(tracker.size(), 0U);
}

TEST(OffsetTracker, GapsBetweenOffsetsHoldNothingUp) {
  OffsetTracker tracker;
  tracker.deliver(5, 1);
  tracker.deliver(900, 1);
  EXPECT_TRUE(tracker.settle(5, 1));
  EXPECT_EQ(tracker.position(), 900);
  EXPECT_FALSE(tracker.settle(6, 1)) << "never delivered";
  EXPECT_TRUE(tracker.settle(900, 1));
  EXPECT_EQ(tracker.position(), 901);
}

TEST(OffsetTracker, SettlingTwiceCountsOnce) {
  OffsetTracker tracker;
  tracker.deliver(0, 1);
  tracker.deliver(1, 1);
  EXPECT_TRUE(tracker.settle(1, 1));
  EXPECT_FALSE(tracker.settle(1, 1));
  EXPECT_EQ(tracker.in_work(), 1U);
}

TEST(OffsetTracker, ARetriedMessageListensToItsNewReceiptOnly) {
  OffsetTracker tracker;
  tracker.deliver(0, 1);
  tracker.deliver(1, 2);
  EXPECT_TRUE(tracker.retry(0, 1));
  EXPECT_EQ(tracker.in_work(), 1U);
  EXPECT_FALSE(tracker.settle(0, 1)) << "it waits to be delivered again";
  EXPECT_FALSE(tracker.retry(0, 1));
  EXPECT_TRUE(tracker.deliver(0, 3));
  EXPECT_FALSE(tracker.settle(0, 1)) << "the receipt from before the retry";
  EXPECT_EQ(tracker.position(), 0);
  EXPECT_TRUE(tracker.settle(0, 3));
  EXPECT_EQ(tracker.position(), 1);
}

TEST(OffsetTracker, GoingBackRepeatsOnlyWhatIsNotSettled) {
  OffsetTracker tracker;
  for (std::int64_t offset = 0; offset < 4; ++offset) tracker.deliver(offset, 1);
  tracker.settle(2, 1);
  tracker.retry(1, 1);
  EXPECT_TRUE(tracker.deliver(1, 2));
  EXPECT_FALSE(tracker.deliver(2, 3)) << "settled meanwhile";
  EXPECT_TRUE(tracker.deliver(3, 4)) << "still in work, but whoever has it may have dropped it behind the retried one";
  EXPECT_TRUE(tracker.settle(3, 1)) << "its first receipt speaks for it still: nobody sent it back";
  tracker.settle(0, 1);
  tracker.settle(1, 2);
  EXPECT_EQ(tracker.position(), 4);
}

/// Against the plainest model: every delivery, settlement and retry kept, the position counted out.
TEST(OffsetTracker, AgreesWithAModelWhateverTheOrder) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random{seed};
    const auto draw = [&](std::uint32_t below) { return static_cast<std::uint32_t>(random()) % below; };
    OffsetTracker tracker;
    std::map<std::int64_t, std::uint64_t> in_work;  // offset → receipt
    std::set<std::int64_t> waiting;
    std::set<std::int64_t> settled;
    std::int64_t next = draw(100);
    std::uint64_t receipt = 1;
    bool delivered = false;
    for (int step = 0; step < 400; ++step) {
      switch (draw(4)) {
        case 0:
        case 1:
          ASSERT_TRUE(tracker.deliver(next, receipt));
          in_work[next] = receipt++;
          next += 1 + draw(3);
          delivered = true;
          break;
        case 2:
          if (!in_work.empty()) {
            const auto chosen = std::next(in_work.begin(), draw(static_cast<std::uint32_t>(in_work.size())));
            ASSERT_TRUE(tracker.settle(chosen->first, chosen->second));
            settled.insert(chosen->first);
            in_work.erase(chosen);
          }
          break;
        default:
          if (!waiting.empty()) {
            ASSERT_TRUE(tracker.deliver(*waiting.begin(), receipt));
            in_work[*waiting.begin()] = receipt++;
            waiting.erase(waiting.begin());
          } else if (!in_work.empty()) {
            const auto chosen = in_work.begin();
            ASSERT_TRUE(tracker.retry(chosen->first, chosen->second));
            waiting.insert(chosen->first);
            in_work.erase(chosen);
          }
      }
      ASSERT_EQ(tracker.in_work(), in_work.size());
      if (!delivered) continue;
      std::int64_t lowest = settled.empty() ? 0 : *settled.rbegin() + 1;
      if (!in_work.empty()) lowest = in_work.begin()->first;
      if (!waiting.empty()) lowest = in_work.empty() ? *waiting.begin() : std::min(lowest, *waiting.begin());
      ASSERT_EQ(tracker.position(), lowest) << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace penstock::conduit
