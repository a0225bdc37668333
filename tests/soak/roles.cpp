// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iostream>
#include <random>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "penstock/beacon.hpp"
#include "penstock/conduit.hpp"
#include "penstock/consumer.hpp"
#include "penstock/dead_letter.hpp"
#include "penstock/lane.hpp"
#include "penstock/outbox.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/relay.hpp"
#include "penstock/replay.hpp"
#include "postgres/pqxx_compat.hpp"
#include "soak.hpp"

namespace soak {
namespace {

using namespace std::chrono_literals;
using penstock::Context;
using penstock::Message;
using penstock::Verdict;
using penstock::postgres::run;

class Kafka final : public Brokers {
 public:
  Kafka(const Settings& settings, std::shared_ptr<penstock::Logger> logger)
      : conduit_{{.bootstrap_servers = settings.broker, .properties = {}, .logger = std::move(logger)}} {}
  void declare(const std::vector<std::string>& channels) override {
    for (const auto& name : channels) conduit_.declare({.name = name, .partitions = 4});
  }
  penstock::Channel channel(const std::string& name) override { return conduit_.channel(name); }
  std::unique_ptr<penstock::Source> source(const std::string& name) override {
    return conduit_.source(name, {.properties = {{"session.timeout.ms", "6000"}}});
  }

 private:
  penstock::Conduit conduit_;
};

class Rabbit final : public Brokers {
 public:
  Rabbit(const Settings& settings, std::shared_ptr<penstock::Logger> logger)
      : lane_{{.url = settings.broker, .logger = std::move(logger)}} {}
  void declare(const std::vector<std::string>& channels) override {
    std::vector<penstock::QueueSpec> queues;
    for (const auto& name : channels) queues.push_back({.name = name});
    lane_.declare(queues);
  }
  penstock::Channel channel(const std::string& name) override { return lane_.channel(name); }
  std::unique_ptr<penstock::Source> source(const std::string& name) override { return lane_.source(name, {.prefetch = 100}); }

 private:
  penstock::Lane lane_;
};

class Nats final : public Brokers {
 public:
  Nats(const Settings& settings, std::shared_ptr<penstock::Logger> logger)
      : beacon_{{.url = settings.broker, .logger = std::move(logger)}} {}
  void declare(const std::vector<std::string>& channels) override {
    for (const auto& name : channels) beacon_.declare({.name = name});
  }
  penstock::Channel channel(const std::string& name) override { return beacon_.channel(name); }
  std::unique_ptr<penstock::Source> source(const std::string& name) override { return beacon_.source(name, {.ack_wait = 15s}); }

 private:
  penstock::Beacon beacon_;
};

/// The provider's own books: a line for each call, in a file that no rollback undoes. Lines of this length are written whole.
class Ledger {
 public:
  explicit Ledger(const std::string& path) : file_{::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)} {
    if (file_ < 0) throw std::system_error(errno, std::generic_category(), path);
  }
  ~Ledger() { ::close(file_); }
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  void call(const std::string& group, const Message& message, int number, const Context& ctx) const {
    const auto line = group + ' ' + message.key() + ' ' + std::to_string(number) + ' ' + ctx.idempotency_key() + ' ' +
                      std::to_string(ctx.attempt()) + '\n';
    if (::write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      throw std::system_error(errno, std::generic_category(), "the ledger");
    }
  }

 private:
  int file_;
};

/// A handler for either group, in each of the three ways in which a consumer runs one.
class Work {
 public:
  Work(const Settings& settings, std::string group, const Ledger& ledger)
      : settings_{settings}, group_{std::move(group)}, ledger_{ledger} {}

  Verdict operator()(const Message& message, Context& ctx) const {
    auto verdict = decide(message, ctx);
    if (verdict.kind() == Verdict::Kind::done) write(message, ctx);
    return verdict;
  }

  /// A verdict for each, or an exception for all, by chance.
  penstock::Verdicts operator()(penstock::Batch& batch) const {
    std::vector<Verdict> verdicts;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      auto& ctx = batch.context(i);
      const Message& message = *batch.messages()[i];
      try {
        verdicts.push_back(decide(message, ctx));
      } catch (const std::runtime_error& error) {
        if (mix(settings_.life, message.id()) % 2 == 0) throw;
        verdicts.push_back(Verdict::retry(error.what()));
      }
      if (verdicts.back().kind() == Verdict::Kind::done) write(message, ctx);
    }
    return verdicts;
  }

 private:
  [[nodiscard]] Verdict decide(const Message& message, const Context& ctx) const {
    const auto body = parse(message.data());
    ledger_.call(group_, message, body.number, ctx);
    if (mix(settings_.life, message.id()) % 20 == 0) std::this_thread::sleep_for(10ms);  // so that kills find some at work
    if ((group_ == apply ? body.fatal : body.fatal_follow) && !settings_.forgive) return Verdict::reject("permanent: by seed");
    const auto chance =
        mix(settings_.seed, group_ + message.key() + '/' + std::to_string(body.number) + '/' + std::to_string(ctx.attempt()));
    if (chance % 10 == 0) {
      if (chance / 10 % 2 == 0) throw std::runtime_error{"transient: by seed, thrown"};
      return Verdict::retry("transient: by seed");
    }
    return Verdict::done();
  }

