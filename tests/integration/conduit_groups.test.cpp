// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/conduit.hpp"
#include "penstock/consumer.hpp"
#include "penstock/uuid.hpp"
#include "support/kafka.hpp"
#include "support/services.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kPatience = 60s;

Event event(const std::string& key, int number) {
  return {.id = uuid7(), .source = "/test", .type = "test.counted.v1", .key = key, .data = std::to_string(number)};
}

class ConduitGroups : public ::testing::TestWithParam<const char*> {
 protected:
  ~ConduitGroups() override { support::delete_topic(servers_, topic_); }

  void declare(int partitions) { conduit_->declare({.name = topic_, .partitions = partitions}); }
  std::vector<Event> store(int count, int keys) {
    std::vector<Event> events;
    for (int i = 0; i < count; ++i) events.push_back(event("key-" + std::to_string(i % keys), number_++));
    for (const Outcome& outcome : conduit_->channel(topic_).publisher->publish(events, kPatience)) {
      EXPECT_TRUE(outcome.confirmed()) << outcome.error;
    }
    return events;
  }
  std::unique_ptr<Source> join(ConduitSourceOptions options = {}) {
    auto source = conduit_->source(topic_, std::move(options));
    source->open(group_, nullptr);
    return source;
  }
  /// The next `count` messages, unsettled.
  static std::vector<Message> take(Source& source, std::size_t count) {
    std::vector<Message> messages;
    const auto deadline = SteadyClock::now() + kPatience;
    while (messages.size() < count && SteadyClock::now() < deadline) {
      for (Message& message : source.poll(count - messages.size(), 200ms)) messages.push_back(std::move(message));
    }
    EXPECT_EQ(messages.size(), count);
    return messages;
  }
  static std::vector<std::string> data(const std::vector<Message>& messages) {
    std::vector<std::string> result;
    for (const Message& message : messages) result.emplace_back(message.data());
    return result;
  }

  std::string servers_ = support::address("PENSTOCK_KAFKA");
  std::string topic_ = "groups-" + uuid7();
  std::string group_ = "group-" + uuid7();
  int number_ = 0;
  std::unique_ptr<Conduit> conduit_ = std::make_unique<Conduit>(ConduitOptions{
      .bootstrap_servers = servers_, .properties = {{"session.timeout.ms", "6000"}, {"heartbeat.interval.ms", "300"}}});
};

/// Counts what a source says of messages that will come again. Any thread.
class AgainLogger final : public Logger {
 public:
  void log(LogLevel level, const std::string& message) override {
    if (level >= LogLevel::warn && message.find("delivered again") != std::string::npos) ++said_;
  }
  [[nodiscard]] int said() const { return said_; }

 private:
  std::atomic<int> said_ = 0;
};

