// SPDX-License-Identifier: Apache-2.0
// A consumer's own cost: exactly-once against the same statements by hand, at-least-once against the bare client's loop, and
// the broker in memory against a queue with a mutex.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brokers.hpp"
#include "payload.hpp"
#include "penstock/conduit.hpp"
#include "penstock/consumer.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

constexpr int kWorkers = 8;

Event event_of(std::size_t i) {
  return {.id = id_of(i),
          .source = kSource,
          .type = kType,
          .key = key_of(i),
          .data = payload_of(i),
          .content_type = kContentType,
          .time = kTime};
}

/// The first and the latest moment something was done, and how often.
class Marks {
 public:
  void mark() {
    const double now = steady_seconds();
    if (count_.fetch_add(1) == 0) first_ = now;
    last_ = now;
  }
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] double seconds() const { return last_ - first_; }

  void await(std::size_t count) const {
    Stopwatch idle;
    for (std::size_t seen = 0; count_ < count; std::this_thread::sleep_for(std::chrono::milliseconds{1})) {
      if (count_ != seen) {
        seen = count_;
        idle = Stopwatch{};
      }
      if (idle.seconds() > 60) throw std::runtime_error{"the consumer stands still at " + std::to_string(seen)};
    }
  }

 private:
  std::atomic<std::size_t> count_{0};
  std::atomic<double> first_{0}, last_{0};
};

/// A broker that has everything at hand, so that only the consumer is measured.
class ReadySource final : public Source {
 public:
  ReadySource(std::size_t messages, std::shared_ptr<Marks> acks) : acks_{std::move(acks)} {
    messages_.resize(messages);
    for (std::size_t i = 0; i < messages; ++i) {
      messages_[i].event = event_of(i);
      messages_[i].wire = encode(messages_[i].event, Binding::kafka);
      messages_[i].origin = {.backend = "bench", .channel = channel_};
      messages_[i].receipt = i + 1;
    }
  }
  [[nodiscard]] SourceTraits traits() const noexcept override { return {.delays = true}; }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }
  void open(const std::string& /*group*/, std::shared_ptr<Logger> /*logger*/) override {}
  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) override {
    const std::size_t count = std::min(max, messages_.size() - next_);
    if (count == 0) {
      std::this_thread::sleep_for(wait);
      return {};
    }
    const auto begin = messages_.begin() + static_cast<std::ptrdiff_t>(next_);
    next_ += count;
    return {std::make_move_iterator(begin), std::make_move_iterator(begin + static_cast<std::ptrdiff_t>(count))};
  }
  void ack(const Message& /*message*/) override { acks_->mark(); }
  void retry(const Message& /*message*/, std::chrono::milliseconds /*delay*/) override {}
  void pause(bool /*paused*/) override {}
  void close(std::chrono::milliseconds /*timeout*/) override {}

 private:
  std::string channel_ = "bench";
  std::vector<Message> messages_;
  std::size_t next_ = 0;
  std::shared_ptr<Marks> acks_;
};

/// Runs a consumer until so many acknowledgements or handler calls, as `marks` counts them.
void run_until(Consumer& consumer, const Marks& marks, std::size_t count) {
  std::jthread thread{[&](std::stop_token stop) { consumer.run(stop); }};
  marks.await(count);
}

const std::string kEffect = " (id, key) VALUES ($1, $2)";

void create_effects(const Schema& schema) {
  schema.execute("CREATE TABLE " + schema.table("effects") + " (id text PRIMARY KEY, key text NOT NULL)");
}

Samples exactly_once(const Config& config, std::size_t messages) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  create_effects(schema);
  const std::string effect = "INSERT INTO " + schema.table("effects") + kEffect;
  PostgresDatastore datastore{config.postgres, {.schema = schema.name()}};
  const auto acks = std::make_shared<Marks>();
  Marks handled;
  Consumer consumer{std::make_unique<ReadySource>(messages, acks),
                    datastore,
                    {.group = "bench", .workers = {.min = kWorkers, .max = kWorkers}},
                    [&](const Message& message, Context& context) {
                      handled.mark();
                      run(context.tx(), effect, message.id(), message.key());
                      return Verdict::done();
                    }};
  run_until(consumer, *acks, messages);
  check_count("acknowledged", messages, acks->count());
  check_count("effects", messages, schema.count("effects"));
  check_count("inbox", messages, schema.count("inbox"));
  return rate(messages, acks->seconds());
}

