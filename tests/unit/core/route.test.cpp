// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "penstock/dead_letter.hpp"
#include "penstock/event_log.hpp"

namespace penstock {
namespace {

struct Case {
  const char* pattern;
  const char* route;
  bool matches;
};

class RouteMatches : public ::testing::TestWithParam<Case> {};

TEST_P(RouteMatches, Table) { EXPECT_EQ(route_matches(GetParam().pattern, GetParam().route), GetParam().matches); }

const Case cases[] = {
    {"shop.order.*", "shop.order.placed.v1", true},
    {"shop.order.*", "shop.order.", true},
    {"shop.order.*", "shop.order", false},
    {"shop.order.*", "xshop.order.a", false},
    {"shop.order.placed.v1", "shop.order.placed.v1", true},
    {"shop.order.placed.v1", "shop.order.placed.v12", false},
    {"shop.order.placed.v1", "shop-order-placed-v1", false},
    {"*", "", true},
    {"*", "anything.at.all", true},
    {"", "", true},
    {"", "a", false},
    {"a", "", false},
    {"*.v1", "shop.order.placed.v1", true},
    {"*.v1", "shop.order.placed.v2", false},
    {"shop.*.v1", "shop.order.placed.v1", true},
    {"shop.*.v1", "shop.v1", false},
    {"*a*b*c", "xxaxxbxxbcxxc", true},
    {"*a*b*c", "xxaxxcxxb", false},
    {"**a", "ba", true},
    {"a*a", "a", false},
    {"a*a", "aa", true},
    {"a?c", "abc", false},
    {"[a]", "a", false},
};
INSTANTIATE_TEST_SUITE_P(Route, RouteMatches, ::testing::ValuesIn(cases));

TEST(RouteMatches, IsQuickOnHardPatterns) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "a*";
  EXPECT_FALSE(route_matches(pattern + "b", std::string(5000, 'a')));
  EXPECT_TRUE(route_matches(pattern, std::string(5000, 'a')));
}

TEST(RouteMatches, CoversDeadLettersOfAChannel) {
  EXPECT_EQ(dead_channel("fulfillment-jobs"), "fulfillment-jobs.dead");
  EXPECT_EQ(dead_letters_of("fulfillment-jobs"), "penstock.dead.fulfillment-jobs");
  EXPECT_TRUE(route_matches(dead_letters_of("fulfillment-jobs"), "penstock.dead.fulfillment-jobs"));
  EXPECT_FALSE(route_matches("shop.*", dead_letters_of("shop")));
}

TEST(RouteCovered, ByAnyPatternOrByNoneOfTheRest) {
  EXPECT_TRUE(route_covered({"a.*", "b.*"}, "b.c"));
  EXPECT_FALSE(route_covered({"a.*", "b.*"}, "c"));
  EXPECT_FALSE(route_covered({}, "c"));
  EXPECT_TRUE(route_covered({"!a.*", "!b.*"}, "c"));
  EXPECT_FALSE(route_covered({"!a.*", "!b.*"}, "b.c"));
  EXPECT_TRUE(route_complement({"!a", "!b"}));
  EXPECT_FALSE(route_complement({"a", "b"}));
  EXPECT_FALSE(route_complement({}));
  EXPECT_THROW(static_cast<void>(route_complement({"a", "!b"})), std::invalid_argument);
}

}  // namespace
}  // namespace penstock
