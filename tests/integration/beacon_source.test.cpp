// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/names.hpp"
#include "integration/beacon_server.hpp"
#include "penstock/beacon.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock::beacon_test {
namespace {

using SteadyClock = std::chrono::steady_clock;

/// Polls for a while and returns what should not have come.
std::vector<Message> leftovers(Source& source, std::chrono::milliseconds quiet) {
  std::vector<Message> result;
  const auto deadline = SteadyClock::now() + quiet;
  while (SteadyClock::now() < deadline) {
    for (auto& message : source.poll(100, 50ms)) result.push_back(std::move(message));
  }
  return result;
}

void store(Beacon& beacon, const std::string& channel, const std::vector<Event>& events) {
  const auto publisher = beacon.channel(channel).publisher;
  for (const auto& each : events) {
    ASSERT_TRUE(eventually([&] { return publisher->publish(each, 5s).confirmed(); }));
  }
}

/// A stream on the shared server, gone at the end.
class BeaconSource : public testing::Test {
 protected:
  BeaconSource() { beacon_.declare({.name = stream_}); }
  ~BeaconSource() override { raw_.remove(stream_); }

  std::unique_ptr<Source> join(const std::string& group, BeaconSourceOptions options = {}) {
    auto source = beacon_.source(stream_, options);
    source->open(group, nullptr);
    return source;
  }
  bool settled(const std::string& consumer) {
    return eventually([&] { return raw_.ack_pending(stream_, consumer) == 0; });
  }

  const std::string stream_ = fresh("source");
  Raw raw_{shared_url()};
  Beacon beacon_{{.url = shared_url()}};
};

TEST_F(BeaconSource, ArrivesAsItWasSentAndOnceAcknowledgedNotAgain) {
  auto sent = event(1, "order 7", "");
  sent.headers = {{"z", "1"}, {"a", ""}, {"z", " 2 "}, {"Nats-Rollup", "all"}};
  sent.extensions.emplace("region", "über €");
  store(beacon_, stream_, {sent, event(2)});
  auto source = join("workers");
  const auto messages = take(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0].event, sent);
  EXPECT_EQ(messages[0].defect, "");
  EXPECT_EQ(messages[0].origin.backend, "nats");
  EXPECT_EQ(messages[0].origin.channel, stream_);
  EXPECT_EQ(messages[0].origin.position, 1);
  EXPECT_EQ(messages[1].origin.position, 2);
  EXPECT_EQ(messages[0].origin.deliveries, 1U);
  EXPECT_FALSE(messages[0].origin.redelivered);
  for (const auto& message : messages) source->ack(message);
  EXPECT_TRUE(settled("workers"));
  source->close(5s);
  auto next = join("workers");
  EXPECT_TRUE(leftovers(*next, 300ms).empty());
}

TEST_F(BeaconSource, EachGroupGetsEverythingAlsoLater) {
  store(beacon_, stream_, events(3));
  for (const char* group : {"a.b", "a_b", "a-b"}) {  // names that must not meet
    auto source = join(group);
    const auto messages = take(*source, 3);
    EXPECT_EQ(messages.size(), 3U) << group;
    for (const auto& message : messages) source->ack(message);
    source->close(5s);
  }
}

TEST_F(BeaconSource, EnvironmentsShareAServerAndDoNotMeet) {
  const auto news = fresh("news");
  const beacon_test::Raw raw{shared_url()};
  for (const std::string prefix : {"staging.", "live.", ""}) {
    Beacon beacon{{.url = shared_url(), .prefix = prefix}};
    beacon.declare({.name = news, .subjects = {news, news + ".*"}});
    Event made = event(1);
    made.subject = prefix;
    store(beacon, news, {made});
    EXPECT_EQ(beacon.channel(news).name, news);
  }
  for (const std::string prefix : {"staging.", "live.", ""}) {
    const auto source = Beacon{{.url = shared_url(), .prefix = prefix}}.source(news);
    EXPECT_EQ(source->channel(), news);
    source->open("workers", nullptr);
    const auto messages = take(*source, 1);
    ASSERT_EQ(messages.size(), 1U);
    EXPECT_EQ(messages[0].event.subject, prefix);
    EXPECT_EQ(messages[0].origin.channel, news);
    source->ack(messages[0]);
    EXPECT_TRUE(source->poll(1, 100ms).empty());
    source->close(5s);
    const std::string stream = beacon::stream_of(prefix + news);
    EXPECT_EQ(raw.ack_pending(stream, beacon::durable_of(prefix + "workers")), 0) << "the consumer has the prefix, too";
    raw.remove(stream);
  }
}

