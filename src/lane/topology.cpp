// SPDX-License-Identifier: Apache-2.0
#include "lane/topology.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
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

constexpr amqp_boolean_t no = 0;
constexpr amqp_boolean_t yes = 1;

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
             Topology* topology = nullptr) {
  const bool known = exists(connection, channel, name);
  if (!known && topology != nullptr) topology->making(std::string{name});
  amqp_queue_declare(connection.state(), channel, bytes(name), no, yes, no, no,
                     amqp_table_t{static_cast<int>(arguments.size()), arguments.data()});
  connection.check_rpc(channel, "declaring a queue");
  if (!known && topology != nullptr) topology->making(std::string{name});  // from now on it may be written down
  return !known;
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

void check_queue_name(std::string_view name) {
  const auto refuse = [&](const std::string& reason) {
    throw std::invalid_argument{"queue name '" + std::string{name.substr(0, 80)} + "' " + reason};
  };
  if (name.empty()) refuse("is empty; give the queue a name");
  if (name.size() > 255) refuse("has " + std::to_string(name.size()) + " bytes; RabbitMQ allows 255");
  if (name.starts_with("amq.")) refuse("begins with 'amq.', which RabbitMQ keeps for itself; choose another");
  if (!is_utf8(name)) refuse("is no UTF-8");
  if (name.find('\0') != std::string_view::npos) refuse("holds a NUL");
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
}

bool declare_queue(Connection& connection, amqp_channel_t channel, const QueueSpec& queue, Topology& topology) {
  std::vector<amqp_table_entry_t> arguments;
  const bool quorum = queue.kind == QueueSpec::Kind::quorum;
  arguments.push_back(entry("x-queue-type", std::string_view{quorum ? "quorum" : "classic"}));
  if (quorum) arguments.push_back(entry("x-delivery-limit", never));
  if (queue.priorities > 0) arguments.push_back(entry("x-max-priority", std::int64_t{queue.priorities}));
  if (queue.single_active_consumer) arguments.push_back(entry("x-single-active-consumer", true));
  return declare(connection, channel, queue.name, std::move(arguments), &topology);
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

void Topology::making(const std::string& name) {
  const std::lock_guard lock{mutex_};
  trusted_[name] = std::chrono::steady_clock::now() + settling;
}

SteadyTime Topology::trusted(const std::string& name) const {
  const std::lock_guard lock{mutex_};
  const auto found = trusted_.find(name);
  return found == trusted_.end() ? SteadyTime{} : found->second;
}

std::optional<QueueSpec> Topology::find(const std::string& name) const {
  const std::lock_guard lock{mutex_};
  const auto found = queues_.find(name);
  return found == queues_.end() ? std::nullopt : std::optional{found->second};
}

}  // namespace penstock::lane
