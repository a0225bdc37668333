// SPDX-License-Identifier: Apache-2.0
// Partitions: the order of a key over any number of processes. What each test says is what docs/beacon.md promises.
#include <gtest/gtest.h>
#include <nats/nats.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/names.hpp"
#include "beacon/partitions.hpp"
#include "integration/beacon_server.hpp"
#include "penstock/beacon.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock::beacon_test {
namespace {

using SteadyClock = std::chrono::steady_clock;
using Ids = std::vector<std::string>;

/// All that is logged, as one text.
class Told final : public Logger {
 public:
  void log(LogLevel /*level*/, const std::string& text) override {
    const std::lock_guard lock{mutex_};
    text_ += text + '\n';
  }
  bool has(const std::string& part) const {
    const std::lock_guard lock{mutex_};
    return text_.find(part) != std::string::npos;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

/// Takes and acknowledges.
std::vector<Message> consume(Source& source, std::size_t count) {
  std::vector<Message> result;
  eventually([&] {
    for (auto& message : source.poll(count - result.size(), 100ms)) {
      source.ack(message);
      result.push_back(std::move(message));
    }
    return result.size() >= count;
  });
  return result;
}

/// What should not have come.
Ids leftovers(Source& source, std::chrono::milliseconds quiet = 300ms) {
  Ids result;
  const auto deadline = SteadyClock::now() + quiet;
  while (SteadyClock::now() < deadline) {
    for (const auto& message : source.poll(100, 50ms)) result.push_back(message.id());
  }
  return result;
}

Ids ids_of(const std::vector<Message>& messages) {
  Ids ids;
  for (const auto& message : messages) ids.push_back(message.id());
  return ids;
}

std::string why(const std::function<void()>& misuse) {
  try {
    misuse();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing is wrong";
}

/// The URL of the shared server, by way of a proxy.
std::string url_by(const support::TcpProxy& wire) { return "nats://127.0.0.1:" + std::to_string(wire.port()); }
std::uint16_t shared_port() {
  const std::string url = shared_url();
  return static_cast<std::uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)));
}

/// A key of that partition.
std::string key_in(std::uint32_t partition, int partitions) {
  for (int i = 0;; ++i) {
    std::string key = "key-" + std::to_string(i);
    if (beacon::partition_of(key, partitions) == partition) return key;
  }
}

class BeaconPartitions : public testing::Test {
 protected:
  ~BeaconPartitions() override {
    for (const auto& stream : streams_) raw_.remove(stream);
  }

  void declare(int partitions) {
    partitions_ = partitions;
    beacon_.declare({.name = stream_, .partitions = partitions});
    streams_.insert(stream_);
  }
  void store(const std::vector<Event>& events) { store(events, partitions_); }
  void store(const std::vector<Event>& events, int partitions) {
    for (const auto& outcome : beacon_.channel(stream_, partitions).publisher->publish(events, 20s)) {
      ASSERT_TRUE(outcome.confirmed()) << outcome.error;
    }
  }
  std::unique_ptr<Source> join(BeaconSourceOptions options = {}, const std::string& group = "workers") {
    if (options.partitions == 0) options.partitions = partitions_;
    auto source = beacon_.source(stream_, options);
    source->open(group, told_);
    return source;
  }
  [[nodiscard]] std::string consumer(int partition, const std::string& group = "workers") const {
    return beacon::durable_of(group, partition);
  }
  /// An event of a key of that partition.
  [[nodiscard]] Event event_in(std::uint32_t partition, int number) const {
    return event(number, key_in(partition, partitions_));
  }