TEST_F(BeaconSource, ANewGroupBeginsAtASequenceOrATimeAndThenGoesOn) {
  // The server's clock and ours are one; both sides of the moment need messages, and it is no tenth of a second past a full
  // one.
  const auto past_the_second = [] {
    const auto now = std::chrono::system_clock::now();
    return now - std::chrono::floor<std::chrono::seconds>(now);
  };
  while (past_the_second() < 100ms || past_the_second() > 500ms) std::this_thread::sleep_for(5ms);
  store(beacon_, stream_, events(3));
  std::this_thread::sleep_for(20ms);
  const auto moment = std::chrono::system_clock::now();
  std::this_thread::sleep_for(20ms);
  store(beacon_, stream_, events(2, 4));
  const auto first = [&](const std::string& group, const BeaconSourceOptions& options) {
    const auto source = beacon_.source(stream_, options);
    source->open(group, nullptr);
    const auto messages = take(*source, 1);
    for (const auto& message : messages) source->ack(message);
    source->close(5s);
    return messages.empty() ? std::int64_t{-1} : messages[0].origin.position;
  };
  EXPECT_EQ(first("sequence", {.start_sequence = 3}), 3);
  EXPECT_EQ(first("sequence", {.start_sequence = 1}), 4) << "it goes on, wherever new groups begin";
  EXPECT_EQ(first("time", {.start_time = moment}), 4);
  EXPECT_EQ(first("time", {}), 5);
  EXPECT_THROW(static_cast<void>(beacon_.source(stream_, {.start_sequence = 1, .start_time = moment})), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(beacon_.source(stream_, {.start_sequence = 0})), std::invalid_argument);
}

TEST_F(BeaconSource, ANewGroupMissesNothingWhereverInASecondItBegins) {
  store(beacon_, stream_, events(1));
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()) - 1s;
  int group = 0;
  // A tenth of a second and less past the full one, where a fraction has leading zeros.
  for (const std::chrono::nanoseconds past : {0ns, 45ns, 45'000ns, 45'000'000ns, 99'999'999ns, 100'000'000ns, 123'456'789ns}) {
    const auto source = beacon_.source(stream_, {.start_time = now + past});
    source->open("from-" + std::to_string(++group), nullptr);
    EXPECT_EQ(take(*source, 1).size(), 1U) << past.count();
    const beacon_test::Raw raw{shared_url()};
    EXPECT_LE(raw.start_of(stream_, "from-" + std::to_string(group)), now + past);
    EXPECT_GT(raw.start_of(stream_, "from-" + std::to_string(group)), now + past - 100ms);
  }
}

TEST_F(BeaconSource, AWorkQueueForgetsWhatIsAcknowledged) {
  const auto jobs = fresh("jobs");
  beacon_.declare({.name = jobs, .retention = StreamSpec::Retention::work_queue});
  EXPECT_THROW(beacon_.declare({.name = jobs}), std::runtime_error);
  store(beacon_, jobs, events(2));
  const auto source = beacon_.source(jobs);
  source->open("workers", nullptr);
  source->ack(take(*source, 2).front());
  const beacon_test::Raw raw{shared_url()};
  EXPECT_TRUE(eventually([&] { return raw.ids(jobs) == std::vector<std::string>{"2"}; }));
  source->close(5s);
  raw.remove(jobs);
}

