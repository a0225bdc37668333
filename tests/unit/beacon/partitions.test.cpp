// SPDX-License-Identifier: Apache-2.0
#include "beacon/partitions.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace penstock::beacon {
namespace {

std::string complaint(int partitions, const std::string& name) {
  try {
    check_partitions(partitions, name);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

// These are stored in streams and written in other languages: a test that fails here says that orders of keys are broken.
TEST(BeaconPartitions, TheHashIsTheSameForEver) {
  struct Line {
    std::string key;
    std::vector<std::uint32_t> of_2_4_7_64;
  };
  const Line table[] = {
      {"a", {0, 0, 5, 44}},          {"foobar", {0, 0, 0, 40}},     {"4711", {0, 2, 2, 50}},  {"order-4711", {1, 1, 1, 29}},
      {"order-4712", {0, 0, 0, 36}}, {"customer/7", {1, 3, 6, 47}}, {"größe", {0, 2, 5, 26}},
  };
  for (const auto& [key, expected] : table) {
    std::vector<std::uint32_t> got;
    for (const int partitions : {2, 4, 7, 64}) got.push_back(partition_of(key, partitions));
    EXPECT_EQ(got, expected) << key;
    EXPECT_EQ(partition_of(key, 1), 0U);
  }
  // All 32 bits of it, from the hash's authors: FNV-1a of "foobar" is 0xbf9cf968.
  EXPECT_EQ(partition_of("foobar", 2'147'483'647), 0xbf9cf968U % 2'147'483'647U);
}

TEST(BeaconPartitions, AnEventWithoutAKeyGoesByItsId) {
  Event event;
  event.id = "4711";
  EXPECT_EQ(partition_of(event, 64), partition_of("4711", 64));
  event.key = "order-4711";
  EXPECT_EQ(partition_of(event, 64), partition_of("order-4711", 64));
}

TEST(BeaconPartitions, KeysAreSpread) {
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 16'000; ++i) ++counts[partition_of("order-" + std::to_string(i), 16)];
  ASSERT_EQ(counts.size(), 16U);
  for (const auto& [partition, count] : counts) {
    EXPECT_GT(count, 700) << partition;
    EXPECT_LT(count, 1'300) << partition;
  }
}

TEST(BeaconPartitions, SubjectsAreTheNameAndTheNumber) {
  EXPECT_EQ(subjects_of("shop.orders", 0), (std::vector<std::string>{"shop.orders"}));
  EXPECT_EQ(subjects_of("shop.orders", 1), (std::vector<std::string>{"shop.orders.0"}));
  EXPECT_EQ(subjects_of("shop.orders", 3), (std::vector<std::string>{"shop.orders.0", "shop.orders.1", "shop.orders.2"}));
}

TEST(BeaconPartitions, AreSeenInTheSubjectsOfAStream) {
  EXPECT_EQ(partitions_in("orders", {"orders"}), 0);
  EXPECT_EQ(partitions_in("orders", {}), 0);
  EXPECT_EQ(partitions_in("orders", {"orders.*"}), 0);
  EXPECT_EQ(partitions_in("orders", {"orders.0"}), 1);
  EXPECT_EQ(partitions_in("orders", {"orders.1", "orders.0"}), 2) << "in whatever order";
  EXPECT_EQ(partitions_in("orders", {"orders.1", "orders.2"}), 0);
  EXPECT_EQ(partitions_in("orders", {"orders.0", "orders.1", "orders.dead"}), 0) << "nobody would read the third";
  EXPECT_EQ(partitions_in("orders", {"others.0"}), 0);
}

TEST(BeaconPartitions, ADisagreementHasBothNumbersAndTheRemedy) {
  EXPECT_EQ(disagreement("orders", {"orders.0", "orders.1"}, "source", 3),
            "the stream of \"orders\" has 2 partitions, and the source counts 3 partitions: give both the same number");
  EXPECT_EQ(disagreement("orders", {"orders.0"}, "channel", 0),
            "the stream of \"orders\" has 1 partition, and the channel counts no partitions: give both the same number");
  EXPECT_EQ(disagreement("orders", {"orders", "a.*"}, "source", 1),
            "the stream of \"orders\" has no partitions (its subjects are orders, a.*), and the source counts 1 partition: "
            "give both the same number");
}

TEST(BeaconPartitions, WhatCannotBeIsNamedWithTheRemedy) {
  EXPECT_EQ(complaint(0, "orders"), "");
  EXPECT_EQ(complaint(1, "orders"), "");
  EXPECT_EQ(complaint(256, "orders"), "");
  EXPECT_EQ(complaint(-1, "orders"), "Beacon: partitions of \"orders\" is -1; give 1 to 256, or 0 for a stream without");
  EXPECT_NE(complaint(257, "orders").find("257"), std::string::npos);
  EXPECT_EQ(complaint(0, std::string(254, 'a')), "");
  EXPECT_NE(complaint(10, std::string(254, 'a')).find("at most 255"), std::string::npos) << "with the number behind it";
}

}  // namespace
}  // namespace penstock::beacon