/// Members that come and go while messages are in work on other threads: nothing is lost, and no key is in two hands at once.
TEST_P(ConduitGroups, RebalancesWhileMessagesAreInWorkLoseNothingAndShareNoKey) {
  declare(6);
  const auto events = store(600, 24);
  const auto again = std::make_shared<AgainLogger>();
  std::mutex mutex;
  std::map<std::string, int> handled;     // id → how often
  std::map<std::string, int> in_hands;    // key → messages being worked on
  std::map<std::string, int> last_first;  // key → the last number handled for the first time
  int shared = 0;
  int disorder = 0;
  const auto handle = [&](const Message& message) {
    {
      const std::lock_guard lock{mutex};
      if (++in_hands[message.key()] > 1) ++shared;
    }
    std::this_thread::sleep_for(2ms);  // the work
    const std::lock_guard lock{mutex};
    --in_hands[message.key()];
    if (++handled[message.id()] > 1) return;
    const int at = std::stoi(std::string{message.data()});
    const auto [highest, first] = last_first.try_emplace(message.key(), at);
    if (!first && at < highest->second) ++disorder;
    highest->second = std::max(highest->second, at);
  };
  const auto member = [&](const std::stop_token& stop) {
    auto source = conduit_->source(topic_, {.properties = {{"partition.assignment.strategy", GetParam()}}});
    source->open(group_, again);
    std::mutex queue_mutex;
    std::condition_variable_any changed;
    std::deque<Message> queue;
    {
      // The work goes on behind the back of poll, in order.
      const std::jthread worker{[&](const std::stop_token& done) {
        std::unique_lock lock{queue_mutex};
        while (changed.wait(lock, done, [&] { return !queue.empty(); })) {
          const Message message = std::move(queue.front());
          queue.pop_front();
          lock.unlock();
          handle(message);
          source->ack(message);
          lock.lock();
        }
      }};
      while (!stop.stop_requested()) {
        {
          const std::lock_guard lock{queue_mutex};
          source->pause(queue.size() > 20);
        }
        auto messages = source->poll(5, 20ms);
        const std::lock_guard lock{queue_mutex};
        for (Message& message : messages) queue.push_back(std::move(message));
        changed.notify_one();
      }
      // What is in the queue is handled before the member leaves.
      const auto drained = [&] {
        const std::lock_guard lock{queue_mutex};
        return queue.empty();
      };
      while (!drained()) static_cast<void>(source->poll(0, 1ms));
    }
    source->close(10s);
  };
  const auto all = [&] {
    const std::lock_guard lock{mutex};
    return handled.size();
  };
  const auto wait_for = [&](std::size_t count) {
    const auto deadline = SteadyClock::now() + kPatience;
    while (all() < count && SteadyClock::now() < deadline) std::this_thread::sleep_for(5ms);
  };
  {
    std::jthread first{member};
    wait_for(50);
    std::jthread second{member};
    wait_for(200);
    std::jthread third{member};
    wait_for(350);
    first.request_stop();
    first.join();
    wait_for(events.size());
  }
  const std::lock_guard lock{mutex};
  EXPECT_EQ(handled.size(), events.size());
  EXPECT_EQ(shared, 0) << "a key was in two hands";
  EXPECT_EQ(disorder, 0);
  std::size_t repeats = 0;
  for (const auto& [id, times] : handled) repeats += static_cast<std::size_t>(times - 1);
  // With librdkafka before 2.10 a cooperative member whose commit meets a rebalance loses its partitions for it. It says so.
  const bool lost = std::string{GetParam()} == "cooperative-sticky" && rd_kafka_version() < 0x020a0000 && again->said() > 0;
  if (!lost) {
    EXPECT_EQ(repeats, 0U) << "every rebalance waited for what was in work and committed it";
    EXPECT_EQ(again->said(), 0);
  }
}
INSTANTIATE_TEST_SUITE_P(Assignors, ConduitGroups, ::testing::Values("range", "roundrobin", "cooperative-sticky"),
                         [](const auto& strategy) {
                           return std::string{strategy.param} == "cooperative-sticky" ? std::string{"cooperative"}
                                                                                      : std::string{strategy.param};
                         });

using ConduitSources = ConduitGroups;

// Rule 1 and 11: an acknowledgement covers exactly what was processed, also when work completes out of order.
TEST_F(ConduitSources, Rule11_OnlyTheAcknowledgedPrefixIsCommitted) {
  declare(1);
  store(5, 1);
  {
    const auto source = join();
    const auto messages = take(*source, 5);
    for (const std::size_t i : {0U, 1U, 3U, 4U}) source->ack(messages[i]);
    source->close(10s);
  }
  const auto source = join();
  EXPECT_THAT(data(take(*source, 3)), ElementsAre("2", "3", "4"));
  source->close(10s);
}

TEST_F(ConduitSources, RetryGoesBackInOrderAndRepeatsNothingThatWasAcknowledged) {
  declare(1);
  store(6, 2);
  const auto source = join();
  const auto messages = take(*source, 4);
  source->ack(messages[2]);
  source->retry(messages[1], 300ms);
  source->ack(messages[1]);  // too late: it was sent back
  source->ack(messages[0]);
  source->ack(messages[3]);
  const auto start = SteadyClock::now();
  const auto again = take(*source, 3);
  EXPECT_GE(SteadyClock::now() - start, 200ms);
  EXPECT_THAT(data(again), ElementsAre("1", "4", "5"));
  EXPECT_TRUE(again[0].origin.redelivered);
  for (const Message& message : again) source->ack(message);
  source->close(10s);
  const auto successor = join();
  EXPECT_THAT(successor->poll(10, 500ms), IsEmpty());
  store(1, 1);
  EXPECT_THAT(data(take(*successor, 1)), ElementsAre("6"));
}

