// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "postgres/connection.hpp"
#include "postgres/delivery_tracker.hpp"
#include "postgres/id_floor.hpp"
#include "postgres/migrations.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/snapshot.hpp"

namespace penstock::postgres {
namespace {

using namespace std::chrono_literals;

TEST(Connection, NothingSaidOfItHoldsAPassword) {
  const auto said = [](const std::string& text, const std::string& url) { return without_secrets(text, url); };
  EXPECT_EQ(said("no hunter2 here", "postgresql://kim:hunter2@db/x"), "no *** here");
  EXPECT_EQ(said("h@2 and h%402", "postgres://kim:h%402@db/x"), "*** and ***");
  EXPECT_EQ(said("port \"part\", host \"two@db\"", "postgresql://kim:part/two@db/x"), "port \"***\", host \"***@db\"");
  EXPECT_EQ(said("hunter2", "host=db password=hunter2 user=kim"), "***");
  EXPECT_EQ(said("hunter 2", "host=db password='hunter 2' user=kim"), "***");
  EXPECT_EQ(said("hunter2", "postgresql://db/x?password=hunter2&sslmode=require"), "***");
  EXPECT_EQ(said("kim at db:5432", "postgresql://kim:hunter2@db:5432/x"), "kim at db:5432");
}

TEST(Connection, WhoNamesAnAuthorityHasTheServerVerified) {
  EXPECT_NE(with_defaults("host=db sslrootcert=/ca", 0ms).find("sslmode=verify-full"), std::string::npos);
  EXPECT_NE(with_defaults("postgresql://db/x?sslrootcert=/ca", 0ms).find("&sslmode=verify-full"), std::string::npos);
  EXPECT_EQ(with_defaults("host=db sslrootcert=/ca sslmode=verify-ca", 0ms).find("verify-full"), std::string::npos);
  EXPECT_EQ(with_defaults("host=db", 0ms).find("sslmode"), std::string::npos);
}

TEST(Snapshot, ReadsWhatPostgresWrites) {
  const auto snapshot = Snapshot::parse("10:20:12,15");
  EXPECT_EQ(snapshot.text, "10:20:12,15");
  EXPECT_TRUE(snapshot.sees(9));
  EXPECT_TRUE(snapshot.sees(13));
  EXPECT_FALSE(snapshot.sees(12));
  EXPECT_FALSE(snapshot.sees(15));
  EXPECT_TRUE(snapshot.sees(19));
  EXPECT_FALSE(snapshot.sees(20));
  EXPECT_TRUE(Snapshot::parse("7:7:").in_flight.empty());
  EXPECT_EQ(Snapshot::parse("18446744073709551614:18446744073709551615:").xmax, 18446744073709551615U);
  EXPECT_FALSE(Snapshot::beginning().sees(3));
  for (const auto* bad : {"", "1", "1:", "1:2", "a:b:", "1:2:x", "1:2:3;4"}) {
    EXPECT_THROW(Snapshot::parse(bad), std::invalid_argument) << bad;
  }
}

std::shared_ptr<const Window> window(const std::string& prev, const std::string& cur) {
  return std::make_shared<const Window>(Window{Snapshot::parse(prev), Snapshot::parse(cur)});
}

TEST(IdFloor, ANumberGivenLaterMeansLaterIds) {
  IdFloor floor;
  floor.reset(7);
  floor.saw(100);
  floor.saw(50);
  floor.mark(10);
  EXPECT_EQ(floor.at(Snapshot::parse("5:10:")), 7) << "the transaction 10 itself may have been given its number before";
  EXPECT_EQ(floor.at(Snapshot::parse("5:11:")), 100);
  floor.saw(200);
  EXPECT_EQ(floor.at(Snapshot::parse("20:20:")), 100) << "seen, but no number was given since";
  for (std::uint64_t txid = 30; txid < 60; ++txid) {
    floor.saw(static_cast<std::int64_t>(txid * 10));
    floor.mark(txid);
  }
  EXPECT_EQ(floor.at(Snapshot::parse("31:31:")), 300);
  EXPECT_LE(floor.at(Snapshot::parse("40:40:")), 390) << "few are kept";
  EXPECT_EQ(floor.at(Snapshot::parse("60:60:")), 590) << "the last one is";
  floor.reset(0);
  floor.mark(70);
  EXPECT_EQ(floor.at(Snapshot::parse("80:80:")), 0) << "another server may not have what was seen";
}

TEST(DeliveryTracker, PointsBehindTheLastSettledEntry) {
  DeliveryTracker tracker;
  const LogPosition start{"3:3:", "", 0};
  tracker.reset(start);
  const auto first = window("3:3:", "10:10:");
  const auto second = window("10:10:", "20:20:");
  EXPECT_EQ(tracker.delivered(101, first), 1U);
  EXPECT_EQ(tracker.delivered(102, first), 2U);
  EXPECT_EQ(tracker.position(), start) << "nothing is settled";
  tracker.closed({.prev = "10:10:"});
  EXPECT_EQ(tracker.delivered(103, second), 3U);
  EXPECT_EQ(tracker.delivered(104, second), 4U);
  EXPECT_EQ(tracker.id_of(2), 102);
  tracker.settle(1);
  EXPECT_EQ(tracker.position(), (LogPosition{"3:3:", "10:10:", 101}));
  EXPECT_THROW(static_cast<void>(tracker.id_of(1)), std::logic_error);
  tracker.settle(2);
  EXPECT_EQ(tracker.position(), (LogPosition{"10:10:", "", 0})) << "a whole window is its end";
  tracker.settle(3);
  EXPECT_EQ(tracker.position(), (LogPosition{"10:10:", "20:20:", 103}));
  tracker.settle(1);
  EXPECT_EQ(tracker.settled(), 3U) << "never back";
  tracker.settle(4);
  EXPECT_EQ(tracker.position(), (LogPosition{"10:10:", "20:20:", 104})) << "more of the window may come";
  tracker.closed({.prev = "20:20:"});
  EXPECT_EQ(tracker.position(), (LogPosition{"20:20:", "", 0}));
  tracker.closed({.prev = "30:30:"});
  EXPECT_EQ(tracker.position(), (LogPosition{"30:30:", "", 0})) << "an empty window";
  EXPECT_THROW(tracker.settle(5), std::logic_error);
}

TEST(DeliveryTracker, WindowsThatPassUnsettledAreNotSkipped) {
  DeliveryTracker tracker;
  tracker.reset({"3:3:", "", 0});
  const auto first = window("3:3:", "10:10:");
  tracker.delivered(1, first);
  tracker.closed({.prev = "10:10:"});
  tracker.closed({.prev = "12:12:"});
  const auto second = window("12:12:", "20:20:");
  tracker.delivered(2, second);
  tracker.closed({.prev = "20:20:"});
  EXPECT_EQ(tracker.position().prev, "3:3:");
  tracker.settle(2);
  EXPECT_EQ(tracker.position(), (LogPosition{"20:20:", "", 0}));
  const auto third = window("20:20:", "30:30:");
  EXPECT_EQ(tracker.delivered(3, third), 3U);
  tracker.settle(3);
  EXPECT_EQ(tracker.delivered(4, third), 4U) << "a large window goes on";
  EXPECT_EQ(tracker.position(), (LogPosition{"20:20:", "30:30:", 3}));
}

TEST(SchemaName, IsPutIntoSql) {
  EXPECT_EQ(in_schema("SELECT @schema@.f('@wake@') FROM @schema@.t", "shop"),
            "SELECT \"shop\".f('penstock_shop') FROM \"shop\".t");
  EXPECT_NO_THROW(check_schema_name("a_1"));
  EXPECT_NO_THROW(check_schema_name(std::string(50, 'a')));
  EXPECT_THROW(check_schema_name(std::string(51, 'a')), std::invalid_argument);
}

TEST(Migrations, AreNumberedFromOne) {
  ASSERT_GE(last_migration(), 1);
  for (int number = 1; number <= last_migration(); ++number) {
    EXPECT_NE(migration(number).find("@schema@"), std::string_view::npos);
  }
}

TEST(Connection, AddsDeadlinesUnlessTheyAreThere) {
  const auto uri = with_defaults("postgresql://u@h:1/db", 5s);
  EXPECT_EQ(uri.rfind("postgresql://u@h:1/db?connect_timeout=5&", 0), 0U) << uri;
  EXPECT_NE(uri.find("&tcp_user_timeout="), std::string::npos) << uri;
  EXPECT_EQ(with_defaults("postgres://h/db?sslmode=require", 5s).rfind("postgres://h/db?sslmode=require&connect_timeout=5", 0),
            0U);
  const auto pairs = with_defaults("host=h connect_timeout=9", 100ms);
  EXPECT_EQ(pairs.find("connect_timeout"), pairs.rfind("connect_timeout")) << pairs;
  EXPECT_NE(pairs.find(" keepalives_idle="), std::string::npos) << pairs;
  EXPECT_NE(with_defaults("", 100ms).find("connect_timeout=2"), std::string::npos) << "libpq knows no shorter one";
  EXPECT_NE(with_defaults("application_name=mine", 1s).find("application_name=mine"), std::string::npos);
}

}  // namespace
}  // namespace penstock::postgres