  void write(const Message& message, Context& ctx) const {
    const std::string body{message.data()};
    run(ctx.tx(), R"(
      WITH now AS (
        INSERT INTO soak.state AS s (grp, key, count, chain) VALUES ($1, $2, 1, soak.link('', $4))
        ON CONFLICT (grp, key) DO UPDATE SET count = s.count + 1, chain = soak.link(s.chain, $4) RETURNING count)
      INSERT INTO soak.effects (grp, key, n, place, body) SELECT $1, $2, $3::int, count, $4 FROM now)",
        group_, message.key(), parse(body).number, body);
    if (group_ == apply) {
      ctx.emit({.type = "soak.followed.v1", .key = message.key(), .data = body, .content_type = "text/plain"});
    }
  }

  const Settings& settings_;
  std::string group_;
  const Ledger& ledger_;
};

penstock::ConsumerOptions options_for(const Settings& settings, const std::string& group, std::uint64_t chance,
                                      const std::shared_ptr<penstock::Logger>& logger) {
  penstock::ConsumerOptions options;
  options.group = group;
  options.source = "/soak/" + group;
  options.workers = {.min = 1, .max = 1 + static_cast<int>(chance % 4)};
  // One attempt in ten fails. That all twelve of one event do has the probability of 1e-12.
  options.retry =
      penstock::RetryPolicy::exponential(50ms).cap(500ms).attempts(settings.forgive ? 14 : 12).jitter(penstock::Jitter::full);
  // Processes are killed from outside here, which is no fault of the messages that they have in work: deaths are not counted,
  // or counted and never enough.
  options.crashes = chance / 7 % 2 == 0 ? 0 : 1'000'000;
  options.drain_timeout = 20s;
  options.logger = logger;
  return options;
}

/// One process's consumer of one group: in which of the three ways is by chance, another one in each life.
std::unique_ptr<penstock::Consumer> make_consumer(const Settings& settings, const std::string& group, Brokers& brokers,
                                                  penstock::Datastore& store, const Work& work,
                                                  const std::shared_ptr<penstock::Logger>& logger) {
  const auto chance = mix(settings.life, "mode of " + group);
  auto options = options_for(settings, group, chance / 3, logger);
  auto source = brokers.source(group == apply ? input : followed);
  switch (chance % 3) {
    case 0:
      logger->log(penstock::LogLevel::info, group + ": one transaction for each message");
      return std::make_unique<penstock::Consumer>(std::move(source), store, options, penstock::Handler{work});
    case 1:
      options.batch = 2 + chance / 100 % 60;
      logger->log(penstock::LogLevel::info, group + ": batches of " + std::to_string(options.batch) + " with savepoints");
      return std::make_unique<penstock::Consumer>(std::move(source), store, options, penstock::Handler{work});
    default:
      options.batch = 2 + chance / 100 % 60;
      logger->log(penstock::LogLevel::info, group + ": a batch handler of " + std::to_string(options.batch));
      return std::make_unique<penstock::Consumer>(std::move(source), store, options, penstock::BatchHandler{work});
  }
}

/// One business transaction: a few aggregates are changed, each with its event; a few are taken back, and a few take their
/// time, so that transactions commit in another order than they began.
void write_once(const Settings& settings, pqxx::connection& connection, penstock::Outbox& outbox, std::mt19937_64& random) {
  constexpr std::uint64_t keys = 40;
  std::vector<std::string> touched;
  for (std::uint64_t i = 0, n = random() % 8 == 0 ? 4 : 1; i < n; ++i) {
    const auto number = random() % keys;
    touched.push_back("key-" + std::to_string(number < keys / 2 ? number % 4 : number));  // four of them are busy
  }
  std::sort(touched.begin(), touched.end());  // as locks are taken in one order
  pqxx::work tx{connection};
  for (const auto& key : touched) {
    Body body;
    body.number = run(tx,
                      "INSERT INTO soak.aggregates AS a VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET events = a.events + 1 "
                      "RETURNING events",
                      key)[0][0]
                      .as<int>();
    const auto place = key + '/' + std::to_string(body.number);
    body.fatal = mix(settings.seed, "fatal " + place) % 100 == 0;
    body.fatal_follow = mix(settings.seed, "fatal follow " + place) % 100 == 0;
    const auto text = to_text(body, random());
    const auto id = outbox.append(tx, {.type = "soak.input.v1", .key = key, .data = text, .content_type = "text/plain"});
    run(tx, "INSERT INTO soak.input VALUES ($1, $2, $3, $4, $5, $6)", key, body.number, id, text, body.fatal,
        body.fatal_follow);
  }
  if (random() % 30 == 0) std::this_thread::sleep_for(std::chrono::milliseconds{random() % 300});
  if (random() % 20 == 0) {
    tx.abort();
  } else {
    tx.commit();
  }
}

