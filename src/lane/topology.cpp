// SPDX-License-Identifier: Apache-2.0
#include "lane/topology.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/amqp.hpp"
#include "lane/connection.hpp"

namespace penstock::lane {
namespace {

using std::chrono::milliseconds;
using namespace std::chrono_literals;

// From RabbitMQ 4.0 a quorum queue drops a message after 20 deliveries unless told otherwise; 3.10 knows no "unlimited". How
// often is enough is for the RetryPolicy to say.
constexpr std::int64_t never = 1'000'000'000;

constexpr std::array<milliseconds, 23> steps{50ms,  100ms, 200ms, 500ms, 1s, 2s,  5s,  10s, 30s,  1min, 2min, 5min,
                                             10min, 30min, 1h,    2h,    6h, 12h, 24h, 48h, 168h, 336h, 672h};

constexpr std::size_t short_limit = 255;  // AMQP's "short string"

constexpr amqp_boolean_t no = 0;
constexpr amqp_boolean_t yes = 1;

std::vector<amqp_table_entry_t> arguments_of(const QueueSpec& queue) {
  std::vector<amqp_table_entry_t> arguments;
  const bool quorum = queue.kind == QueueSpec::Kind::quorum;
  arguments.push_back(entry("x-queue-type", std::string_view{quorum ? "quorum" : "classic"}));
  if (quorum) arguments.push_back(entry("x-delivery-limit", never));
  if (queue.priorities > 0) arguments.push_back(entry("x-max-priority", std::int64_t{queue.priorities}));
  if (queue.single_active_consumer) arguments.push_back(entry("x-single-active-consumer", true));
  if (!queue.dead_letters) return arguments;
  const QueueDeadLetters& dead = *queue.dead_letters;
  arguments.push_back(entry("x-dead-letter-exchange", std::string_view{dead.exchange}));
  arguments.push_back(entry("x-dead-letter-routing-key", std::string_view{dead.routing_key}));
  if (dead.older_than > 0ms) arguments.push_back(entry("x-message-ttl", std::int64_t{dead.older_than.count()}));
  if (dead.more_than > 0) {
    arguments.push_back(entry("x-max-length", static_cast<std::int64_t>(dead.more_than)));
  } else if (quorum) {
    // The copy is confirmed before the original goes, which RabbitMQ does only in a queue that refuses instead of dropping.
    arguments.push_back(entry("x-dead-letter-strategy", std::string_view{"at-least-once"}));
    arguments.push_back(entry("x-overflow", std::string_view{"reject-publish"}));
  }
  return arguments;
}

const char* name_of(QueueBinding::Kind kind) {
  switch (kind) {
    case QueueBinding::Kind::direct: return "direct";
    case QueueBinding::Kind::fanout: return "fanout";
    case QueueBinding::Kind::topic: break;
  }
  return "topic";
}

bool exists(Connection& connection, amqp_channel_t channel, std::string_view name) {
  amqp_queue_declare(connection.state(), channel, bytes(name), yes, yes, no, no, amqp_empty_table);
  try {
    connection.check_rpc(channel, "looking for a queue");
  } catch (const AmqpError& error) {
    if (!error.channel_only() || error.code() != 404) throw;
    connection.open_channel(channel);
    return false;
  }
  return true;
}

/// True when it was created.
bool declare(Connection& connection, amqp_channel_t channel, std::string_view name, std::vector<amqp_table_entry_t> arguments,
             const std::function<void()>& making = nullptr) {
  const bool known = exists(connection, channel, name);
  if (!known && making) making();
  amqp_queue_declare(connection.state(), channel, bytes(name), no, yes, no, no,
                     amqp_table_t{static_cast<int>(arguments.size()), arguments.data()});
  connection.check_rpc(channel, "declaring a queue");
  if (!known && making) making();  // from now on it may be written down
  return !known;
}

void declare_exchange(Connection& connection, amqp_channel_t channel, const QueueBinding& binding) {
  const char* const kind = name_of(binding.kind);
  amqp_exchange_declare(connection.state(), channel, bytes(binding.exchange), bytes(kind), no, yes, no, no, amqp_empty_table);
  try {
    connection.check_rpc(channel, "declaring an exchange");
  } catch (const AmqpError& error) {
    if (!error.channel_only() || error.code() != 406) throw;
    throw ExchangeDiffers{error.code(), true,
                          "wanted a durable " + std::string{kind} + " exchange '" + binding.exchange +
                              "', and it exists as another: " + error.what() +
                              ". Give the QueueBinding the kind it has, or delete the exchange and declare again all queues "
                              "that are bound to it"};
  }
}

/// The queue of the dead letters of another.
QueueSpec dead_letter_queue_of(const QueueSpec& queue) { return {.name = queue.dead_letters->routing_key, .kind = queue.kind}; }

/// True when the queue for the dead letters had to be made. RabbitMQ itself does not mind whether anybody takes them.
bool prepare_dead_letters(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology) {
  const QueueDeadLetters& dead = *queue.dead_letters;
  if (dead.exchange.empty()) return make_if_missing(connection, channel, dead_letter_queue_of(queue), topology);
  if (exchange_exists(connection, channel, dead.exchange)) return false;
  throw AmqpError{0, true,
                  "there is no exchange '" + dead.exchange +
                      "' for its dead letters (QueueDeadLetters::exchange); declare a queue that is bound to it first"};
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : 4;
    if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || i + length > text.size()) return false;
    for (std::size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0U) != 0x80U) return false;
    }
    i += length;
  }
  return true;
}

}  // namespace