TEST_F(ConduitSources, PollingWhilePausedKeepsTheMembershipWhateverWorkTakes) {
  declare(2);
  store(20, 10);
  const auto source = join({.properties = {{"max.poll.interval.ms", "6000"}}});
  const auto messages = take(*source, 20);
  source->pause(true);
  store(5, 5);
  const auto until = SteadyClock::now() + 8s;  // longer than max.poll.interval.ms: what is tested
  while (SteadyClock::now() < until) EXPECT_THAT(source->poll(10, 200ms), IsEmpty());
  for (const Message& message : messages) source->ack(message);
  source->pause(false);
  const auto more = take(*source, 5);
  for (const Message& message : more) {
    EXPECT_FALSE(message.origin.redelivered) << "the membership was lost meanwhile";
    source->ack(message);
  }
  source->close(10s);
  const auto successor = join();
  EXPECT_THAT(successor->poll(10, 500ms), IsEmpty()) << "everything was committed";
}

TEST_F(ConduitSources, AMemberThatDoesNotPollLosesItsPartitionsAndNothingElse) {
  declare(1);
  store(5, 1);
  const auto source = join({.properties = {{"max.poll.interval.ms", "6000"}}, .revoke_timeout = 100ms});
  const auto stale = take(*source, 5);
  source->ack(stale[0]);
  const auto successor = join({.revoke_timeout = 100ms});
  // The first member hangs in its work; the second gets the partition when the group has waited long enough.
  const auto taken = take(*successor, 4);
  EXPECT_FALSE(taken.empty());
  for (const Message& message : stale) source->ack(message);  // dead receipts: they settle nothing
  EXPECT_NO_THROW(static_cast<void>(source->poll(10, 200ms)));
  for (const Message& message : taken) successor->ack(message);
  successor->close(10s);
  source->close(10s);
}

TEST_F(ConduitSources, ANewGroupBeginsAtATimeAndKeepsThatPlace) {
  declare(2);
  store(10, 5);
  std::this_thread::sleep_for(20ms);  // Kafka's time is the producer's; both sides of the moment need messages
  const auto moment = std::chrono::system_clock::now();
  std::this_thread::sleep_for(20ms);
  store(10, 5);
  std::set<std::string> expected;
  for (int i = 10; i < 20; ++i) expected.insert(std::to_string(i));
  for (int run = 0; run < 2; ++run) {  // nothing is settled, so the second one begins at the same place
    const auto source = join({.start_time = moment});
    const auto found = data(take(*source, 10));
    EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), expected);
    source->close(10s);
  }
  EXPECT_THROW(static_cast<void>(conduit_->source(topic_, {.start_time = std::chrono::system_clock::time_point{-1h}})),
               std::invalid_argument);
}

TEST_F(ConduitSources, AReplayWithAnEndReadsWhatWasThereAndLetsTheConsumerReturn) {
  declare(3);
  store(30, 7);
  const auto source = join({.until_end = true});
  EXPECT_FALSE(source->finished());
  std::vector<Message> messages = take(*source, 1);
  store(20, 7);  // too late
  while (messages.size() < 30) {
    for (Message& message : take(*source, 30 - messages.size())) messages.push_back(std::move(message));
  }
  EXPECT_THAT(source->poll(10, 300ms), IsEmpty());
  EXPECT_FALSE(source->finished()) << "nothing is settled yet";
  source->retry(messages.back(), 1ms);
  messages.pop_back();
  for (const Message& message : messages) source->ack(message);
  EXPECT_FALSE(source->finished()) << "one wants to come again";
  for (const Message& message : take(*source, 1)) source->ack(message);
  const auto deadline = SteadyClock::now() + kPatience;
  while (!source->finished() && SteadyClock::now() < deadline) EXPECT_THAT(source->poll(10, 50ms), IsEmpty());
  EXPECT_TRUE(source->finished());
  source->close(10s);

  int handled = 0;
  Consumer consumer{conduit_->source(topic_, {.until_end = true}),
                    AtLeastOnce{.dead_letters = conduit_->channel(topic_)},
                    {.group = "replay-" + uuid7()},
                    [&](const Message&, Context&) {
                      ++handled;
                      return Verdict::done();
                    }};
  EXPECT_TRUE(consumer.run(std::stop_token{})) << "it ends by itself";
  EXPECT_EQ(handled, 50);
}