  const std::string stream_ = fresh("partitions");
  int partitions_ = 0;
  std::set<std::string> streams_;
  Raw raw_{shared_url()};
  Beacon beacon_{{.url = shared_url()}};
  const std::shared_ptr<Told> told_ = std::make_shared<Told>();
};

TEST_F(BeaconPartitions, KeysAreSpreadAndEachKeepsItsPartition) {
  declare(4);
  std::vector<Event> sent;
  for (int i = 0; i < 200; ++i) sent.push_back(event(i, "order-" + std::to_string(i % 50)));
  store(sent);
  EXPECT_EQ(raw_.ids(stream_), beacon_test::ids_of(sent)) << "one stream, in the order of publishing over all partitions";
  const auto source = join();
  EXPECT_TRUE(source->traits().ordered);
  EXPECT_FALSE(source->traits().delays) << "a retry holds up its partition";
  EXPECT_TRUE(source->traits().replayable);
  std::map<std::string, std::set<std::int32_t>> partitions_of;
  std::map<std::int32_t, std::int64_t> positions;
  std::map<std::string, Ids> came;
  for (const auto& message : consume(*source, sent.size())) {
    EXPECT_EQ(message.origin.partition, static_cast<std::int32_t>(beacon::partition_of(message.key(), 4)));
    EXPECT_GT(message.origin.position, positions[message.origin.partition]) << "the stream's sequence";
    EXPECT_EQ(message.id(), std::to_string(message.origin.position - 1));
    positions[message.origin.partition] = message.origin.position;
    partitions_of[message.key()].insert(message.origin.partition);
    came[message.key()].push_back(message.id());
  }
  EXPECT_EQ(positions.size(), 4U);
  EXPECT_EQ(partitions_of.size(), 50U);
  for (const auto& [key, partitions] : partitions_of) EXPECT_EQ(partitions.size(), 1U) << key;
  for (const auto& event : sent) {
    ASSERT_FALSE(came[event.key].empty());
    EXPECT_EQ(came[event.key].front(), event.id);
    came[event.key].erase(came[event.key].begin());
  }
}

TEST_F(BeaconPartitions, OneMessageOfAPartitionIsOnItsWayAtATime) {
  declare(2);
  store({event_in(0, 1), event_in(0, 2), event_in(1, 3), event_in(1, 4)});
  const auto one = join();
  const auto two = join();
  const auto first = take(*one, 2);
  ASSERT_EQ(first.size(), 2U);
  EXPECT_EQ((std::set<std::string>{first[0].id(), first[1].id()}), (std::set<std::string>{"1", "3"}));
  EXPECT_EQ(leftovers(*one), Ids{}) << "in the same process";
  EXPECT_EQ(leftovers(*two), Ids{}) << "and in another";
  one->ack(first[0].id() == "1" ? first[0] : first[1]);
  Ids next;
  ASSERT_TRUE(eventually([&] {
    for (Source* source : {one.get(), two.get()}) {
      for (const auto& message : source->poll(10, 20ms)) next.push_back(message.id());
    }
    return !next.empty();
  }));
  EXPECT_EQ(next, Ids{"2"}) << "settled, it makes room for the next one of its partition alone";
}

TEST_F(BeaconPartitions, Rule15_AMessageThatWaitsHoldsUpItsPartitionAndNoOther) {
  declare(2);
  store({event_in(0, 1), event_in(1, 2), event_in(0, 3), event_in(1, 4)});
  const auto source = join();
  const auto first = take(*source, 2);
  ASSERT_EQ(first.size(), 2U);
  const auto& waits = first[0].origin.partition == 0 ? first[0] : first[1];
  const auto& goes = first[0].origin.partition == 0 ? first[1] : first[0];
  const auto before = SteadyClock::now();
  source->retry(waits, 1500ms);
  source->ack(goes);
  EXPECT_EQ(ids_of(consume(*source, 1)), Ids{"4"});
  EXPECT_LT(SteadyClock::now() - before, 1400ms) << "the other partition flows";
  const auto again = consume(*source, 1);
  ASSERT_EQ(ids_of(again), Ids{"1"}) << "before its successor";
  EXPECT_GE(SteadyClock::now() - before, 1400ms);
  EXPECT_EQ(again[0].origin.deliveries, 2U);
  EXPECT_TRUE(again[0].origin.redelivered);
  EXPECT_EQ(ids_of(consume(*source, 1)), Ids{"3"});
}

/// Members of a group that misbehave in every way, each in a thread: they put messages back at once or with a delay, let them
/// run into their ack_wait, and go, in order, in a crash of the process, or with the wire cut. Whatever they do, a message of a
/// key comes only when the one before it was acknowledged.
class Members {
 public:
  Members(std::vector<Event> sent, std::chrono::milliseconds patience)
      : sent_{std::move(sent)}, deadline_{SteadyClock::now() + patience} {
    for (const auto& each : sent_) expected_[each.key].push_back(each.id);
  }
  ~Members() {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
  }

