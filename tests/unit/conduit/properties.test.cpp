// SPDX-License-Identifier: Apache-2.0
#include "conduit/properties.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>
#include <string>

#include "penstock/conduit.hpp"

namespace penstock::conduit {
namespace {

using ::testing::HasSubstr;

ConduitOptions with(std::map<std::string, std::string> properties) {
  return {.bootstrap_servers = "localhost:1", .properties = std::move(properties)};
}

std::string refusal(const ConduitOptions& options) {
  try {
    const Conduit conduit{options};
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(Properties, AnUnknownOneIsNamed) { EXPECT_THAT(refusal(with({{"linger.millis", "1"}})), HasSubstr("'linger.millis'")); }

TEST(Properties, ABadValueIsNamedByItsProperty) {
  EXPECT_THAT(refusal(with({{"linger.ms", "soon"}})), HasSubstr("'linger.ms'"));
  EXPECT_THAT(refusal(with({{"compression.type", "zip"}})), HasSubstr("'compression.type'"));
}

TEST(Properties, NoServersIsRefused) { EXPECT_THAT(refusal({}), HasSubstr("bootstrap_servers")); }

TEST(Properties, WhatWouldBreakThePromisesIsRefused) {
  EXPECT_THAT(refusal(with({{"enable.idempotence", "false"}})), HasSubstr("'enable.idempotence'"));
  EXPECT_THAT(refusal(with({{"acks", "1"}})), HasSubstr("'acks'"));
  EXPECT_THAT(refusal(with({{"acks", "0"}})), HasSubstr("'acks'"));
  EXPECT_THAT(refusal(with({{"request.required.acks", "1"}})), HasSubstr("'acks'")) << "an alias";
  EXPECT_THAT(refusal(with({{"delivery.report.only.error", "true"}})), HasSubstr("'delivery.report.only.error'"));
  EXPECT_THAT(refusal(with({{"transactional.id", "me"}})), HasSubstr("'transactional.id'"));
  EXPECT_THAT(refusal(with({{"enable.auto.commit", "true"}})), HasSubstr("'enable.auto.commit'"));
  EXPECT_THAT(refusal(with({{"group.id", "g"}})), HasSubstr("'group.id'"));
}

TEST(Properties, TlsIsVerifiedAndAgreesWithTheProperties) {
  ConduitOptions options = with({});
  options.tls.emplace();
  Conf conf = producer_conf(options);
  EXPECT_EQ(property_text(conf.get(), "security.protocol"), "ssl");
  EXPECT_EQ(property_text(conf.get(), "enable.ssl.certificate.verification"), "true");
  EXPECT_EQ(property_text(conf.get(), "ssl.endpoint.identification.algorithm"), "https");
  options.secrets["sasl.password"] = "hunter2";
  options.properties["sasl.mechanism"] = "SCRAM-SHA-512";
  EXPECT_EQ(property_text(producer_conf(options).get(), "security.protocol"), "sasl_ssl");
  conf = consumer_conf(options, {}, "group");
  EXPECT_EQ(property_text(conf.get(), "security.protocol"), "sasl_ssl");
  EXPECT_EQ(property_text(conf.get(), "sasl.password"), "hunter2");
  options.properties["security.protocol"] = "sasl_plaintext";
  EXPECT_THAT(refusal(options), HasSubstr("'security.protocol' is 'sasl_plaintext'"));
  options.properties.erase("security.protocol");
  options.tls->server_name = "kafka.example";
  EXPECT_THAT(refusal(options), HasSubstr("ConduitOptions::tls.server_name is 'kafka.example'"));
  options.tls.reset();
  EXPECT_THAT(refusal(options), HasSubstr("nobody would log in"));
  options.secrets = {{"sasl.pasword", "hunter2"}};
  EXPECT_THAT(refusal(options), ::testing::AllOf(HasSubstr("'sasl.pasword'"), ::testing::Not(HasSubstr("hunter2"))));
  options.secrets = {{"acks", "hunter2"}};
  EXPECT_THAT(refusal(options), ::testing::AllOf(HasSubstr("'acks'"), ::testing::Not(HasSubstr("hunter2"))));
}

TEST(Properties, WhatKeepsThePromisesPasses) {
  EXPECT_EQ(refusal(with({{"acks", "all"},
                          {"request.required.acks", "-1"},
                          {"enable.idempotence", "true"},
                          {"compression.type", "lz4"},
                          {"partition.assignment.strategy", "cooperative-sticky"},
                          {"session.timeout.ms", "6000"}})),
            "");
}

TEST(TopicName, TheRuleThatItBreaksIsTold) {
  const auto refused = [](const std::string& name, const std::string& prefix = "") -> std::string {
    try {
      Conduit conduit{{.bootstrap_servers = "localhost:1", .prefix = prefix}};
      static_cast<void>(conduit.source(name));
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refused("orders.Placed_v1-a"), "accepted");
  EXPECT_THAT(refused(""), HasSubstr("empty"));
  EXPECT_THAT(refused("", "staging."), HasSubstr("empty"));
  EXPECT_THAT(refused("."), HasSubstr("folder"));
  EXPECT_THAT(refused("orders placed"), ::testing::AllOf(HasSubstr("'orders placed'"), HasSubstr("at place 7")));
  EXPECT_EQ(refused(std::string(249, 'x')), "accepted");
  EXPECT_THAT(refused(std::string(249, 'x'), "s."), HasSubstr("has 251 characters"));
  EXPECT_THAT(refused("orders", "sta ging."), HasSubstr("ConduitOptions::prefix"));
  EXPECT_THROW((Conduit{{.bootstrap_servers = "localhost:1"}}.declare({.name = "a/b"})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(Conduit{{.bootstrap_servers = "localhost:1"}}.channel("a/b")), std::invalid_argument);
}

TEST(Properties, OnesOfTheUserWinOverPenstocks) {
  const Conf conf = producer_conf(with({{"linger.ms", "25"}, {"partitioner", "consistent_random"}, {"client.id", "mine"}}));
  EXPECT_EQ(property_text(conf.get(), "linger.ms"), "25");
  EXPECT_EQ(property_text(conf.get(), "partitioner"), "consistent_random");
  EXPECT_EQ(property_text(conf.get(), "client.id"), "mine");
}

TEST(Properties, Rule9_DefaultsAreDurable) {
  const Conf conf = producer_conf(with({}));
  EXPECT_EQ(property_text(conf.get(), "enable.idempotence"), "true");
  EXPECT_EQ(property_text(conf.get(), "acks"), "-1");
  EXPECT_EQ(property_text(conf.get(), "partitioner"), "murmur2_random");
  const Conf consumer = consumer_conf(with({}), {}, "group");
  EXPECT_EQ(property_text(consumer.get(), "enable.auto.commit"), "false");
  EXPECT_EQ(property_text(consumer.get(), "auto.offset.reset"), "smallest") << "librdkafka's word for earliest";
  const Conf from_end = consumer_conf(with({}), {.start = ConduitSourceOptions::Start::latest}, "group");
  EXPECT_EQ(property_text(from_end.get(), "auto.offset.reset"), "largest");
}

TEST(Properties, ThoseOfASourceWinOverTheConduits) {
  const auto options = with({{"session.timeout.ms", "10000"}});
  const Conf conf = consumer_conf(options, {.properties = {{"session.timeout.ms", "6000"}}}, "group");
  EXPECT_EQ(property_text(conf.get(), "session.timeout.ms"), "6000");
  Conduit conduit{options};
  EXPECT_THROW(static_cast<void>(conduit.source("topic", {.properties = {{"enable.auto.commit", "true"}}})),
               std::invalid_argument);
  EXPECT_THROW(static_cast<void>(conduit.source("topic", {.properties = {{"no.such.thing", "1"}}})), std::invalid_argument);
}

TEST(Properties, OnesThatDoNotGoTogetherAreRefusedWhenTheClientIsMade) {
  Conduit conduit{with({{"max.in.flight", "10"}})};
  EXPECT_THROW(static_cast<void>(conduit.channel("topic")), std::invalid_argument);
}

}  // namespace
}  // namespace penstock::conduit
