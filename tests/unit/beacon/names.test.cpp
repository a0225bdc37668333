// SPDX-License-Identifier: Apache-2.0
#include "beacon/names.hpp"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>
#include <string>

namespace penstock::beacon {
namespace {

TEST(BeaconNames, EscapingIsUndoneAndNeverCollides) {
  const std::string texts[] = {"a.b", "a=2Eb", "a-b", "a_b", "a b", "", ".", "=", "%", "ü", std::string{"\0x", 2}};
  std::set<std::string> results;
  for (const auto& text : texts) {
    const auto escaped = escape(text, '=');
    EXPECT_EQ(unescape(escaped, '='), text);
    results.insert(escaped);
  }
  EXPECT_EQ(results.size(), std::size(texts));
  EXPECT_EQ(unescape("a=2", '='), std::nullopt);
  EXPECT_EQ(unescape("a=zz", '='), std::nullopt);
}

TEST(BeaconNames, StreamsKeepPlainNamesAndEscapeDots) {
  EXPECT_EQ(subject_of("shop.orders"), "shop.orders");
  EXPECT_EQ(stream_of("notifications"), "notifications");
  EXPECT_EQ(stream_of("notifications.dead"), "notifications=2Edead");
  EXPECT_NE(stream_of("a.b"), stream_of("a_b"));
}

TEST(BeaconNames, RefusesWhatIsNoLiteralSubject) {
  for (const char* bad : {"", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "a/b", "a\n", "ä", "$JS.API"}) {
    EXPECT_THROW(stream_of(bad), std::invalid_argument) << bad;
  }
  EXPECT_THROW(stream_of(std::string(256, 'a')), std::invalid_argument);
}

TEST(BeaconNames, SubjectsOfStreamsMayHoldWildcardsByTheRules) {
  for (const char* good : {"a", "a.*", "*.b", "a.>", ">", "a.b$c"}) EXPECT_NO_THROW(check_stream_subject(good)) << good;
  for (const char* bad : {"", ".a", "a.", "a..b", "a b", "a.b*", "a.>.b", ">a", "a\n"}) {
    EXPECT_THROW(check_stream_subject(bad), std::invalid_argument) << bad;
  }
}

TEST(BeaconNames, DurablesAreInjective) {
  EXPECT_EQ(durable_of("fulfillment"), "fulfillment");
  EXPECT_EQ(durable_of("a.b"), "a=2Eb");
  EXPECT_NE(durable_of("a.b"), durable_of("a_b"));
  EXPECT_NE(durable_of("a.b"), durable_of("a=2Eb"));
  EXPECT_THROW(durable_of(""), std::invalid_argument);
  EXPECT_THROW(durable_of(std::string(300, 'a')), std::invalid_argument);
}

TEST(BeaconNames, DurablesOfPartitionsAreNoGroupsOwn) {
  EXPECT_EQ(durable_of("a.b", 12), "a=2Eb=p12");
  EXPECT_NE(durable_of("a", 1), durable_of("a=p1"));
  EXPECT_NE(durable_of("a", 11), durable_of("a1", 1));
  EXPECT_EQ(unescape(durable_of("a", 1), '='), std::nullopt) << "so that no group is called so";
  EXPECT_THROW(durable_of("", 1), std::invalid_argument);
  EXPECT_THROW(durable_of(std::string(254, 'a'), 1), std::invalid_argument);
}

TEST(BeaconNames, WildcardsCoverSubjects) {
  EXPECT_TRUE(covers("a.b", "a.b"));
  EXPECT_TRUE(covers("a.*", "a.b"));
  EXPECT_TRUE(covers("*.b", "a.b"));
  EXPECT_TRUE(covers("a.>", "a.b.c"));
  EXPECT_TRUE(covers(">", "a"));
  EXPECT_FALSE(covers("a.>", "a"));
  EXPECT_FALSE(covers("a.*", "a.b.c"));
  EXPECT_FALSE(covers("a", "a.b"));
  EXPECT_FALSE(covers("a.b", "a"));
  EXPECT_FALSE(covers("a.b", "a.c"));
}

TEST(BeaconNames, MessageIdIsTheIdentityAndSafeAsAHeader) {
  EXPECT_EQ(message_id("/shop", "1"), "1:/shop");
  std::set<std::string> ids{message_id("a", "b:c"),    message_id("a:b", "c"),  message_id("c:a", "b"),
                            message_id("b:c", "a"),    message_id("", "a"),     message_id("a", ""),
                            message_id("A", "b"),      message_id("a%3A", "b"), message_id("a\r\n", "b"),
                            message_id("a b", "c\x01")};
  EXPECT_EQ(ids.size(), 10U);
  for (const auto& id : ids) {
    for (const char c : id) EXPECT_TRUE(c > ' ' && c < '\x7f') << id;
  }
}

TEST(BeaconNames, LongIdentitiesAreShortenedAndStayDifferent) {
  const std::string source(500, 's');
  const auto one = message_id(source, "1");
  EXPECT_LE(one.size(), 200U);
  EXPECT_NE(one, message_id(source, "2"));
  EXPECT_EQ(one, message_id(source, "1"));
}

}  // namespace
}  // namespace penstock::beacon
