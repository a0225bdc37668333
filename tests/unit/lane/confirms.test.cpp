// SPDX-License-Identifier: Apache-2.0
#include "lane/confirms.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace penstock::lane {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> settle(Confirms<int>& confirms, std::uint64_t tag, bool multiple) {
  std::vector<int> settled;
  confirms.settle(tag, multiple, [&](int value) { settled.push_back(value); });
  return settled;
}

TEST(Confirms, TagsCountFromOne) {
  Confirms<int> confirms;
  EXPECT_EQ(confirms.add(10), 1U);
  EXPECT_EQ(confirms.add(20), 2U);
}

// Rule 9: one basic.ack settles a range.
TEST(Confirms, Rule9_RangedAckSettlesUpToItsTagInOrder) {
  Confirms<int> confirms;
  for (int i = 1; i <= 5; ++i) confirms.add(i);
  EXPECT_THAT(settle(confirms, 4, false), ElementsAre(4));
  EXPECT_THAT(settle(confirms, 3, true), ElementsAre(1, 2, 3));
  EXPECT_THAT(settle(confirms, 0, true), ElementsAre(5)) << "tag 0 means all";
  EXPECT_TRUE(confirms.empty());
}

TEST(Confirms, WhatIsSettledIsIgnored) {
  Confirms<int> confirms;
  confirms.add(1);
  EXPECT_THAT(settle(confirms, 1, false), ElementsAre(1));
  EXPECT_THAT(settle(confirms, 1, false), IsEmpty());
  EXPECT_THAT(settle(confirms, 1, true), IsEmpty());
  EXPECT_THAT(settle(confirms, 77, false), IsEmpty());
}

// Tags start anew with the channel.
TEST(Confirms, TagsRestartWithTheChannelAndNothingOpenIsForgotten) {
  Confirms<int> confirms;
  for (int i = 1; i <= 3; ++i) confirms.add(i);
  settle(confirms, 2, false);
  std::vector<int> lost;
  confirms.clear([&](int value) { lost.push_back(value); });
  EXPECT_THAT(lost, ElementsAre(1, 3));
  EXPECT_EQ(confirms.add(9), 1U);
  EXPECT_THAT(settle(confirms, 1, false), ElementsAre(9));
}

TEST(Confirms, FindsTheOldest) {
  Confirms<int> confirms;
  for (const int value : {4, 6, 8}) confirms.add(value);
  EXPECT_EQ(*confirms.find([](int value) { return value > 4; }), 6);
  EXPECT_EQ(confirms.find([](int value) { return value > 8; }), nullptr);
}

// Whatever acks a broker sends, in whatever ranges: every message is settled once, at the end all are, and none before its
// tag was covered.
TEST(Confirms, EachIsSettledOnceWhateverTheRanges) {
  for (std::uint32_t seed = 0; seed < 500; ++seed) {
    std::mt19937 random{seed};
    Confirms<std::size_t> confirms;
    std::vector<int> times(1, 0);
    std::vector<bool> covered(1, false);
    const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>{0, below - 1}(random); };
    for (int step = 0; step < 200; ++step) {
      if (pick(2) == 0) {
        const std::size_t tag = confirms.add(times.size());
        ASSERT_EQ(tag, times.size());
        times.push_back(0);
        covered.push_back(false);
        continue;
      }
      const std::size_t tag = pick(times.size());
      const bool multiple = pick(3) == 0;
      for (std::size_t i = 1; i < covered.size(); ++i) {
        if (i == tag || (multiple && (tag == 0 || i < tag))) covered[i] = true;
      }
      std::size_t last = 0;
      confirms.settle(tag, multiple, [&](std::size_t settled) {
        EXPECT_GT(settled, last) << "out of order";
        last = settled;
        ++times[settled];
      });
      std::size_t open = 0;
      for (std::size_t i = 1; i < times.size(); ++i) {
        ASSERT_EQ(times[i], covered[i] ? 1 : 0) << "seed " << seed << " tag " << i;
        open += covered[i] ? 0U : 1U;
      }
      ASSERT_EQ(confirms.size(), open);
    }
  }
}

}  // namespace
}  // namespace penstock::lane
