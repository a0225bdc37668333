// SPDX-License-Identifier: Apache-2.0
#include "lane/routing_key.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace penstock::lane {
namespace {

std::string key(std::string_view pattern, const Event& event) {
  std::string room = "what was here before";
  return std::string{RoutingKey{pattern}.of(event, room)};
}

TEST(RoutingKey, StandsForWhatTheEventHas) {
  const Event event{.id = "1", .source = "/shop", .type = "shop.order.placed.v1", .subject = "order/1", .key = "customer-7"};
  EXPECT_EQ(key("", event), "");
  EXPECT_EQ(key("orders", event), "orders");
  EXPECT_EQ(key("{type}", event), "shop.order.placed.v1");
  EXPECT_EQ(key("eu.{type}", event), "eu.shop.order.placed.v1");
  EXPECT_EQ(key("{source}.{subject}.{key}.x", event), "/shop.order/1.customer-7.x");
  EXPECT_EQ(key("{type}{type}", event), "shop.order.placed.v1shop.order.placed.v1");
  EXPECT_EQ(key("a.{subject}.b", Event{}), "a..b") << "what it has not is empty";
  EXPECT_EQ(key("{key}", Event{.key = "{type}"}), "{type}") << "only the pattern is looked at";
}

TEST(RoutingKey, RefusesWhatStandsForNothing) {
  for (const char* wrong : {"{", "}", "{}", "{type", "type}", "{types}", "{Type}", "{id}", "{{type}}", "a{type}b}"}) {
    EXPECT_THROW(RoutingKey{wrong}, std::invalid_argument) << wrong;
  }
  EXPECT_NO_THROW(RoutingKey{std::string(255, 'k')});
  EXPECT_THROW(RoutingKey{std::string(256, 'k')}, std::invalid_argument);
  EXPECT_THROW(RoutingKey{"{type}" + std::string(256, 'k')}, std::invalid_argument);
}

TEST(RoutingKey, TextIsTakenAsItIs) {
  std::string room;
  EXPECT_EQ(RoutingKey::fixed("{no} {pattern}").of(Event{}, room), "{no} {pattern}");
}

}  // namespace
}  // namespace penstock::lane