  void run(std::shared_ptr<Source> source, unsigned seed, std::function<bool(std::size_t done)> leave) {
    threads_.emplace_back([this, source = std::move(source), seed, leave = std::move(leave)]() mutable {
      unsigned random = seed;
      while (!stop_ && !leave(done())) {
        for (const auto& message : source->poll(10, 20ms)) {
          random = random * 1'664'525U + 1'013'904'223U;
          handle(*source, message, (random >> 16U) % 16);
        }
      }
      source.reset();  // as it is: what it held goes to the others
    });
  }

  [[nodiscard]] std::size_t done() const {
    const std::lock_guard lock{mutex_};
    return acknowledged_.size();
  }
  [[nodiscard]] bool all_done() const {
    return eventually([this] { return done() >= sent_.size(); },
                      std::chrono::ceil<std::chrono::milliseconds>(deadline_ - SteadyClock::now()));
  }

 private:
  void handle(Source& source, const Message& message, unsigned chance) {
    {
      const std::lock_guard lock{mutex_};
      const auto& ids = expected_.at(message.key());
      const auto place = std::find(ids.begin(), ids.end(), message.id());
      ASSERT_NE(place, ids.end());
      if (place != ids.begin()) {
        EXPECT_TRUE(acknowledged_.contains(*std::prev(place)))
            << message.id() << " of " << message.key() << " came before " << *std::prev(place) << " was acknowledged";
      }
      if (chance == 0) return;  // and is never settled: it comes again after its ack_wait
      if (chance > 3) acknowledged_.insert(message.id());
    }
    if (chance > 3) return source.ack(message);
    source.retry(message, std::chrono::milliseconds{chance == 1 ? 0 : 20 * chance});
  }

  const std::vector<Event> sent_;
  const SteadyClock::time_point deadline_;
  std::map<std::string, Ids> expected_;
  mutable std::mutex mutex_;
  std::set<std::string> acknowledged_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

class BeaconPartitionsOrder : public BeaconPartitions, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Acks, BeaconPartitionsOrder, testing::Bool(),
                         [](const auto& param) { return param.param ? "Confirmed" : "Sent"; });

TEST_P(BeaconPartitionsOrder, OfAKeyHoldsOverAllMembersWhateverTheyDo) {
  declare(4);
  std::vector<Event> sent;
  for (int i = 0; i < 120; ++i) sent.push_back(event(i, "order-" + std::to_string(i % 10)));
  store(sent);
  const auto never = [](std::size_t) { return false; };
  const auto half = [](std::size_t done) { return done >= 60; };
  const BeaconSourceOptions options{.ack_wait = 400ms, .confirm_acks = GetParam()};
  support::TcpProxy wire{shared_port()};
  Beacon wired{{.url = url_by(wire)}};
  auto cut_off = wired.source(stream_, {.partitions = 4, .ack_wait = 400ms});
  cut_off->open("workers", nullptr);
  Members members{sent, 60s};
  members.run(join(options), 1, never);
  members.run(join(options), 2, half);
  members.run(std::move(cut_off), 3, [&](std::size_t done) {
    if (done >= 30) wire.stall(true);  // from here the server hears nothing of it, not that it is gone either
    return done >= 30;
  });
  EXPECT_TRUE(members.all_done()) << members.done() << " of " << sent.size();
}

TEST_F(BeaconPartitions, OneIsTheSingleConsumerInTheOrderOfTheStream) {
  declare(1);
  std::vector<Event> sent;
  for (int i = 0; i < 40; ++i) sent.push_back(event(i, "order-" + std::to_string(i)));
  store(sent);
  const auto one = join();
  const auto two = join();
  Ids came;
  ASSERT_TRUE(eventually([&] {
    for (Source* source : {one.get(), two.get()}) {
      for (const auto& message : source->poll(1, 20ms)) {
        EXPECT_EQ(message.origin.partition, 0);
        if (came.size() % 3 == 0 && !message.origin.redelivered) {
          source->retry(message, 5ms);
        } else {
          source->ack(message);
          came.push_back(message.id());
        }
      }
    }
    return came.size() >= sent.size();
  }));
  EXPECT_EQ(came, beacon_test::ids_of(sent)) << "over all keys";
}

TEST_F(BeaconPartitions, WhatWaitedTooLongToBeHandedOutIsLeftToTheOthers) {
  declare(2);
  store({event_in(0, 1), event_in(1, 2), event_in(0, 3), event_in(1, 4)});
  const auto slow = join({.ack_wait = 800ms});
  const auto first = take(*slow, 1);  // and has the other partition's with it by now, or soon
  ASSERT_EQ(first.size(), 1U);
  slow->ack(first[0]);
  std::this_thread::sleep_for(1s);  // nobody polls, so nothing is kept in progress
  const auto quick = join({.ack_wait = 800ms});
  const auto rest = consume(*quick, 3);
  ASSERT_EQ(rest.size(), 3U);
  EXPECT_EQ(leftovers(*slow, 1200ms), Ids{}) << "all was done elsewhere; from here it would come after its successors";
}

TEST_F(BeaconPartitions, WhatIsHeldAndHandedOutIsKeptInProgress) {
  declare(2);
  store({event_in(0, 1), event_in(1, 2)});
  const auto source = join({.ack_wait = 800ms});
  const auto first = take(*source, 1);
  ASSERT_EQ(first.size(), 1U);
  source->pause(true);  // with the other one in its hands, or on the way to them
  const auto end = SteadyClock::now() + 2s;
  while (SteadyClock::now() < end) {
    source->touch(first[0]);
    EXPECT_TRUE(source->poll(10, 50ms).empty());
  }
  source->pause(false);
  const auto second = take(*source, 1);
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].origin.deliveries, 1U);
  EXPECT_NE(second[0].id(), first[0].id());
  source->ack(first[0]);
  source->ack(second[0]);
  for (const int partition : {0, 1}) {
    EXPECT_TRUE(eventually([&] { return raw_.ack_pending(stream_, consumer(partition)) == 0; }));
  }
}

