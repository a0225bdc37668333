// SPDX-License-Identifier: Apache-2.0
#include "core/trace_context.hpp"

#include <gtest/gtest.h>

#include <string>

namespace penstock {
namespace {

const std::string t = "12345678901234567890123456789012";
const std::string p = "1234567890123456";

TEST(TraceParent, KeepsTheTraceId) {
  const std::string id = t + "-" + p;
  for (const std::string& text :
       {"00-" + id + "-01", " 00-" + id + "-01", "\t00-" + id + "-01", "00-" + id + "-01 ", "00-" + id + "-01\t",
        " \t 00-" + id + "-01 \t", "cc-" + id + "-01", "cc-" + id + "-01-what-the-future-will-be-like"}) {
    const auto parent = parse_traceparent(text);
    ASSERT_TRUE(parent) << text;
    EXPECT_EQ(parent->trace_id, t);
    EXPECT_EQ(parent->parent_id, p);
    EXPECT_EQ(format(*parent), "00-" + id + "-01");
  }
}

TEST(TraceParent, StartsANewTrace) {
  const std::string id = t + "-" + p;
  const std::string zero32(32, '0');
  const std::string zero16(16, '0');
  for (const std::string& text : {
           std::string{},
           "00-" + id + "-01.",
           "00-" + id + "-01-what-the-future-will-be-like",
           "cc-" + id + "-01.what-the-future-will-be-like",
           "ff-" + id + "-01",
           ".0-" + id + "-01",
           "0.-" + id + "-01",
           "000-" + id + "-01",
           "0000-" + id + "-01",
           "0-" + id + "-01",
           "CC-" + id + "-01",
           "00-" + zero32 + "-" + p + "-01",
           "00-" + t + "-" + zero16 + "-01",
           "00-.2345678901234567890123456789012-" + p + "-01",
           "00-1234567890123456789012345678901.-" + p + "-01",
           "00-1234567890123456789012345678901A-" + p + "-01",
           "00-" + t + "-.234567890123456-01",
           "00-" + t + "-123456789012345.-01",
           "00-" + t + "-123456789012345F-01",
           "00-" + t + "3-" + p + "-01",
           "00-" + t.substr(1) + "-" + p + "-01",
           "00-" + t + "-" + p + "7-01",
           "00-" + t + "-" + p.substr(1) + "-01",
           "00-" + id + "-.0",
           "00-" + id + "-0.",
           "00-" + id + "-001",
           "00-" + id + "-1",
           "00-" + id + "-0A",
           "00-" + id,
           "00_" + id + "-01",
       }) {
    EXPECT_EQ(parse_traceparent(text), std::nullopt) << text;
  }
}

TEST(TraceParent, KeepsTheFlagsItKnows) {
  const std::string id = "00-" + t + "-" + p + "-";
  const std::pair<const char*, const char*> flags[] = {{"00", "00"}, {"01", "01"}, {"02", "02"},
                                                       {"03", "03"}, {"ff", "03"}, {"fc", "00"}};
  for (const auto& [in, out] : flags) EXPECT_EQ(format(parse_traceparent(id + in).value()), id + out);
  EXPECT_TRUE(parse_traceparent(id + "03")->sampled());
  EXPECT_FALSE(parse_traceparent(id + "02")->sampled());
}

TEST(TraceState, ReadsMembersInTheirOrder) {
  EXPECT_EQ(parse_tracestate("foo=1 \t , \t bar=2, \t baz=3"), (TraceState{{"foo", "1"}, {"bar", "2"}, {"baz", "3"}}));
  EXPECT_EQ(parse_tracestate("foo=1,"), (TraceState{{"foo", "1"}}));
  EXPECT_EQ(parse_tracestate(" , foo=1,,bar=2"), (TraceState{{"foo", "1"}, {"bar", "2"}}));
  EXPECT_EQ(parse_tracestate(""), TraceState{});
  EXPECT_EQ(parse_tracestate("foo= a b"), (TraceState{{"foo", " a b"}}));
}

TEST(TraceState, TakesTheKeysOfLevelTwo) {
  for (const char* text : {"foo@=1,bar=2", "foo@@bar=1", "foo@bar@baz=1", "0a_-*/@z=1"})
    EXPECT_TRUE(parse_tracestate(text)) << text;
  EXPECT_TRUE(parse_tracestate(std::string(256, 'z') + "=1"));
  EXPECT_TRUE(parse_tracestate("z=" + std::string(256, 'v')));
}

TEST(TraceState, IsThrownAwayAsAWhole) {
  for (const std::string& text :
       {std::string{"foo="}, std::string{"foo =1"}, std::string{"FOO=1"}, std::string{"foo.bar=1"}, std::string{"foo=bar=baz"},
        std::string{"@foo=1,bar=2"}, std::string{"ok=1,foo"}, std::string{"=1"}, std::string{"foo=\x7f"}, std::string{"foo=é"},
        std::string(257, 'z') + "=1", "z=" + std::string(257, 'v')}) {
    EXPECT_EQ(parse_tracestate(text), std::nullopt) << text;
  }
}

TEST(TraceState, HasAtMost32Members) {
  std::string text;
  for (int i = 0; i < 32; ++i) text += "k" + std::to_string(i) + "=1,";
  EXPECT_EQ(parse_tracestate(text)->size(), 32U);
  EXPECT_EQ(parse_tracestate(text + "last=1"), std::nullopt);
}

TEST(TraceState, IsCutByWholeMembersLargestFirst) {
  const TraceState state{{"a", "1"}, {"b", std::string(150, 'x')}, {"c", std::string(100, 'x')}, {"d", std::string(100, 'x')}};
  EXPECT_EQ(format(state), "a=1,b=" + std::string(150, 'x') + ",c=" + std::string(100, 'x') + ",d=" + std::string(100, 'x'));
  EXPECT_EQ(format(state, 250), "a=1,c=" + std::string(100, 'x') + ",d=" + std::string(100, 'x'));
  EXPECT_EQ(format(state, 110), "a=1,c=" + std::string(100, 'x'));
  EXPECT_EQ(format(state, 3), "a=1");
  EXPECT_EQ(format(state, 2), "");
}

}  // namespace
}  // namespace penstock