void write(const Settings& settings, penstock::Outbox& outbox, std::uint64_t number, const std::stop_token& stop) {
  std::mt19937_64 random{mix(settings.life, "writer " + std::to_string(number))};
  std::unique_ptr<pqxx::connection> connection;
  while (!stop.stop_requested()) {
    try {
      if (!connection) connection = std::make_unique<pqxx::connection>(settings.postgres);
      write_once(settings, *connection, outbox, random);
      std::this_thread::sleep_for(std::chrono::microseconds{3'000'000 / settings.rate});
    } catch (const std::exception&) {  // whether it was committed, the table of the input tells
      connection.reset();
      std::this_thread::sleep_for(100ms);
    }
  }
}

}  // namespace

std::unique_ptr<Brokers> connect(const Settings& settings, std::shared_ptr<penstock::Logger> logger) {
  if (settings.backend == "kafka") return std::make_unique<Kafka>(settings, std::move(logger));
  if (settings.backend == "rabbitmq") return std::make_unique<Rabbit>(settings, std::move(logger));
  if (settings.backend == "nats") return std::make_unique<Nats>(settings, std::move(logger));
  throw std::invalid_argument{"the backend is kafka, rabbitmq or nats, not '" + settings.backend + "'"};
}

bool run_writer(const Settings& settings, std::stop_token stop) {
  penstock::Outbox outbox{settings.postgres, {.source = "/soak/writer"}};
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 0; i < 3; ++i) threads.emplace_back([&, i] { write(settings, outbox, i, stop); });
  return true;
}

bool run_relay(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop) {
  // Small segments, so that the log is truncated many times while it is disturbed.
  penstock::Outbox outbox{
      settings.postgres,
      {.source = "/soak/writer", .segment_bytes = std::int64_t{1} << 20U, .segment_age = 20s, .logger = logger}};
  const auto brokers = connect(settings, logger);
  std::vector<penstock::Route> routes{{"soak.input.*", brokers->channel(input)},
                                      {"soak.followed.*", brokers->channel(followed)}};
  if (witness(settings, input) != input) {
    routes.push_back({"soak.input.*", brokers->channel(witness(settings, input))});
    routes.push_back({"soak.followed.*", brokers->channel(witness(settings, followed))});
  }
  for (const auto& channel : {input, followed}) {
    routes.push_back({penstock::dead_letters_of(channel), brokers->channel(penstock::dead_channel(channel))});
  }
  penstock::RelayOptions options;
  options.publish_timeout = 10s;
  options.drain_timeout = 20s;
  options.logger = logger;
  penstock::Relay relay{outbox, std::move(routes), options};
  return relay.run(std::move(stop));
}

bool run_worker(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop) {
  const Ledger ledger{settings.ledger};
  const auto brokers = connect(settings, logger);
  penstock::PostgresDatastore store{settings.postgres, {.logger = logger}};
  std::vector<std::unique_ptr<penstock::Consumer>> consumers;
  std::atomic<bool> in_time{true};
  {
    std::vector<std::jthread> threads;
    for (const auto& group : {apply, follow}) {
      consumers.push_back(make_consumer(settings, group, *brokers, store, {settings, group, ledger}, logger));
      threads.emplace_back([&, consumer = consumers.back().get()] {
        if (!consumer->run(stop)) in_time = false;
      });
    }
    // One failure in ten is no failure of the system: who takes it for one pauses for nothing.
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(100ms);
      for (const auto& consumer : consumers) {
        if (consumer->status().systemic) std::cerr << "SYSTEMIC " << consumer->status().last_error << "\n";
      }
    }
  }
  if (!in_time) std::cerr << "did not drain within its deadline\n";
  return in_time;
}

bool run_replay(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop) {
  penstock::Replays replays{settings.postgres, {.logger = logger}};
  penstock::ReplayRequest request;
  request.filter.side = "consumer";
  request.filter.group = settings.replay_group;
  request.who = "soak";
  request.why = "what was permanent is no more: " + settings.replay_group;
  request.rate = 25;
  request.batch = 5;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{settings.within};
  while (!stop.stop_requested() && std::chrono::steady_clock::now() < deadline) {
    try {
      // The job that was made before this process was killed, or a new one.
      std::int64_t number = 0;
      {
        pqxx::connection connection{settings.postgres};
        pqxx::nontransaction tx{connection};
        const auto found = run(tx, "SELECT max(id) FROM penstock.replay_jobs WHERE note = $1", request.why);
        if (!found[0][0].is_null()) number = found[0][0].as<std::int64_t>();
      }
      if (number == 0) number = replays.start(request);
      const auto job = replays.run(number, stop);
      if (!job.ended()) continue;
      std::cerr << "replay of " << settings.replay_group << ": " << job.state << ", sent " << job.sent << " of " << job.planned
                << ", refused " << job.failed << " " << job.last_error << "\n";
      return job.state == "done" && job.failed == 0 && job.sent == job.planned;
    } catch (const pqxx::failure& error) {
      if (penstock::postgres::sqlstate(error).rfind("42", 0) == 0) throw;  // not the server is away, but the statement is wrong
      std::cerr << "replay: " << error.what() << "\n";
      std::this_thread::sleep_for(200ms);
    }
  }
  return false;
}

}  // namespace soak