TEST_F(BeaconPartitions, AConsumerThatIsDeletedIsMadeAgainAndTheOthersKeepTheirPlace) {
  declare(2);
  store({event_in(0, 1), event_in(1, 2), event_in(0, 3), event_in(1, 4)});
  const auto source = join();
  const auto first = take(*source, 2);
  ASSERT_EQ(first.size(), 2U);
  ASSERT_EQ(js_DeleteConsumer(raw_.js(), stream_.c_str(), consumer(0).c_str(), nullptr, nullptr), NATS_OK);
  const auto again = take(*source, 1);
  ASSERT_EQ(ids_of(again), Ids{"1"}) << "a new consumer begins at the start of its partition";
  for (const auto& old : first) source->ack(old);  // void for partition 0, good for partition 1
  EXPECT_EQ(ids_of(take(*source, 1)), Ids{"4"});
  EXPECT_EQ(raw_.ack_pending(stream_, consumer(0)), 1) << "the old receipt settles nothing of the new consumer";
  EXPECT_TRUE(told_->has('"' + consumer(0) + "\" of \"" + stream_ + "\" was deleted and is there anew"));
  source->ack(again[0]);
  EXPECT_EQ(ids_of(take(*source, 1)), Ids{"3"});
}

TEST_F(BeaconPartitions, AStreamThatIsMadeAnewIsReadFromItsStart) {
  declare(8);
  const auto source = join();
  std::vector<Event> sent;
  for (std::uint32_t i = 0; i < 8; ++i) sent.push_back(event_in(i, static_cast<int>(i)));
  store(sent);
  const auto old = take(*source, 8);
  ASSERT_EQ(old.size(), 8U);
  raw_.remove(stream_);
  EXPECT_TRUE(source->poll(10, 200ms).empty());
  declare(8);
  store(sent);
  const auto before = SteadyClock::now();
  const auto fresh = take(*source, 8);
  ASSERT_EQ(fresh.size(), 8U);
  EXPECT_LT(SteadyClock::now() - before, 5s) << "eight pulls that end are one failure";
  for (const auto& message : old) source->ack(message);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(raw_.ack_pending(stream_, consumer(i)), 1) << i;
}

TEST_F(BeaconPartitions, AWorkQueueHasThemToo) {
  streams_.insert(stream_);
  partitions_ = 3;
  beacon_.declare({.name = stream_, .partitions = 3, .retention = StreamSpec::Retention::work_queue});
  std::vector<Event> sent;
  for (int i = 0; i < 30; ++i) sent.push_back(event(i, "order-" + std::to_string(i % 7)));
  store(sent);
  const auto source = join();
  EXPECT_EQ(consume(*source, sent.size()).size(), sent.size());
  EXPECT_TRUE(eventually([&] { return raw_.ids(stream_).empty(); }));
}