Samples exactly_once_by_hand(const Config& config, std::size_t messages) {
  const Schema schema{config.postgres, Schema::Kind::penstock};  // for the same tables, with the same indexes
  create_effects(schema);
  const std::string inbox =
      "INSERT INTO " + schema.table("inbox") + " (consumer_group, source, id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
  const std::string effect = "INSERT INTO " + schema.table("effects") + kEffect;
  const std::string audit = "INSERT INTO " + schema.table("audit") +
                            " (consumer_group, backend, channel, source, event_id, type, key, outcome)"
                            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
  const std::string checkpoint =
      "INSERT INTO " + schema.table("checkpoints") +
      " (consumer_group, channel, partition, member, position) VALUES ($1, $2, $3, $4, $5) ON CONFLICT "
      "(consumer_group, channel, partition, member) DO UPDATE SET position = excluded.position, updated_at = clock_timestamp()";
  const std::string group = "bench";
  const double seconds = with_clients(config.postgres, kWorkers, messages, [&](pqxx::connection& connection, std::size_t i) {
    pqxx::work tx{connection};
    if (run(tx, inbox, group, kSource, id_of(i)).affected_rows() == 1) {
      run(tx, effect, id_of(i), key_of(i));
      run(tx, audit, group, group, group, kSource, id_of(i), kType, key_of(i), std::string{"done"});
      run(tx, checkpoint, group, group, 0, std::to_string(connection.backendpid()), static_cast<std::int64_t>(i));
    }
    tx.commit();
  });
  check_count("effects", messages, schema.count("effects"));
  check_count("inbox", messages, schema.count("inbox"));
  return rate(messages, seconds);
}

/// A topic that every run reads anew.
class FilledTopic {
 public:
  FilledTopic(const Config& config, std::size_t messages) : broker_{raw_kafka(config.kafka)}, topic_{*broker_} {
    broker_->publisher(topic_.name())->publish(0, messages);
    check_count("messages in the topic", messages, broker_->stored(topic_.name()));
  }
  [[nodiscard]] const std::string& name() const { return topic_.name(); }

 private:
  std::unique_ptr<RawBroker> broker_;
  Destination topic_;
};

std::string new_group() {
  static std::atomic<int> counter{0};
  return "bench-group-" + std::to_string(::time(nullptr)) + "-" + std::to_string(++counter);
}

Samples kafka_at_least_once(const Config& config, const std::string& topic, std::size_t messages) {
  Conduit conduit{{.bootstrap_servers = config.kafka}};
  testing::MemoryBroker dead;
  dead.declare("dead");
  Marks handled;
  const std::string group = new_group();
  {
    Consumer consumer{conduit.source(topic),
                      AtLeastOnce{.dead_letters = dead.channel("dead")},
                      {.group = group},
                      [&](const Message&, Context&) {
                        handled.mark();
                        return Verdict::done();
                      }};
    run_until(consumer, handled, messages);
  }
  check_count("handled", messages, handled.count());
  check_count("committed offsets", messages, raw_kafka_committed(config.kafka, topic, group));
  return rate(messages, handled.seconds());
}

Samples kafka_by_hand(const Config& config, const std::string& topic, std::size_t messages) {
  std::size_t seen = 0;
  const std::string group = new_group();
  const double seconds = raw_kafka_consume(config.kafka, topic, group, messages, [&] { ++seen; });
  check_count("handled", messages, seen);
  check_count("committed offsets", messages, raw_kafka_committed(config.kafka, topic, group));
  return rate(messages, seconds);
}

constexpr std::size_t kMemoryBatch = 100;

std::vector<Event> events_of(std::size_t count) {
  std::vector<Event> events;
  events.reserve(count);
  for (std::size_t i = 0; i < count; ++i) events.push_back(event_of(i));
  return events;
}

