// SPDX-License-Identifier: Apache-2.0
// A consumer's own cost: exactly-once against the same statements by hand, at-least-once against the bare client's loop, and
// the broker in memory against a queue with a mutex.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brokers.hpp"
#include "child.hpp"
#include "payload.hpp"
#include "penstock/conduit.hpp"
#include "penstock/consumer.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "pg.hpp"
#include "postgres/text_codec.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

constexpr int kWorkers = 8;

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

/// `make` gets the effects' table and makes the handler. `letters` of the messages are to become dead letters.
template <class Make>
double consume_all(const Schema& schema, std::size_t messages, std::size_t batch, Make make, std::size_t letters = 0) {
  create_effects(schema);
  PostgresDatastore datastore{schema.url(), {.schema = schema.name()}};
  const auto acks = std::make_shared<Marks>();
  Consumer consumer{std::make_unique<ReadySource>(messages, acks),
                    datastore,
                    {.group = "bench",
                     .workers = {.min = kWorkers, .max = kWorkers},
                     .in_flight = std::max<std::size_t>(256, 2 * kWorkers * batch),
                     .batch = batch},
                    make(schema.table("effects"))};
  run_until(consumer, *acks, messages);
  check_count("acknowledged", messages, acks->count());
  check_count("effects", messages - letters, schema.count("effects"));
  check_count("inbox", messages, schema.count("inbox"));
  check_count("dead letters", letters, schema.count("dead_letters"));
  return static_cast<double>(messages) / acks->seconds();
}

template <class Make>
Samples exactly_once(const Config& config, std::size_t messages, std::size_t batch, Make make) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  return {{consume_all(schema, messages, batch, make)}};
}

Handler one_statement_each(const std::string& effects) {
  return [effect = "INSERT INTO " + effects + kEffect](const Message& message, Context& context) {
    run(context.tx(), effect, message.id(), message.key());
    return Verdict::done();
  };
}

constexpr std::size_t kPoison = 100;  ///< one in so many

/// Every hundredth message can never be handled.
Handler one_statement_or_none(const std::string& effects) {
  return [handle = one_statement_each(effects)](const Message& message, Context& context) {
    return std::stoul(message.id().substr(24)) % kPoison == 0 ? Verdict::reject("poison") : handle(message, context);
  };
}

Samples with_poison(const Config& config, std::size_t messages) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  return {{consume_all(schema, messages, 1, one_statement_or_none, (messages + kPoison - 1) / kPoison)}};
}

/// Messages of other keys that wait for a time that does not come.
void park(const Schema& schema, std::size_t count) {
  schema.execute("INSERT INTO " + schema.table("parked") +
                 " (consumer_group, key, next_attempt_at, attempt, source, event_id, type, backend, channel, payload)"
                 " SELECT 'bench', 'parked-' || n % 100000, now() + interval '1 day', 1, '" +
                 kSource + "', 'parked-' || n, '" + kType + "', 'bench', 'bench', convert_to(repeat('x', " +
                 std::to_string(kPayloadBytes) + "), 'UTF8') FROM generate_series(1, " + std::to_string(count) + ") n");
  schema.execute("VACUUM ANALYZE " + schema.table("parked"));
}

/// Intake beside so many parked messages, and the memory of a process that does nothing else.
Samples beside_parked(const Config& config, std::size_t messages, std::size_t parked) {
  const Schema schema{config.postgres, Schema::Kind::penstock};
  if (parked > 0) park(schema, parked);
  schema.execute("CHECKPOINT");
  const Json result = run_child(config, "--child-consume", schema, messages);
  return {{result["rate"].get<double>()}, {result["peak_mb"].get<double>()}};
}

BatchHandler one_statement(const std::string& effects) {
  return [effect = "INSERT INTO " + effects + " (id, key) SELECT unnest($1::text[]), unnest($2::text[])"](Batch& batch) {
    using postgres::BinaryArray;
    BinaryArray ids{BinaryArray::Type::text};
    BinaryArray keys{BinaryArray::Type::text};
    for (const Message* message : batch.messages()) {
      ids.add(message->id());
      keys.add(message->key());
    }
    const std::string id_column = ids.take();
    const std::string key_column = keys.take();
    run(batch.tx(), effect, postgres::Binary{id_column}, postgres::Binary{key_column});
    return Verdicts{Verdict::done()};
  };
}