TEST_F(BeaconPartitions, EventsWithoutAKeyGoAnywhereAndARepeatGoesTheSameWay) {
  declare(4);
  std::vector<Event> sent;
  for (int i = 0; i < 60; ++i) sent.push_back(event(i, ""));
  store(sent);
  store(sent);
  std::set<std::int32_t> used;
  const auto source = join();
  for (const auto& message : consume(*source, sent.size())) used.insert(message.origin.partition);
  EXPECT_EQ(used.size(), 4U);
  EXPECT_EQ(leftovers(*source), Ids{});
}

TEST_F(BeaconPartitions, AGroupThatNeedsNoOrderReadsThemAllAsOne) {
  declare(4);
  std::vector<Event> sent;
  for (int i = 0; i < 40; ++i) sent.push_back(event(i, "order-" + std::to_string(i)));
  store(sent);
  const auto source = beacon_.source(stream_);
  EXPECT_FALSE(source->traits().ordered);
  EXPECT_TRUE(source->traits().delays);
  source->open("anyhow", nullptr);
  const auto messages = take(*source, sent.size());
  EXPECT_EQ(ids_of(messages), beacon_test::ids_of(sent)) << "many at a time";
  EXPECT_EQ(messages.at(0).origin.partition, -1);
}

TEST_F(BeaconPartitions, ASourceThatCountsOthersReadsNothingAndSaysBothNumbers) {
  declare(4);
  std::vector<Event> sent;
  for (int i = 0; i < 40; ++i) sent.push_back(event(i, "order-" + std::to_string(i)));
  store(sent);
  for (const int partitions : {1, 3, 5}) {
    const auto source = join({.partitions = partitions}, "of-" + std::to_string(partitions));
    EXPECT_EQ(leftovers(*source), Ids{});
    EXPECT_TRUE(told_->has("\"" + stream_ + "\" has 4 partitions, and the source counts " + std::to_string(partitions) +
                           (partitions == 1 ? " partition" : " partitions") + ": give both the same number"));
    EXPECT_EQ(raw_.ack_pending(stream_, consumer(0, "of-" + std::to_string(partitions))), -1) << "it makes no consumer either";
  }
  const std::string plain = fresh("plain");
  beacon_.declare({.name = plain});
  streams_.insert(plain);
  const auto source = beacon_.source(plain, {.partitions = 2});
  source->open("workers", told_);
  EXPECT_EQ(leftovers(*source), Ids{});
  EXPECT_TRUE(told_->has("has no partitions (its subjects are " + plain + "), and the source counts 2 partitions"));
}

TEST_F(BeaconPartitions, AChannelThatCountsOthersIsRejectedWithBothNumbers) {
  declare(2);
  const auto outcome_of = [&](int partitions, const std::string& key) {
    return beacon_.channel(stream_, partitions).publisher->publish(event(1, key), 20s);
  };
  const auto none = outcome_of(0, "k");
  EXPECT_EQ(none.status, Outcome::Status::rejected);
  EXPECT_NE(none.error.find("has 2 partitions, and the channel counts no partitions"), std::string::npos) << none.error;
  const auto more = outcome_of(8, key_in(7, 8));
  EXPECT_EQ(more.status, Outcome::Status::rejected);
  EXPECT_NE(more.error.find("has 2 partitions, and the channel counts 8"), std::string::npos) << more.error;
  EXPECT_TRUE(outcome_of(2, "k").confirmed());
}

TEST_F(BeaconPartitions, AnEventInTheWrongPartitionIsDeliveredAndToldOf) {
  declare(4);
  const std::string key = key_in(3, 4);
  store({event(1, key)}, 1);  // as a publisher that counts one
  const auto source = join();
  const auto messages = consume(*source, 1);
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_EQ(messages[0].origin.partition, 0);
  EXPECT_TRUE(told_->has("the event \"1\" came in partition 0 and its key belongs to 3"));
}

TEST_F(BeaconPartitions, DeclaringOthersThanThereAreIsAnErrorThatNamesBothSides) {
  declare(2);
  declare(2);  // the same again is none
  EXPECT_NE(why([&] { beacon_.declare({.name = stream_, .partitions = 3}); })
                .find("subjects: wanted [" + stream_ + ".0, " + stream_ + ".1, " + stream_ + ".2], found [" + stream_ + ".0, " +
                      stream_ + ".1]"),
            std::string::npos);
  EXPECT_NE(why([&] { beacon_.declare({.name = stream_}); }).find("wanted [" + stream_ + "], found"), std::string::npos);
}