namespace {

void check_name(const char* what, std::string_view name) {
  const auto refuse = [&](const std::string& reason) {
    throw std::invalid_argument{std::string{what} + " name '" + std::string{name.substr(0, 80)} + "' " + reason};
  };
  if (name.empty()) refuse("is empty; give the " + std::string{what} + " a name");
  if (name.size() > short_limit) refuse("has " + std::to_string(name.size()) + " bytes; RabbitMQ allows 255");
  if (name.starts_with("amq.")) refuse("begins with 'amq.', which RabbitMQ keeps for itself; choose another");
  if (!is_utf8(name)) refuse("is no UTF-8");
  if (name.find('\0') != std::string_view::npos) refuse("holds a NUL");
  if (name.find_first_of("\r\n") != std::string_view::npos) refuse("holds a line break, which RabbitMQ would leave out");
}

void check_dead_letters(const QueueSpec& queue) {
  const QueueDeadLetters& dead = *queue.dead_letters;
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument{"queue '" + queue.name + "': QueueDeadLetters::" + why};
  };
  constexpr milliseconds longest{4'294'967'295};  // RabbitMQ's
  if (dead.older_than < 0ms || dead.older_than > longest) {
    refuse("older_than is " + std::to_string(dead.older_than.count()) + " ms; give 1 to 4294967295 (49 days), or 0 for never");
  }
  constexpr std::size_t most = std::size_t{1} << 62U;
  if (dead.more_than > most) refuse("more_than is no number RabbitMQ could count to; give 0 for no limit");
  if (!dead.exchange.empty()) {
    check_exchange_name(dead.exchange);
    return check_routing_key(dead.routing_key);
  }
  check_queue_name(dead.routing_key);
  if (dead.routing_key == queue.name) refuse("routing_key is the queue itself, where they would go round; name another");
}

}  // namespace

void check_queue_name(std::string_view name) { check_name("queue", name); }
void check_exchange_name(std::string_view name) { check_name("exchange", name); }

void check_routing_key(std::string_view key) {
  if (key.size() > short_limit) {
    throw std::invalid_argument{"routing key '" + std::string{key.substr(0, 80)} + "' has " + std::to_string(key.size()) +
                                " bytes; AMQP allows 255"};
  }
}

void check_queue(const QueueSpec& queue) {
  check_queue_name(queue.name);
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument{"queue '" + queue.name + "': QueueSpec::priorities is " + std::to_string(queue.priorities) +
                                why};
  };
  if (queue.priorities < 0 || queue.priorities > 255) refuse("; give 0 to 255");
  if (queue.priorities > 0 && queue.kind == QueueSpec::Kind::quorum) {
    refuse(", and quorum queues have none to declare (RabbitMQ 4 gives them two); make it classic, or leave it out");
  }
  for (const QueueBinding& binding : queue.bindings) {
    check_exchange_name(binding.exchange);
    check_routing_key(binding.routing_key);
    if (binding.kind == QueueBinding::Kind::fanout && !binding.routing_key.empty()) {
      throw std::invalid_argument{"queue '" + queue.name + "': QueueBinding::routing_key is '" + binding.routing_key +
                                  "', and a fanout exchange looks at none; leave it out, or make the exchange a topic"};
    }
  }
  if (queue.dead_letters) check_dead_letters(queue);
}

QueueSpec resolved(const QueueSpec& given, const std::string& prefix) {
  QueueSpec queue = given;
  if (!given.name.empty()) queue.name = prefix + given.name;
  for (QueueBinding& binding : queue.bindings) {
    if (!binding.exchange.empty()) binding.exchange = prefix + binding.exchange;
    if (binding.kind != QueueBinding::Kind::fanout && binding.routing_key.empty()) binding.routing_key = given.name;
  }
  if (queue.dead_letters) {
    QueueDeadLetters& dead = *queue.dead_letters;
    if (dead.routing_key.empty()) dead.routing_key = given.name + ".dead";
    // Without an exchange it is the name of a queue.
    (dead.exchange.empty() ? dead.routing_key : dead.exchange).insert(0, prefix);
  }
  check_queue(queue);
  return queue;
}