TEST_F(BeaconSource, MembersOfAGroupShare) {
  auto one = join("workers");
  auto two = join("workers");
  store(beacon_, stream_, events(40));
  std::multiset<std::string> seen;
  ASSERT_TRUE(eventually([&] {
    for (auto* source : {one.get(), two.get()}) {
      for (const auto& message : source->poll(3, 20ms)) {
        seen.insert(message.id());
        source->ack(message);
      }
    }
    return seen.size() >= 40;
  }));
  EXPECT_EQ(seen.size(), 40U);
  EXPECT_EQ(std::set<std::string>(seen.begin(), seen.end()).size(), 40U);
}

TEST_F(BeaconSource, RetryComesBackAfterItsDelayAndOthersPass) {
  store(beacon_, stream_, events(2));
  auto source = join("workers");
  auto messages = take(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  const auto before = SteadyClock::now();
  source->retry(messages[0], 700ms);
  source->ack(messages[1]);
  store(beacon_, stream_, {event(3)});
  auto next = take(*source, 1);
  ASSERT_EQ(next.size(), 1U);
  EXPECT_EQ(next[0].id(), "3");
  source->ack(next[0]);
  auto again = take(*source, 1);
  ASSERT_EQ(again.size(), 1U);
  EXPECT_EQ(again[0].id(), "1");
  EXPECT_GE(SteadyClock::now() - before, 650ms);
  EXPECT_EQ(again[0].origin.deliveries, 2U);
  EXPECT_TRUE(again[0].origin.redelivered);
  source->ack(again[0]);
  source->ack(messages[0]);  // a receipt that was settled
  EXPECT_TRUE(settled("workers"));
}

TEST_F(BeaconSource, Rule11_AConfirmedAcknowledgementSurvivesTheWireThatLostIt) {
  const std::string url = shared_url();
  support::TcpProxy wire{static_cast<std::uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)))};
  Beacon wired{{.url = "nats://127.0.0.1:" + std::to_string(wire.port())}};
  store(beacon_, stream_, {event(1)});
  const auto read_by = [&](const std::string& group, bool confirm) {
    auto source = wired.source(stream_, {.ack_wait = 6s, .confirm_acks = confirm});
    source->open(group, nullptr);
    return source;
  };
  const auto told = read_by("told", false);
  const auto asked = read_by("asked", true);
  const auto of_told = take(*told, 1);
  const auto of_asked = take(*asked, 1);
  ASSERT_EQ(of_told.size() + of_asked.size(), 2U);
  wire.deafen(true);
  told->ack(of_told[0]);
  asked->ack(of_asked[0]);  // waits, in vain, and keeps it for the next connection
  wire.deafen(false);
  wire.cut();
  std::size_t asked_again = 0;
  std::size_t told_again = 0;
  ASSERT_TRUE(eventually([&] {
    asked_again += asked->poll(10, 10ms).size();
    for (const auto& message : told->poll(10, 10ms)) {
      told->ack(message);
      ++told_again;
    }
    return told_again == 1;
  })) << "what was only sent is lost, and the message comes again";
  EXPECT_EQ(asked_again, 0U);
  EXPECT_TRUE(settled("asked"));
}

TEST_F(BeaconSource, InProgressKeepsASlowMessage) {
  store(beacon_, stream_, {event(1)});
  auto source = join("workers", {.ack_wait = 2s});
  const auto messages = take(*source, 1);
  ASSERT_EQ(messages.size(), 1U);
  const auto end = SteadyClock::now() + 5s;
  while (SteadyClock::now() < end) {
    source->touch(messages[0]);
    EXPECT_TRUE(source->poll(10, 50ms).empty()) << "redelivered while in work";
  }
  source->ack(messages[0]);
  EXPECT_TRUE(settled("workers"));
}

TEST_F(BeaconSource, WithoutASignItIsRedeliveredAndTheOldReceiptStillSettles) {
  store(beacon_, stream_, {event(1)});
  auto source = join("workers", {.ack_wait = 500ms});
  const auto first = take(*source, 1);
  const auto second = take(*source, 1);
  ASSERT_EQ(first.size(), 1U);
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].origin.deliveries, 2U);
  source->ack(first[0]);
  EXPECT_TRUE(settled("workers"));
}