/// Publishing, then consuming.
Samples memory_broker(std::size_t count) {
  const std::vector<Event> events = events_of(count);
  testing::MemoryBroker broker;
  broker.declare("bench", kKafkaPartitions);
  const Channel channel = broker.channel("bench");
  const Stopwatch watch;
  for (std::size_t i = 0; i < count; i += kMemoryBatch) {
    const std::span batch{events.data() + i, std::min(kMemoryBatch, count - i)};
    for (const Outcome& outcome : channel.publisher->publish(batch, std::chrono::seconds{10})) {
      if (!outcome.confirmed()) throw std::runtime_error{"memory: " + outcome.error};
    }
  }
  const double publishing = watch.seconds();
  check_count("stored in memory", count, broker.published("bench").size());

  broker.declare("dead");
  Marks handled;
  {
    Consumer consumer{broker.source("bench"),
                      AtLeastOnce{.dead_letters = broker.channel("dead")},
                      {.group = "bench"},
                      [&](const Message&, Context&) {
                        handled.mark();
                        return Verdict::done();
                      }};
    run_until(consumer, handled, count);
  }
  check_count("handled", count, handled.count());
  check_count("pending", 0, broker.pending("bench", "bench"));
  return {rate(count, publishing).front(), rate(count, handled.seconds()).front()};
}

/// The least that can be: copies of the events through a deque.
Samples queue_by_hand(std::size_t count) {
  const std::vector<Event> events = events_of(count);
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Event> queue;
  const Stopwatch watch;
  for (std::size_t i = 0; i < count; i += kMemoryBatch) {
    {
      const std::lock_guard lock{mutex};
      for (std::size_t n = i; n < std::min(count, i + kMemoryBatch); ++n) queue.push_back(events[n]);
    }
    changed.notify_one();
  }
  const double publishing = watch.seconds();
  Marks handled;
  std::jthread consumer{[&] {
    for (std::size_t i = 0; i < count; ++i) {
      std::unique_lock lock{mutex};
      changed.wait(lock, [&] { return !queue.empty(); });
      const Event event = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      if (!event.id.empty()) handled.mark();
    }
  }};
  consumer.join();
  check_count("handled", count, handled.count());
  return {rate(count, publishing).front(), rate(count, handled.seconds()).front()};
}

}  // namespace

std::vector<Work> consume_works(const Config& config) {
  constexpr double kTransactions = 10'000;
  constexpr double kMessages = 200'000;
  constexpr double kInMemory = 100'000;
  std::vector<Work> works;
  Work once{.name = "consume.datastore",
            .metrics = {{.unit = "messages/s"}},
            .settings = {{"payload_bytes", kPayloadBytes},
                         {"keys", kKeys},
                         {"workers", kWorkers},
                         {"messages", config.events(kTransactions, 1)},
                         {"transaction", "one for each message"},
                         {"fsync", "on"},
                         {"reference", "the same statements by hand on as many connections, libpqxx"}}};
  once.ours = [=](double scale) { return exactly_once(config, config.events(kTransactions, scale)); };
  once.reference = [=](double scale) { return exactly_once_by_hand(config, config.events(kTransactions, scale)); };
  works.push_back(std::move(once));

  if (!config.kafka.empty()) {
    const std::size_t messages = config.events(kMessages, 1);
    const auto topic = std::make_shared<std::unique_ptr<FilledTopic>>();
    const auto name = [=]() -> const std::string& {
      if (!*topic) *topic = std::make_unique<FilledTopic>(config, messages);
      return (*topic)->name();
    };
    Work kafka{.name = "consume.kafka",
               .metrics = {{.unit = "messages/s"}},
               .settings = {{"payload_bytes", kPayloadBytes},
                            {"messages", messages},
                            {"partitions", kKafkaPartitions},
                            {"workers", 1},
                            {"handler", "empty"},
                            {"reference", "librdkafka, poll and store the offset, one message after the other"}}};
    kafka.ours = [=](double) { return kafka_at_least_once(config, name(), messages); };
    kafka.reference = [=](double) { return kafka_by_hand(config, name(), messages); };
    works.push_back(std::move(kafka));
  }

  Work memory{.name = "consume.memory",
              .metrics = {{.name = "publish", .unit = "events/s"}, {.name = "consume", .unit = "messages/s"}},
              .settings = {{"payload_bytes", kPayloadBytes},
                           {"messages", config.events(kInMemory, 1)},
                           {"batch", kMemoryBatch},
                           {"workers", 1},
                           {"handler", "empty"},
                           {"reference", "copies through a std::deque under a mutex"}}};
  memory.ours = [=](double scale) { return memory_broker(config.events(kInMemory, scale)); };
  memory.reference = [=](double scale) { return queue_by_hand(config.events(kInMemory, scale)); };
  works.push_back(std::move(memory));
  return works;
}

}  // namespace penstock::bench