/// So many messages a transaction.
Samples exactly_once_by_hand(const Config& config, std::size_t messages, std::size_t batch) {
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
  const std::size_t transactions = (messages + batch - 1) / batch;
  const double seconds =
      with_clients(config.postgres, kWorkers, transactions, [&](pqxx::connection& connection, std::size_t n) {
        pqxx::work tx{connection};
        const std::size_t end = std::min(messages, (n + 1) * batch);
        for (std::size_t i = n * batch; i < end; ++i) {
          if (run(tx, inbox, group, kSource, id_of(i)).affected_rows() == 1) {
            run(tx, effect, id_of(i), key_of(i));
            run(tx, audit, group, group, group, kSource, id_of(i), kType, key_of(i), std::string{"done"});
          }
        }
        run(tx, checkpoint, group, group, 0, std::to_string(connection.backendpid()), static_cast<std::int64_t>(end));
        tx.commit();
      });
  check_count("effects", messages, schema.count("effects"));
  check_count("inbox", messages, schema.count("inbox"));
  return rate(messages, seconds);
}

std::size_t in_flight_of(int workers) { return workers > 1 ? 8'192 : 256; }

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

Samples kafka_at_least_once(const Config& config, const std::string& topic, std::size_t messages, int workers) {
  Conduit conduit{{.bootstrap_servers = config.kafka}};
  testing::MemoryBroker dead;
  dead.declare("dead");
  Marks handled;
  const std::string group = new_group();
  {
    Consumer consumer{conduit.source(topic),
                      AtLeastOnce{.dead_letters = dead.channel("dead")},
                      {.group = group, .workers = {.min = workers, .max = workers}, .in_flight = in_flight_of(workers)},
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

/// What Confluent publishes of its Parallel Consumer: a handler that sleeps between 0 and 5 ms, sixteen of them at once, in
/// order of 1,000 keys. By 2.5 ms a message it cannot be done in less than 1.56 s for 10,000.
Samples parallel_consumer(std::size_t count) {
  testing::MemoryBroker broker;
  broker.declare("bench", kKafkaPartitions);
  broker.declare("dead");
  const std::vector<Event> events = events_of(count);
  static_cast<void>(broker.channel("bench").publisher->publish(events, std::chrono::seconds{10}));
  std::atomic<std::uint64_t> next{1};
  std::atomic<int> wrong{0};
  std::vector<std::atomic<std::int64_t>> last(kKeys);
  Marks handled;
  const Stopwatch watch;
  {
    Consumer consumer{broker.source("bench", {.prefetch = 4'096}),
                      AtLeastOnce{.dead_letters = broker.channel("dead")},
                      {.group = "bench", .workers = {.min = 16, .max = 16}, .in_flight = 2'048},
                      [&](const Message& message, Context&) {
                        std::uint64_t number = next.fetch_add(1) * 0x9E3779B97F4A7C15U;
                        number ^= number >> 29U;
                        std::this_thread::sleep_for(std::chrono::microseconds{number * 0xBF58476D1CE4E5B9U % 5'001});
                        // Positions of a key rise, as it has one partition.
                        std::atomic<std::int64_t>& before = last[std::stoul(message.key().substr(message.key().find('-') + 1))];
                        if (before.exchange(message.origin.position) > message.origin.position) ++wrong;
                        handled.mark();
                        return Verdict::done();
                      }};
    run_until(consumer, handled, count);
  }
  const double seconds = watch.seconds();
  check_count("handled", count, handled.count());
  check_count("out of order", 0, static_cast<std::size_t>(wrong));
  return {{handled.seconds()}, {seconds}};
}

/// Sixteen workers with nothing to do but the engine's work.
Samples memory_sixteen(std::size_t count) {
  testing::MemoryBroker broker;
  broker.declare("bench", kKafkaPartitions);
  broker.declare("dead");
  const std::vector<Event> events = events_of(count);
  static_cast<void>(broker.channel("bench").publisher->publish(events, std::chrono::seconds{30}));
  Marks handled;
  {
    Consumer consumer{broker.source("bench", {.prefetch = 16'384}),
                      AtLeastOnce{.dead_letters = broker.channel("dead")},
                      {.group = "bench", .workers = {.min = 16, .max = 16}, .in_flight = in_flight_of(16)},
                      [&](const Message&, Context&) {
                        handled.mark();
                        return Verdict::done();
                      }};
    run_until(consumer, handled, count);
  }
  check_count("handled", count, handled.count());
  check_count("pending", 0, broker.pending("bench", "bench"));
  return rate(count, handled.seconds());
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

int consume_child(const Schema& schema, std::size_t messages) {
  const double rate = consume_all(schema, messages, 1, one_statement_each);
  std::cout << Json{{"rate", rate}, {"peak_mb", memory_mb("VmHWM")}} << std::endl;
  return 0;
}

std::vector<Work> consume_works(const Config& config) {
  constexpr double kTransactions = 10'000;
  constexpr double kParked = 1'000'000;
  constexpr double kInBatches = 50'000;
  constexpr double kWithOneStatement = 200'000;
  constexpr double kSleeps = 10'000;
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
  once.metrics[0].goal = Goal{Goal::Kind::ratio_at_least, 0.95};
  once.ours = [=](double scale) { return exactly_once(config, config.events(kTransactions, scale), 1, one_statement_each); };
  once.reference = [=](double scale) { return exactly_once_by_hand(config, config.events(kTransactions, scale), 1); };

  Work batch = once;
  batch.name = "consume.datastore_batch";
  batch.metrics[0].goal = Goal{Goal::Kind::ratio_at_least, 0.9};
  batch.settings["messages"] = config.events(kInBatches, 1);
  batch.settings["transaction"] = "up to 100 messages, each with a savepoint; by hand without savepoints";
  batch.ours = [=](double scale) { return exactly_once(config, config.events(kInBatches, scale), 100, one_statement_each); };
  batch.reference = [=](double scale) { return exactly_once_by_hand(config, config.events(kInBatches, scale), 100); };

  Work handler = batch;
  handler.name = "consume.batch_handler";
  handler.metrics[0].goal = Goal{Goal::Kind::ours_at_least, 50'000};
  handler.settings["transaction"] = "up to 1,000 messages, their effects by one statement";
  handler.settings.erase("reference");
  handler.ours = [=](double scale) {
    return exactly_once(config, config.events(kWithOneStatement, scale), 1'000, one_statement);
  };
  handler.settings["messages"] = config.events(kWithOneStatement, 1);
  handler.reference = nullptr;
  Work poison = once;
  poison.name = "consume.poison";
  poison.settings["poison"] = "one in " + std::to_string(kPoison) + " is rejected, and becomes a dead letter";
  poison.settings["reference"] = "the same without";
  poison.ours = [=](double scale) { return with_poison(config, config.events(kTransactions, scale)); };
  poison.reference = once.ours;

  Work parked = once;
  parked.name = "consume.parked";
  parked.metrics = {{.name = "rate", .unit = "messages/s", .goal = Goal{Goal::Kind::ratio_within, 0.10}},
                    {.name = "rss", .unit = "MB", .goal = Goal{Goal::Kind::ours_at_most, 128}}};
  parked.settings["parked"] = config.events(kParked, 1);
  parked.settings["reference"] = "the same with none";
  parked.ours = [=](double scale) {
    return beside_parked(config, config.events(kTransactions, scale), config.events(kParked, scale));
  };
  parked.reference = [=](double scale) { return beside_parked(config, config.events(kTransactions, scale), 0); };
  parked.most_runs = 3;

  works.push_back(std::move(once));
  works.push_back(std::move(poison));
  works.push_back(std::move(parked));
  works.push_back(std::move(batch));
  works.push_back(std::move(handler));

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
    kafka.ours = [=](double) { return kafka_at_least_once(config, name(), messages, 1); };
    kafka.reference = [=](double) { return kafka_by_hand(config, name(), messages); };
    Work sixteen = kafka;
    sixteen.name = "consume.kafka_16";
    sixteen.metrics[0].goal = Goal{Goal::Kind::ours_at_least, 100'000};
    sixteen.settings["workers"] = 16;
    sixteen.settings["in_flight"] = in_flight_of(16);
    sixteen.ours = [=](double) { return kafka_at_least_once(config, name(), messages, 16); };
    works.push_back(std::move(kafka));
    works.push_back(std::move(sixteen));
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

  Work parallel{
      .name = "consume.parallel",
      .metrics = {{.name = "work", .unit = "s", .goal = Goal{Goal::Kind::ours_at_most, 1.65}}, {.name = "total", .unit = "s"}},
      .settings = {{"messages", config.events(kSleeps, 1)},
                   {"keys", kKeys},
                   {"workers", 16},
                   {"handler", "sleeps U(0, 5 ms)"},
                   {"ideal", 1.5625}}};
  parallel.ours = [=](double scale) { return parallel_consumer(config.events(kSleeps, scale)); };
  works.push_back(std::move(parallel));

  Work sixteen{.name = "consume.memory_16",
               .metrics = {{.unit = "messages/s", .goal = Goal{Goal::Kind::ours_at_least, 500'000}}},
               .settings = {{"payload_bytes", kPayloadBytes},
                            {"messages", config.events(kMessages, 1)},
                            {"keys", kKeys},
                            {"workers", 16},
                            {"in_flight", in_flight_of(16)},
                            {"handler", "empty"}}};
  sixteen.ours = [=](double scale) { return memory_sixteen(config.events(kMessages, scale)); };
  works.push_back(std::move(sixteen));
  return works;
}

}  // namespace penstock::bench
