// SPDX-License-Identifier: Apache-2.0
#include "lane/url.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace penstock::lane {
namespace {

std::string error_of(const std::string& url) {
  try {
    parse_url(url);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(Url, ReadsEveryPart) {
  const Address address = parse_url("amqp://us%40er:pa%3Ass%2F%25@broker.example:5673/ord%2Fers");
  EXPECT_EQ(address.host, "broker.example");
  EXPECT_EQ(address.port, 5673);
  EXPECT_EQ(address.user, "us@er");
  EXPECT_EQ(address.password.reveal(), "pa:ss/%");
  EXPECT_EQ(address.vhost, "ord/ers");
}

TEST(Url, FillsInWhatIsLeftOut) {
  for (const char* url : {"amqp://localhost", "amqp://localhost/", "amqp://localhost/%2f", "amqp://localhost:5672/%2F"}) {
    const Address address = parse_url(url);
    EXPECT_EQ(address.host, "localhost");
    EXPECT_EQ(address.port, 5672);
    EXPECT_EQ(address.user, "guest");
    EXPECT_EQ(address.password.reveal(), "guest");
    EXPECT_EQ(address.vhost, "/") << url;
  }
}

TEST(Url, AmqpsAsksForTls) {
  const Address address = parse_url("amqps://worker@host/v");
  EXPECT_TRUE(address.tls.has_value());
  EXPECT_EQ(address.port, 5671);
  EXPECT_THAT(address.shown(), ::testing::HasSubstr("amqps://worker@host:5671"));
  EXPECT_FALSE(parse_url("amqp://host").tls.has_value());
}

TEST(Url, ReadsIpv6) {
  const Address address = parse_url("amqp://[::1]:5700/a");
  EXPECT_EQ(address.host, "::1");
  EXPECT_EQ(address.port, 5700);
}

TEST(Url, AUserWithoutPasswordHasNone) { EXPECT_TRUE(parse_url("amqp://worker@host").password.empty()); }

TEST(Url, SaysWhatIsWrong) {
  EXPECT_THAT(error_of(""), ::testing::HasSubstr("is empty"));
  EXPECT_THAT(error_of("http://host"), ::testing::HasSubstr("amqp://"));
  EXPECT_THAT(error_of("amqp://"), ::testing::HasSubstr("host"));
  EXPECT_THAT(error_of("amqp://host/a/b"), ::testing::HasSubstr("%2F"));
  EXPECT_THAT(error_of("amqp://host/a?heartbeat=3"), ::testing::HasSubstr("LaneOptions"));
  EXPECT_THAT(error_of("amqp://host/%zz"), ::testing::HasSubstr("vhost"));
  EXPECT_THAT(error_of("amqp://host/%"), ::testing::HasSubstr("vhost"));
  EXPECT_THAT(error_of("amqp://host/a%00b"), ::testing::HasSubstr("NUL"));
  EXPECT_THAT(error_of("amqp://[::1"), ::testing::HasSubstr("]"));
  for (const char* port : {"", "0", "65536", "-1", "12x", "99999999999"}) {
    EXPECT_THAT(error_of("amqp://host:" + std::string{port} + "/"), ::testing::HasSubstr("port")) << port;
  }
}

TEST(Url, NeverShowsThePassword) {
  const std::string secret = "s3cr3t-Pa55";
  EXPECT_THAT(parse_url("amqp://worker:" + secret + "@host/v").shown(), ::testing::Not(::testing::HasSubstr(secret)));
  EXPECT_THAT(parse_url("amqp://worker:" + secret + "@host/v").shown(), ::testing::HasSubstr("worker@host"));
  for (const std::string& url : {"amqp://worker:" + secret + "@host:x/", "amqp://worker:" + secret + "@host/a/b",
                                 "amqps://worker:" + secret + "@host:x/", "amqp://worker:5672/" + secret + "@host/",
                                 "amqp://worker:" + secret + "%@host/"}) {
    const std::string error = error_of(url);
    EXPECT_NE(error, "");
    EXPECT_THAT(error, ::testing::Not(::testing::HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace penstock::lane