TEST_F(BeaconSource, AnOldReceiptSettlesNothingOfAStreamMadeAnew) {
  store(beacon_, stream_, {event(1)});
  auto source = join("workers");
  const auto old = take(*source, 1);
  ASSERT_EQ(old.size(), 1U);
  raw_.remove(stream_);
  beacon_.declare({.name = stream_});
  store(beacon_, stream_, {event(2)});
  const auto fresh = take(*source, 1);
  ASSERT_EQ(fresh.size(), 1U);
  ASSERT_EQ(fresh[0].id(), "2");
  ASSERT_EQ(fresh[0].origin.position, old[0].origin.position) << "sequences begin anew, which is the danger";
  source->ack(old[0]);
  source->close(5s);
  auto next = join("workers");
  const auto again = take(*next, 1);
  ASSERT_EQ(again.size(), 1U) << "nobody has acknowledged it";
  EXPECT_EQ(again[0].id(), "2");
}

TEST_F(BeaconSource, NoMoreThanMaxAckPendingAreOut) {
  store(beacon_, stream_, events(10));
  auto source = join("workers", {.max_ack_pending = 3});
  auto messages = take(*source, 3);
  ASSERT_EQ(messages.size(), 3U);
  EXPECT_TRUE(leftovers(*source, 300ms).empty());
  source->ack(messages[1]);
  EXPECT_EQ(take(*source, 1).size(), 1U);
  EXPECT_TRUE(leftovers(*source, 300ms).empty());
}

