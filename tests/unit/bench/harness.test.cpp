// SPDX-License-Identifier: Apache-2.0
#include "bench/harness.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace penstock::bench {
namespace {

using ::testing::HasSubstr;

/// Does nothing, and notes in which order.
class Harness : public ::testing::Test {
 protected:
  Work work(Goal goal) {
    return {.name = "work",
            .metrics = {{.unit = "events/s", .goal = goal}},
            .ours =
                [this](double scale) {
                  order_ += scale < 1 ? 'o' : 'O';
                  return Samples{{50 * speed_}};
                },
            .reference =
                [this](double scale) {
                  order_ += scale < 1 ? 'r' : 'R';
                  return Samples{{100 * speed_}};
                }};
  }
  std::string order_;
  double speed_ = 1;
};

TEST_F(Harness, Rule24_PartsAlternateBesideTheReferenceAgainstItself) {
  const auto rows = measure(work({Goal::Kind::ratio_at_least, 0.5}), {.runs = 3});
  EXPECT_EQ(order_, "roRORORRRRO") << "warm-up; then reference, ours, reference, each first in turn";
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0]["ours"], 50);
  EXPECT_EQ(rows[0]["reference"], 100);
  EXPECT_EQ(rows[0]["ratio"], 0.5);
  EXPECT_EQ(rows[0]["control"], 1);
  EXPECT_EQ(rows[0]["met"], true);
  EXPECT_EQ(rows[0]["runs"], 3);
}

TEST_F(Harness, Rule24_ARunIsComparedWithItsOwnReference) {
  Work slowing = work({Goal::Kind::ratio_at_least, 0.51});
  slowing.ours = [this, ours = slowing.ours](double scale) {
    speed_ /= 2;  // the machine, not the work
    return ours(scale);
  };
  const auto rows = measure(slowing, {.runs = 1});
  EXPECT_EQ(rows[0]["ratio"], 0.25) << "the reference of the same run was before it slowed down";
  EXPECT_EQ(rows[0]["control"], 0.5) << "and the control says how far the ratio may be off";
  EXPECT_EQ(rows[0]["met"], false);
}

TEST_F(Harness, Rule24_ACountThatIsNotExactIsNoFigure) {
  Work wrong = work({Goal::Kind::ratio_at_least, 0.5});
  wrong.ours = [](double) -> Samples {
    check_count("rows in the table", 100, 99);
    return {{1}};
  };
  const auto rows = measure(wrong, {.runs = 1});
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_THAT(rows[0]["error"].get<std::string>(), HasSubstr("rows in the table: expected 100, found 99"));
  EXPECT_FALSE(rows[0].contains("ours"));
}

}  // namespace
}  // namespace penstock::bench