bool declare_queue(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology) {
  for (const QueueBinding& binding : queue.bindings) declare_exchange(connection, channel, binding);
  bool created = queue.dead_letters && prepare_dead_letters(connection, channel, queue, topology);
  created = declare(connection, channel, queue.name, arguments_of(queue), [&] { topology.making(queue); }) || created;
  for (const QueueBinding& binding : queue.bindings) {
    amqp_queue_bind(connection.state(), channel, bytes(queue.name), bytes(binding.exchange), bytes(binding.routing_key),
                    amqp_empty_table);
    connection.check_rpc(channel, "binding a queue");
  }
  return created;
}

bool make_if_missing(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology) {
  return !exists(connection, channel, queue.name) && declare_queue(connection, channel, queue, topology);
}

bool exchange_exists(Connection& connection, amqp_channel_t channel, std::string_view name) {
  amqp_exchange_declare(connection.state(), channel, bytes(name), bytes("direct"), yes, yes, no, no, amqp_empty_table);
  try {
    connection.check_rpc(channel, "looking for an exchange");
  } catch (const AmqpError& error) {
    if (!error.channel_only() || error.code() != 404) throw;
    connection.open_channel(channel);
    return false;
  }
  return true;
}

bool declare_delay(Connection& connection, amqp_channel_t channel, const DelayQueue& queue) {
  // At least once, as a plain dead letter exchange forwards without confirms; that needs a quorum queue that refuses instead
  // of dropping.
  const std::string name = queue.name();
  if (name.size() > 255) throw AmqpError{0, true, "the delay queue's name '" + name + "' has more than 255 bytes"};
  const auto expires = queue.delay + std::chrono::hours{24};
  return declare(connection, channel, name,
                 {entry("x-queue-type", std::string_view{"quorum"}), entry("x-message-ttl", std::int64_t{queue.delay.count()}),
                  entry("x-expires", std::int64_t{expires.count()}), entry("x-dead-letter-exchange", std::string_view{}),
                  entry("x-dead-letter-routing-key", std::string_view{queue.target}),
                  entry("x-dead-letter-strategy", std::string_view{"at-least-once"}),
                  entry("x-overflow", std::string_view{"reject-publish"}), entry("x-delivery-limit", never)});
}

milliseconds delay_step(milliseconds delay) {
  if (delay <= 0ms) return 0ms;
  for (const milliseconds step : steps) {
    if (delay <= step) return step;
  }
  return steps.back();
}

void Topology::remember(const QueueSpec& queue) {
  const std::lock_guard lock{mutex_};
  queues_[queue.name] = queue;
}

std::optional<QueueSpec> Topology::dead_letter_queue(const std::string& name) const {
  const std::lock_guard lock{mutex_};
  for (const auto& [other, queue] : queues_) {
    const auto& dead = queue.dead_letters;
    if (dead && dead->exchange.empty() && dead->routing_key == name) return dead_letter_queue_of(queue);
  }
  return std::nullopt;
}

std::vector<QueueSpec> Topology::bound_to(const std::string& exchange) const {
  const std::lock_guard lock{mutex_};
  std::vector<QueueSpec> found;
  for (const auto& [name, queue] : queues_) {
    const auto& bindings = queue.bindings;
    if (std::any_of(bindings.begin(), bindings.end(), [&](const auto& binding) { return binding.exchange == exchange; })) {
      found.push_back(queue);
    }
  }
  return found;
}

void Topology::making(const QueueSpec& queue) {
  const std::lock_guard lock{mutex_};
  const SteadyTime from = std::chrono::steady_clock::now() + settling;
  trusted_[queue.name] = from;
  for (const QueueBinding& binding : queue.bindings) exchanges_trusted_[binding.exchange] = from;
}

SteadyTime Topology::trusted(const std::string& name) const {
  const std::lock_guard lock{mutex_};
  const auto found = trusted_.find(name);
  return found == trusted_.end() ? SteadyTime{} : found->second;
}

SteadyTime Topology::exchange_trusted(const std::string& exchange) const {
  const std::lock_guard lock{mutex_};
  const auto found = exchanges_trusted_.find(exchange);
  return found == exchanges_trusted_.end() ? SteadyTime{} : found->second;
}

std::optional<QueueSpec> Topology::find(const std::string& name) const {
  const std::lock_guard lock{mutex_};
  const auto found = queues_.find(name);
  return found == queues_.end() ? std::nullopt : std::optional{found->second};
}

}  // namespace penstock::lane