TEST_F(BeaconSource, ClosingGivesBackAtOnce) {
  store(beacon_, stream_, events(4));
  auto source = join("workers");  // ack_wait 30 s
  auto messages = take(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  source->ack(messages[0]);
  source->close(5s);
  source->ack(messages[1]);  // too late, and harmless
  EXPECT_TRUE(source->poll(1, 10ms).empty());
  auto next = join("workers");
  auto rest = take(*next, 3, 10s);
  std::set<std::string> ids;
  for (const auto& message : rest) ids.insert(message.id());
  EXPECT_EQ(ids, (std::set<std::string>{"2", "3", "4"}));
}

TEST_F(BeaconSource, DestroyingGivesBackToo) {
  store(beacon_, stream_, events(2));
  {
    auto source = join("workers");
    ASSERT_EQ(take(*source, 2).size(), 2U);
  }
  auto next = join("workers");
  EXPECT_EQ(take(*next, 2, 10s).size(), 2U);
}

TEST_F(BeaconSource, PausedNothingComesAndNothingIsLost) {
  auto source = join("workers", {.ack_wait = 600ms});
  EXPECT_TRUE(source->poll(10, 50ms).empty());  // a pull is out
  source->pause(true);
  store(beacon_, stream_, events(5));
  EXPECT_TRUE(leftovers(*source, 1'500ms).empty());
  source->pause(false);
  auto messages = take(*source, 5);
  ASSERT_EQ(messages.size(), 5U);
  for (const auto& message : messages) {
    EXPECT_EQ(message.origin.deliveries, 1U) << "kept with in-progress signs, not redelivered";
    source->ack(message);
  }
  EXPECT_TRUE(settled("workers"));
}

TEST_F(BeaconSource, AMessageThatIsNoEventArrivesWithItsDefect) {
  ASSERT_EQ(js_Publish(nullptr, raw_.js(), stream_.c_str(), "raw bytes", 9, nullptr, nullptr), NATS_OK);
  auto source = join("workers");
  const auto messages = take(*source, 1);
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_FALSE(messages[0].defect.empty());
  EXPECT_EQ(messages[0].wire.payload, "raw bytes");
  source->ack(messages[0]);
  EXPECT_TRUE(settled("workers"));
}

TEST_F(BeaconSource, MisuseIsToldAndAMissingStreamIsWaitedFor) {
  auto source = beacon_.source(stream_ + "-later");
  EXPECT_THROW(source->poll(1, 1ms), std::logic_error);
  EXPECT_THROW(source->open("", nullptr), std::invalid_argument);
  source->open("workers", nullptr);
  EXPECT_THROW(source->open("workers", nullptr), std::logic_error);
  EXPECT_TRUE(source->poll(1, 100ms).empty());
  beacon_.declare({.name = stream_ + "-later"});
  store(beacon_, stream_ + "-later", {event(1)});
  EXPECT_EQ(take(*source, 1).size(), 1U);
  source->close(1s);
  raw_.remove(stream_ + "-later");
}

TEST_F(BeaconSource, ADeletedConsumerIsMadeAgain) {
  auto source = join("workers");
  store(beacon_, stream_, {event(1)});
  auto messages = take(*source, 1);
  ASSERT_EQ(messages.size(), 1U);
  source->ack(messages[0]);
  ASSERT_TRUE(settled("workers"));
  EXPECT_TRUE(source->poll(1, 20ms).empty());
  ASSERT_EQ(js_DeleteConsumer(raw_.js(), stream_.c_str(), "workers", nullptr, nullptr), NATS_OK);
  EXPECT_EQ(take(*source, 1).size(), 1U) << "a new consumer begins at the start";
}

TEST(BeaconSourceOutage, ReadsOnWhenTheServerIsBackAndOldReceiptsSettle) {
  Server server;
  server.start();
  Beacon beacon{{.url = server.url()}};
  beacon.declare({.name = "orders"});
  store(beacon, "orders", events(2));
  auto source = beacon.source("orders", {.ack_wait = 5s});
  /// Hears the source say that its connection is gone.
  struct Listener final : Logger {
    void log(LogLevel level, const std::string& /*text*/) override { lost = lost || level == LogLevel::warn; }
    std::atomic<bool> lost{false};
  };
  const auto listener = std::make_shared<Listener>();
  source->open("workers", listener);
  auto messages = take(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  server.kill();
  // Until then an ack may go into a connection that nobody reads any more.
  ASSERT_TRUE(eventually([&] {
    EXPECT_TRUE(source->poll(10, 20ms).empty());
    return listener->lost.load();
  }));
  source->ack(messages[0]);  // while it is away: sent when it is back
  server.start();
  ASSERT_TRUE(eventually([&] {
    source->poll(0, 0ms);
    for (const auto& message : source->poll(10, 50ms)) source->ack(message);
    return Raw{server.url()}.ack_pending("orders", "workers") <= 1;
  }));
  source->ack(messages[1]);
  store(beacon, "orders", {event(3)});
  std::set<std::string> seen;
  ASSERT_TRUE(eventually([&] {
    for (const auto& message : source->poll(10, 50ms)) {
      seen.insert(message.id());
      source->ack(message);
    }
    return seen.count("3") == 1 && Raw{server.url()}.ack_pending("orders", "workers") == 0;
  }));
  EXPECT_EQ(seen.count("1"), 0U) << "its ack was kept while the server was away";
}

TEST(BeaconSourceOutage, ClosingWithoutAServerEndsInTime) {
  Server server;
  server.start();
  Beacon beacon{{.url = server.url()}};
  beacon.declare({.name = "orders"});
  store(beacon, "orders", events(2));
  auto killed = beacon.source("orders");
  killed->open("workers", nullptr);
  ASSERT_EQ(take(*killed, 1).size(), 1U);
  auto paused = beacon.source("orders");
  paused->open("others", nullptr);
  ASSERT_EQ(take(*paused, 1).size(), 1U);
  auto never = beacon.source("orders");
  never->open("workers", nullptr);

  server.pause();
  auto before = SteadyClock::now();
  paused->close(300ms);
  EXPECT_LT(SteadyClock::now() - before, 5s);
  server.resume();
  server.kill();
  before = SteadyClock::now();
  killed->close(300ms);
  EXPECT_TRUE(never->poll(1, 100ms).empty());
  never->close(300ms);
  EXPECT_LT(SteadyClock::now() - before, 5s);
}

}  // namespace
}  // namespace penstock::beacon_test
