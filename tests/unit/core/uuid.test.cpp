// SPDX-License-Identifier: Apache-2.0
#include "penstock/uuid.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/uuid_internal.hpp"
#include "penstock/random.hpp"

namespace penstock {
namespace {

using std::chrono::system_clock;
using ::testing::MatchesRegex;

constexpr const char* shape7 = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";

class ScriptedRandom final : public Random {
 public:
  explicit ScriptedRandom(std::vector<std::uint64_t> values) : values_{std::move(values)} {}
  std::uint64_t next() override { return values_.at(at_++); }

 private:
  std::vector<std::uint64_t> values_;
  std::size_t at_ = 0;
};

TEST(Uuid7, HasTheVectorOfRfc9562) {  // appendix A.6
  ScriptedRandom random{{0xCC3, 0x18C4DC0C0C07398F}};
  const system_clock::time_point time{std::chrono::milliseconds{1645557742000}};
  EXPECT_EQ(uuid7(time, random), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
}

TEST(Uuid7, RepeatsItselfForOneSeed) {
  const system_clock::time_point time{std::chrono::milliseconds{1}};
  EXPECT_EQ(uuid7(time, *Random::seeded(7)), uuid7(time, *Random::seeded(7)));
  EXPECT_NE(uuid7(time, *Random::seeded(7)), uuid7(time, *Random::seeded(8)));
  EXPECT_THAT(uuid7(system_clock::time_point{std::chrono::milliseconds{-5}}, *Random::seeded(7)),
              MatchesRegex("00000000-0000-7[0-9a-f]{3}-.*"));
}

TEST(Uuid7, IsOrderedWithinOneProcess) {
  std::string last;
  for (int i = 0; i < 20'000; ++i) {
    std::string id = uuid7();
    ASSERT_LT(last, id);
    last = std::move(id);
  }
  EXPECT_THAT(last, MatchesRegex(shape7));
}

TEST(Uuid7, CarriesTheTime) {
  const auto before = std::chrono::floor<std::chrono::milliseconds>(system_clock::now()).time_since_epoch().count();
  std::string id = uuid7();
  id.erase(8, 1);
  const auto millis = std::stoll(id.substr(0, 12), nullptr, 16);
  EXPECT_GE(millis, before);
  EXPECT_LE(millis, before + 60'000);
}

TEST(Uuid7, IsUniqueAndOrderedOverThreads) {
  std::array<std::vector<std::string>, 4> made;
  {
    std::vector<std::jthread> threads;
    for (auto& ids : made) {
      threads.emplace_back([&ids] {
        for (int i = 0; i < 5'000; ++i) ids.push_back(uuid7());
      });
    }
  }
  std::set<std::string> all;
  for (const auto& ids : made) {
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
    all.insert(ids.begin(), ids.end());
  }
  EXPECT_EQ(all.size(), 20'000U);
}

TEST(Uuid7, IsNotRepeatedByAForkedProcess) {
  static_cast<void>(uuid7());
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string id = uuid7();
    const bool written = ::write(pipe_ends[1], id.data(), id.size()) == 36;
    ::_exit(written ? 0 : 1);
  }
  const std::string mine = uuid7();
  std::string theirs(36, ' ');
  ASSERT_EQ(::read(pipe_ends[0], theirs.data(), theirs.size()), 36);
  int status = 1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  EXPECT_NE(mine.substr(24), theirs.substr(24));
}

TEST(Uuid5, HasTheVectorOfRfc9562) {  // appendix A.4
  const UuidBytes dns{0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8};
  EXPECT_EQ(uuid5(dns, "www.example.com"), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
}

TEST(DerivedId, NeverChanges) {
  // A new release must derive the ids of the last one, or repeats in flight would count as new.
  EXPECT_EQ(derived_id("fulfillment", "/shop/orders-api", "order-17", 0), "4a4f9bf2-2cfe-5911-ba42-c4f0310ebdb7");
  EXPECT_EQ(derived_id("fulfillment", "/shop/orders-api", "0190b3c4-1111-7000-8000-000000000001", 0),
            "0190b3c4-1111-7329-b0ea-36830c87b26e");
}

TEST(DerivedId, IsAsOldAsWhatItIsDerivedFrom) {
  const std::string first = derived_id("g", "/s", "0190b3c4-1111-7000-8000-000000000001", 0);
  const std::string second = derived_id("h", "/s", first, 3);
  EXPECT_EQ(second.substr(0, 15), "0190b3c4-1111-7");
  EXPECT_NE(first.substr(15), second.substr(15));
  for (const auto* other : {"0190b3c4-1111-4000-8000-000000000001", "0190b3c4-1111-7000-c000-000000000001",
                            "0190B3C4-1111-7000-8000-000000000001", "0190b3c4-1111-7000-8000-00000000000",
                            "0190b3c4-1111-7000-8000-0000000000010", "0190b3c4x1111-7000-8000-000000000001"}) {
    EXPECT_EQ(derived_id("g", "/s", other, 0)[14], '5') << other;
  }
}

TEST(DerivedId, DependsOnEachPartAndOnNothingElse) {
  const std::string id = derived_id("g", "/s", "1", 0);
  EXPECT_EQ(id, derived_id("g", "/s", "1", 0));
  std::set<std::string> all{id,
                            derived_id("h", "/s", "1", 0),
                            derived_id("g", "/t", "1", 0),
                            derived_id("g", "/s", "2", 0),
                            derived_id("g", "/s", "1", 1),
                            derived_id("g", "/s", "1", -1)};
  EXPECT_EQ(all.size(), 6U);
}

TEST(DerivedId, DoesNotConfuseThePartsBorders) {
  EXPECT_NE(derived_id("g", "/s1", "2", 0), derived_id("g", "/s", "12", 0));
  EXPECT_NE(derived_id("a", "b:c", "d", 0), derived_id("a", "b", "c:d", 0));
  EXPECT_NE(derived_id("g", "/s", "1", 11), derived_id("g", "/s", "11", 1));
  EXPECT_NE(derived_id("", "1:a", "", 0), derived_id("1:a", "", "", 0));
}

}  // namespace
}  // namespace penstock
