// SPDX-License-Identifier: Apache-2.0
#include "beacon/servers.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/beacon.hpp"

namespace penstock::beacon {
namespace {

TEST(BeaconServers, ReadsAListAndFillsInTheDefaults) {
  const auto servers = parse_servers("nats://a:4333, tls://b/ ,c,nats://[::1]:4224");
  ASSERT_EQ(servers.urls.size(), 4U);
  EXPECT_EQ(servers.urls[0], "nats://a:4333");
  EXPECT_EQ(servers.urls[1], "tls://b:4222");
  EXPECT_EQ(servers.urls[2], "nats://c:4222");
  EXPECT_EQ(servers.urls[3], "nats://[::1]:4224");
  EXPECT_TRUE(servers.tls);
  EXPECT_EQ(servers.label, "nats://a:4333,tls://b:4222,nats://c:4222,nats://[::1]:4224");
}

TEST(BeaconServers, KeepsCredentialsOutOfTheLabel) {
  const auto servers = parse_servers("nats://kim:se@cret@a:4222,nats://b");
  EXPECT_EQ(servers.urls[0], "nats://kim:se@cret@a:4222");
  EXPECT_EQ(servers.user, "kim");
  EXPECT_EQ(servers.password.reveal(), "se@cret");
  EXPECT_EQ(servers.label, "nats://a:4222,nats://b:4222");
  EXPECT_FALSE(servers.tls);
}

TEST(BeaconServers, ATokenHasNoPassword) {
  const auto servers = parse_servers("nats://s3cret@a:4222");
  EXPECT_EQ(servers.token.reveal(), "s3cret");
  EXPECT_TRUE(servers.user.empty());
  EXPECT_TRUE(servers.password.empty());
}

TEST(BeaconServers, NeverShowsCredentialsInAnError) {
  for (const char* bad : {"nats://kim:secret@", "nats://kim:secret@host:0", "nats://kim:secret@host:99999",
                          "http://kim:secret@host", "nats://kim:secret@ho st", "nats://kim:secret,more@host",
                          "nats://kim:secret@[::1", "nats://kim:secret@host:a,nats://b"}) {
    try {
      parse_servers(bad);
      FAIL() << bad;
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string{error.what()}.find("secret"), std::string::npos) << error.what();
      EXPECT_NE(std::string{error.what()}.find("nats://[user"), std::string::npos) << error.what();
    }
  }
}

TEST(BeaconServers, OneLoginReplacesThatOfTheUrls) {
  const auto servers = servers_of({.url = "nats://kim:old@a,tls://lee@b", .password = "new"});
  EXPECT_EQ(servers.urls, (std::vector<std::string>{"nats://a:4222", "tls://b:4222"}));
  EXPECT_EQ(servers.hosts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(servers.user, "kim");
  EXPECT_EQ(servers.password.reveal(), "new");
  EXPECT_EQ(servers_of({.url = "nats://kim@a", .password = "new"}).user, "kim");
  EXPECT_EQ(servers_of({.url = "nats://kim@a", .token = "new"}).token.reveal(), "new");

  const auto refused = [](const BeaconOptions& options) -> std::string {
    try {
      servers_of(options);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(refused({.url = "nats://a", .password = "p"}).find("no user"), std::string::npos);
  EXPECT_NE(refused({.url = "nats://k@a", .password = "p", .token = "t"}).find("one of them"), std::string::npos);
  EXPECT_NE(refused({.url = "nats://a", .nkey = "U"}).find("nkey_seed_file"), std::string::npos);
  EXPECT_NE(refused({.url = "nats://a", .credentials_file = "/nowhere"}).find("credentials_file: the file '/nowhere'"),
            std::string::npos);
}

TEST(BeaconServers, AnEmptyListIsMisuse) {
  EXPECT_THROW(parse_servers(""), std::invalid_argument);
  EXPECT_THROW(parse_servers("nats://a,,nats://b"), std::invalid_argument);
  EXPECT_THROW(Beacon{BeaconOptions{}}, std::invalid_argument);
  EXPECT_THROW((Beacon{BeaconOptions{.url = "nats://a", .window = 0}}), std::invalid_argument);
}

TEST(BeaconServers, ConstructingAndNamingDoNotConnect) {
  Beacon beacon{{.url = "nats://127.0.0.1:1"}};
  const auto channel = beacon.channel("notifications");
  EXPECT_EQ(channel.backend, "nats");
  EXPECT_EQ(channel.name, "notifications");
  EXPECT_EQ(beacon.channel("notifications").publisher, channel.publisher);
  EXPECT_THROW(static_cast<void>(beacon.channel("no name")), std::invalid_argument);
  const auto source = beacon.source("notifications");
  EXPECT_EQ(source->channel(), "notifications");
  EXPECT_FALSE(source->traits().ordered);
  EXPECT_TRUE(source->traits().replayable);
  EXPECT_TRUE(source->traits().delays);
  EXPECT_THROW(static_cast<void>(beacon.source("notifications", {.max_ack_pending = 0})), std::invalid_argument);
}

}  // namespace
}  // namespace penstock::beacon