TEST_F(BeaconPartitions, ANumberThatCannotBeIsMisuseThatNamesTheRemedy) {
  for (const int partitions : {-1, 257}) {
    const std::string number = "partitions of \"orders\" is " + std::to_string(partitions) + "; give 1 to 256";
    EXPECT_NE(why([&] { beacon_.declare({.name = "orders", .partitions = partitions}); }).find(number), std::string::npos);
    EXPECT_NE(why([&] { static_cast<void>(beacon_.channel("orders", partitions)); }).find(number), std::string::npos);
    EXPECT_NE(why([&] { static_cast<void>(beacon_.source("orders", {.partitions = partitions})); }).find(number),
              std::string::npos);
  }
  EXPECT_NE(why([&] {
              beacon_.declare({.name = "orders", .subjects = {"orders", "more"}, .partitions = 2});
            }).find("give one of them"),
            std::string::npos);
}

TEST_F(BeaconPartitions, DeadLettersHaveAChannelBesideThem) {
  declare(2);
  const std::string dead = stream_ + ".dead";
  beacon_.declare({.name = dead});
  streams_.insert(beacon::stream_of(dead));
  EXPECT_TRUE(beacon_.channel(dead).publisher->publish(event(1), 20s).confirmed());
  store({event(2)});
  const auto letters = beacon_.source(dead);
  letters->open("workers", nullptr);
  EXPECT_EQ(ids_of(consume(*letters, 1)), Ids{"1"});
  EXPECT_EQ(ids_of(consume(*join(), 1)), Ids{"2"});
  // A stream that is named like a partition would take what is meant for it.
  EXPECT_NE(why([&] { beacon_.declare({.name = stream_ + ".1"}, 5s); }).find("overlap"), std::string::npos);
}

TEST_F(BeaconPartitions, EnvironmentsShareAServerAndDoNotMeet) {
  for (const std::string prefix : {"staging.", "live.", ""}) {
    Beacon beacon{{.url = shared_url(), .prefix = prefix}};
    beacon.declare({.name = stream_, .partitions = 3});
    streams_.insert(beacon::stream_of(prefix + stream_));
    const auto channel = beacon.channel(stream_, 3);
    EXPECT_EQ(channel.name, stream_);
    Event made = event(1);
    made.subject = prefix;
    EXPECT_TRUE(channel.publisher->publish(made, 20s).confirmed());
  }
  for (const std::string prefix : {"staging.", "live.", ""}) {
    const auto source = Beacon{{.url = shared_url(), .prefix = prefix}}.source(stream_, {.partitions = 3});
    source->open("workers", nullptr);
    const auto messages = consume(*source, 1);
    ASSERT_EQ(messages.size(), 1U) << prefix;
    EXPECT_EQ(messages[0].event.subject, prefix);
    EXPECT_EQ(messages[0].origin.channel, stream_);
    EXPECT_EQ(leftovers(*source, 100ms), Ids{});
    const auto partition = static_cast<int>(beacon::partition_of("k", 3));
    EXPECT_EQ(raw_.ack_pending(beacon::stream_of(prefix + stream_), beacon::durable_of(prefix + "workers", partition)), 0)
        << "the consumers have the prefix, too";
    source->close(5s);
  }
}

TEST_F(BeaconPartitions, ANewGroupBeginsWhereItIsToldInEachPartition) {
  declare(2);
  store({event_in(0, 1), event_in(1, 2), event_in(0, 3), event_in(1, 4)});
  const auto source = join({.start_sequence = 2}, "late");
  auto ids = ids_of(consume(*source, 3));
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(ids, (Ids{"2", "3", "4"}));
  EXPECT_EQ(leftovers(*source), Ids{});
}

