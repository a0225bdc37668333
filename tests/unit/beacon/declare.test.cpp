// SPDX-License-Identifier: Apache-2.0
#include "beacon/declare.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <stdexcept>
#include <string>

namespace penstock::beacon {
namespace {

using namespace std::chrono_literals;

jsStreamConfig found(std::array<const char*, 1>& subjects) {
  jsStreamConfig config;
  jsStreamConfig_Init(&config);
  config.Subjects = subjects.data();
  config.SubjectsLen = 1;
  config.MaxBytes = -1;
  config.Duplicates = 120'000'000'000;
  config.Replicas = 1;
  config.Storage = js_FileStorage;
  return config;
}

TEST(BeaconDeclare, EqualSettingsDoNotDiffer) {
  std::array<const char*, 1> subjects{"orders"};
  EXPECT_EQ(difference({.name = "orders"}, found(subjects)), "");
}

TEST(BeaconDeclare, EveryDifferenceNamesBothSides) {
  std::array<const char*, 1> subjects{"others"};
  auto config = found(subjects);
  config.MaxAge = 5'000'000'000;
  config.MaxBytes = 10;
  config.Duplicates = 1;
  config.Replicas = 3;
  config.Storage = js_MemoryStorage;
  config.Retention = js_WorkQueuePolicy;
  const auto text = difference({.name = "orders", .max_age = 1h}, config);
  for (const char* part :
       {"subjects: wanted [orders], found [others]", "max_age: wanted 3600 s, found 5 s", "max_bytes: wanted -1, found 10",
        "duplicate_window: wanted 120 s, found 1 ns", "replicas: wanted 1, found 3", "storage: wanted file, found memory",
        "retention: wanted limits, found work queue"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
}

TEST(BeaconDeclare, OtherPartitionsAreOtherSubjects) {
  std::array<const char*, 1> subjects{"orders"};
  EXPECT_EQ(difference({.name = "orders", .partitions = 2}, found(subjects)),
            "subjects: wanted [orders.0, orders.1], found [orders]");
  subjects[0] = "orders.0";
  EXPECT_EQ(difference({.name = "orders", .partitions = 1}, found(subjects)), "");
  EXPECT_EQ(difference({.name = "orders"}, found(subjects)), "subjects: wanted [orders], found [orders.0]");
}

TEST(BeaconDeclare, ImpossibleSettingsAreMisuse) {
  const auto servers = parse_servers("nats://127.0.0.1:1");
  EXPECT_THROW(declare_stream(servers, {.name = "no name"}, 1s, nullptr), std::invalid_argument);
  EXPECT_THROW(declare_stream(servers, {.name = "a", .replicas = 0}, 1s, nullptr), std::invalid_argument);
  EXPECT_THROW(declare_stream(servers, {.name = "a", .partitions = -1}, 1s, nullptr), std::invalid_argument);
  EXPECT_THROW(declare_stream(servers, {.name = "a", .subjects = {"a"}, .partitions = 1}, 1s, nullptr), std::invalid_argument);
  EXPECT_THROW(declare_stream(servers, {.name = "a", .duplicate_window = 0s}, 1s, nullptr), std::invalid_argument);
  EXPECT_THROW(declare_stream(servers, {.name = "a", .max_age = 1s}, 1s, nullptr), std::invalid_argument);
}

TEST(BeaconDeclare, AServerThatIsAwayEndsAtTheTimeout) {
  EXPECT_THROW(declare_stream(parse_servers("nats://127.0.0.1:1"), {.name = "a"}, 200ms, nullptr), std::runtime_error);
}

}  // namespace
}  // namespace penstock::beacon