/// Remembers what a source says of partitions that come and go. Any thread.
class PartitionLogger final : public Logger {
 public:
  void log(LogLevel /*level*/, const std::string& message) override {
    if (message.find("partitions") == std::string::npos) return;
    const std::lock_guard lock{mutex_};
    said_.push_back(message);
  }
  [[nodiscard]] std::vector<std::string> said() const {
    const std::lock_guard lock{mutex_};
    return said_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> said_;
};

TEST_F(ConduitSources, AQuickRestartOfAStaticMemberRebalancesNobody) {
  declare(2);
  const auto log = std::make_shared<PartitionLogger>();
  const auto member = [&](const std::string& name, const std::shared_ptr<Logger>& logger) {
    auto source = conduit_->source(topic_, {.properties = {{"group.instance.id", name}}});
    source->open(group_, logger);
    return source;
  };
  const auto stays = member("stays", log);
  auto restarts = member("restarts", nullptr);
  std::set<std::int32_t> held;  // by the one that restarts
  const auto poll_both = [&](const std::function<bool()>& done) {
    const auto deadline = SteadyClock::now() + kPatience;
    while (!done() && SteadyClock::now() < deadline) {
      store(8, 8);
      for (const Message& message : stays->poll(50, 20ms)) stays->ack(message);
      for (const Message& message : restarts->poll(50, 20ms)) {
        held.insert(message.origin.partition);
        restarts->ack(message);
      }
    }
    EXPECT_TRUE(done());
  };
  // Both have joined when each has one.
  poll_both([&] { return !held.empty() && !log->said().empty() && log->said().back().find("none") == std::string::npos; });
  const auto before = log->said();
  const auto theirs = std::exchange(held, {});
  restarts->close(10s);
  restarts = member("restarts", nullptr);
  poll_both([&] { return !held.empty(); });
  EXPECT_EQ(held, theirs) << "it has the same again";
  EXPECT_EQ(log->said(), before) << "and the other one was not asked for anything";
  restarts->close(10s);
  stays->close(10s);
}

TEST_F(ConduitSources, PartitionsAddedWhileRunningAreRead) {
  declare(1);
  const auto source = join({.properties = {{"topic.metadata.refresh.interval.ms", "200"}}});
  store(3, 3);
  for (const Message& message : take(*source, 3)) source->ack(message);
  {
    const support::RawClient client{RD_KAFKA_PRODUCER, {{"bootstrap.servers", servers_}}};
    std::array<char, 200> reason{};
    rd_kafka_NewPartitions_t* more = rd_kafka_NewPartitions_new(topic_.c_str(), 4, reason.data(), reason.size());
    rd_kafka_queue_t* queue = rd_kafka_queue_new(client.get());
    rd_kafka_CreatePartitions(client.get(), &more, 1, nullptr, queue);
    if (rd_kafka_event_t* event = rd_kafka_queue_poll(queue, 10'000)) rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewPartitions_destroy(more);
  }
  // A producer of its own, as ours learns of them later.
  Conduit fresh{{.bootstrap_servers = servers_}};
  std::vector<Event> events;
  for (int i = 0; i < 40; ++i) events.push_back(event("key-" + std::to_string(i), number_++));
  for (const Outcome& outcome : fresh.channel(topic_).publisher->publish(events, kPatience)) EXPECT_TRUE(outcome.confirmed());
  std::set<std::int32_t> partitions;
  std::set<std::string> seen;
  const auto deadline = SteadyClock::now() + kPatience;
  while (seen.size() < events.size() && SteadyClock::now() < deadline) {
    for (const Message& message : source->poll(10, 100ms)) {
      partitions.insert(message.origin.partition);
      seen.insert(message.id());
      source->ack(message);  // at once, as rebalances wait for it
    }
  }
  EXPECT_EQ(seen.size(), events.size());
  EXPECT_EQ(partitions, (std::set<std::int32_t>{0, 1, 2, 3}));
  source->close(10s);
}

/// What a group has committed of a topic's first partition.
std::int64_t committed(const std::string& servers, const std::string& group, const std::string& topic) {
  const support::RawClient client{RD_KAFKA_CONSUMER, {{"bootstrap.servers", servers}, {"group.id", group}}};
  rd_kafka_topic_partition_list_t* list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, topic.c_str(), 0);
  rd_kafka_committed(client.get(), list, 10'000);
  const std::int64_t offset = list->elems[0].offset;
  rd_kafka_topic_partition_list_destroy(list);
  return offset;
}

TEST_F(ConduitSources, EnvironmentsShareAKafkaAndDoNotMeet) {
  const std::vector<std::string> prefixes{"staging.", "live.", ""};
  for (const std::string& prefix : prefixes) {
    Conduit conduit{{.bootstrap_servers = servers_, .prefix = prefix}};
    conduit.declare({.name = topic_, .partitions = 1});
    const Channel channel = conduit.channel(topic_);
    EXPECT_EQ(channel.name, topic_);
    Event made = event("k", 1);
    made.subject = prefix;
    EXPECT_TRUE(channel.publisher->publish(made, kPatience).confirmed());
  }
  for (const std::string& prefix : prefixes) {
    const auto source = Conduit{{.bootstrap_servers = servers_, .prefix = prefix}}.source(topic_);
    EXPECT_EQ(source->channel(), topic_);
    source->open(group_, nullptr);
    const auto messages = take(*source, 1);
    ASSERT_EQ(messages.size(), 1U);
    EXPECT_EQ(messages[0].event.subject, prefix);
    EXPECT_EQ(messages[0].origin.channel, topic_);
    source->ack(messages[0]);
    EXPECT_THAT(source->poll(1, 100ms), IsEmpty());
    source->close(5s);
    EXPECT_EQ(committed(servers_, prefix + group_, prefix + topic_), 1) << "the group has the prefix, too";
    if (!prefix.empty()) support::delete_topic(servers_, prefix + topic_);
  }
}

TEST_F(ConduitSources, LatestBeginsAtTheEndAndKeepsThatPlace) {
  declare(2);
  store(10, 5);
  {
    const auto source = join({.start = ConduitSourceOptions::Start::latest});
    const auto deadline = SteadyClock::now() + kPatience;
    // It has its place when something stored now arrives.
    std::vector<Message> messages;
    while (messages.empty() && SteadyClock::now() < deadline) {
      store(2, 2);
      messages = source->poll(1, 300ms);
    }
    ASSERT_FALSE(messages.empty());
    EXPECT_GE(std::stoi(std::string{messages[0].data()}), 10);
  }  // gone without having settled anything
  const int before = number_;
  store(4, 4);
  const auto source = join({.start = ConduitSourceOptions::Start::latest});
  std::set<int> seen;
  const auto deadline = SteadyClock::now() + kPatience;
  const auto all_seen = [&] {
    for (int i = before; i < before + 4; ++i) {
      if (!seen.contains(i)) return false;
    }
    return true;
  };
  while (!all_seen() && SteadyClock::now() < deadline) {
    for (const Message& message : source->poll(10, 200ms)) {
      seen.insert(std::stoi(std::string{message.data()}));
      source->ack(message);
    }
  }
  for (int i = before; i < before + 4; ++i) EXPECT_TRUE(seen.contains(i)) << i << " was stored while nobody was there";
  EXPECT_GE(*seen.begin(), 10);
}

TEST_F(ConduitSources, ASourceMayWaitForItsTopicToBeMade) {
  const auto source = join({.properties = {{"topic.metadata.refresh.interval.ms", "500"}}});
  EXPECT_THAT(source->poll(10, 300ms), IsEmpty());
  declare(1);
  store(1, 1);
  EXPECT_THAT(data(take(*source, 1)), ElementsAre("0"));
}

TEST_F(ConduitSources, MisuseIsRefused) {
  EXPECT_THROW(static_cast<void>(conduit_->source("")), std::invalid_argument);
  const auto source = conduit_->source(topic_);
  EXPECT_THROW(static_cast<void>(source->poll(1, 0ms)), std::logic_error);
  EXPECT_THROW(source->pause(true), std::logic_error);
  EXPECT_THROW(source->open("", nullptr), std::invalid_argument);
  source->open(group_, nullptr);
  EXPECT_THROW(source->open(group_, nullptr), std::logic_error);
  source->close(5s);
  EXPECT_THAT(source->poll(1, 0ms), IsEmpty());
}

}  // namespace
}  // namespace penstock