TEST_F(BeaconPartitions, Rule12_IdlingCostsAPullASecondForEachAndASignalIsHeardAtOnce) {
  declare(64);
  const auto source = join();
  EXPECT_EQ(leftovers(*source), Ids{});
  natsConnection* connection = nullptr;
  ASSERT_EQ(natsConnection_ConnectTo(&connection, shared_url().c_str()), NATS_OK);
  natsSubscription* pulls = nullptr;
  const std::string subject = "$JS.API.CONSUMER.MSG.NEXT." + stream_ + ".>";
  ASSERT_EQ(natsConnection_SubscribeSync(&pulls, connection, subject.c_str()), NATS_OK);
  ASSERT_EQ(natsConnection_Flush(connection), NATS_OK);
  const auto before = SteadyClock::now();
  EXPECT_EQ(leftovers(*source, 3s), Ids{});
  const auto seconds = std::chrono::duration<double>(SteadyClock::now() - before).count();
  ASSERT_EQ(natsConnection_Flush(connection), NATS_OK);
  std::uint64_t count = 0;
  ASSERT_EQ(natsSubscription_QueuedMsgs(pulls, &count), NATS_OK);
  EXPECT_LE(static_cast<double>(count), 64 * (seconds + 1));
  EXPECT_GE(count, 64U);
  natsSubscription_Destroy(pulls);
  natsConnection_Destroy(connection);

  for (const std::uint32_t partition : {0U, 31U, 63U}) {
    store({event_in(partition, static_cast<int>(partition))});
    const auto start = SteadyClock::now();
    EXPECT_EQ(source->poll(10, 10s).size(), 1U);
    EXPECT_LT(SteadyClock::now() - start, 5s) << "not at the end of the poll";
  }
}

TEST_F(BeaconPartitions, AnAcknowledgementByAnotherThreadBringsTheNextOneDuringAPoll) {
  declare(1);
  std::vector<Event> sent;
  for (int i = 0; i < 20; ++i) sent.push_back(event(i));
  store(sent);
  const auto source = join();
  auto message = take(*source, 1);
  ASSERT_EQ(message.size(), 1U);
  const auto start = SteadyClock::now();
  for (int i = 1; i < 20; ++i) {
    std::thread worker{[&source, done = message.front()] {
      std::this_thread::sleep_for(5ms);
      source->ack(done);
    }};
    message = source->poll(10, 10s);
    worker.join();
    ASSERT_EQ(ids_of(message), Ids{std::to_string(i)});
  }
  EXPECT_LT(SteadyClock::now() - start, 10s) << "a poll that waits is not woken by its end";
}

TEST(BeaconPartitionsServer, TheServersOwnHashIsTheSame) {
  // An operator may let the server partition the events of publishers that know nothing of it.
  Server server{"mappings { \"in.*\": \"orders.{{partition(7,1)}}\" }\n"};
  server.start();
  natsConnection* connection = nullptr;
  ASSERT_EQ(natsConnection_ConnectTo(&connection, server.url().c_str()), NATS_OK);
  natsSubscription* orders = nullptr;
  ASSERT_EQ(natsConnection_SubscribeSync(&orders, connection, "orders.*"), NATS_OK);
  std::vector<std::string> keys{"a", "foobar", "4711",
                                "gr\xc3\xb6\xc3\x9f"
                                "e"};
  for (int i = 0; i < 100; ++i) keys.push_back("order-" + std::to_string(i * i));
  for (const auto& key : keys) {
    ASSERT_EQ(natsConnection_PublishString(connection, ("in." + key).c_str(), "x"), NATS_OK);
    natsMsg* got = nullptr;
    ASSERT_EQ(natsSubscription_NextMsg(&got, orders, 10'000), NATS_OK) << key;
    const beacon::MessageHandle message{got};
    EXPECT_EQ(natsMsg_GetSubject(got), "orders." + std::to_string(beacon::partition_of(key, 7))) << key;
  }
  natsSubscription_Destroy(orders);
  natsConnection_Destroy(connection);
}

TEST(BeaconPartitionsServer, OrderHoldsThroughACrashOfTheServer) {
  Server server;
  server.start();
  Beacon beacon{{.url = server.url()}};
  beacon.declare({.name = "orders", .partitions = 2});
  std::vector<Event> sent;
  for (int i = 0; i < 60; ++i) sent.push_back(event(i, "order-" + std::to_string(i % 6)));
  for (const auto& outcome : beacon.channel("orders", 2).publisher->publish(sent, 20s)) ASSERT_TRUE(outcome.confirmed());
  Members members{sent, 60s};
  const auto never = [](std::size_t) { return false; };
  for (const unsigned seed : {1U, 2U}) {
    std::shared_ptr<Source> source = beacon.source("orders", {.partitions = 2, .ack_wait = 500ms});
    source->open("workers", nullptr);
    members.run(std::move(source), seed, never);
  }
  ASSERT_TRUE(eventually([&] { return members.done() >= 20; }));
  server.kill();
  server.start();
  EXPECT_TRUE(members.all_done()) << members.done();
}

}  // namespace
}  // namespace penstock::beacon_test
