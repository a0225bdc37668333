// SPDX-License-Identifier: Apache-2.0
#include "penstock/lane.hpp"

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/tls.hpp"
#include "lane/backoff.hpp"
#include "lane/connection.hpp"
#include "lane/interrupt.hpp"
#include "lane/publisher.hpp"
#include "lane/routing_key.hpp"
#include "lane/settings.hpp"
#include "lane/source.hpp"
#include "lane/topology.hpp"
#include "lane/url.hpp"
#include "penstock/random.hpp"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

lane::Address checked_address(const LaneOptions& options) {
  lane::Address address = lane::parse_url(options.url);
  if (options.tls) {
    tls::check(*options.tls, "LaneOptions::tls");
    address.tls = options.tls;
  }
  if (!options.password.empty()) address.password = options.password;
  address.by_certificate = options.login == LaneOptions::Login::certificate;
  if (address.by_certificate && (!address.tls || address.tls->certificate_file.empty())) {
    throw std::invalid_argument{
        "LaneOptions::login is by certificate, and there is none; give tls.certificate_file and tls.key_file"};
  }
  if (address.by_certificate) address.user = "(certificate)";  // RabbitMQ alone knows which user that is
  return address;
}

lane::Settings checked(LaneOptions options) {
  if (options.heartbeat.count() < 0 || options.heartbeat.count() > 65'535) {
    throw std::invalid_argument{"LaneOptions::heartbeat is " + std::to_string(options.heartbeat.count()) +
                                " s; give 1 to 65535, or 0 for none"};
  }
  if (options.window == 0) {
    throw std::invalid_argument{"LaneOptions::window is 0, so nothing could be sent; give a number from 1"};
  }
  if (!options.prefix.empty()) lane::check_queue_name(options.prefix + "x");
  return {checked_address(options),          options.prefix, options.heartbeat, options.window, std::move(options.logger),
          std::make_shared<lane::Topology>()};
}

std::string wanted(const QueueSpec& queue) {
  std::string text = queue.kind == QueueSpec::Kind::quorum ? "a durable quorum queue" : "a durable classic queue";
  if (queue.priorities > 0) text += " with priorities up to " + std::to_string(queue.priorities);
  if (queue.single_active_consumer) text += " with a single active consumer";
  if (queue.dead_letters) {
    const QueueDeadLetters& dead = *queue.dead_letters;
    text += " with dead letters to " + (dead.exchange.empty() ? "queue '" : "exchange '" + dead.exchange + "' by '") +
            dead.routing_key + "'";
    if (dead.older_than.count() > 0) text += " when older than " + std::to_string(dead.older_than.count()) + " ms";
    if (dead.more_than > 0) text += " beyond " + std::to_string(dead.more_than) + " messages";
  }
  return text;
}

}  // namespace

class Lane::Impl {
 public:
  explicit Impl(LaneOptions options) : settings{checked(std::move(options))} {}

  const lane::Settings settings;
  std::mutex mutex;
  std::map<std::array<std::string, 3>, std::weak_ptr<Publisher>> publishers;  // by name, exchange and routing key
};

Lane::Lane(LaneOptions options) : impl_{std::make_shared<Impl>(std::move(options))} {}
Lane::~Lane() = default;
Lane::Lane(Lane&&) noexcept = default;
Lane& Lane::operator=(Lane&&) noexcept = default;

void Lane::declare(const QueueSpec& queue, std::chrono::milliseconds timeout) { declare(std::span{&queue, 1}, timeout); }

void Lane::declare(std::span<const QueueSpec> given, std::chrono::milliseconds timeout) {
  std::vector<QueueSpec> queues;
  for (const QueueSpec& queue : given) queues.push_back(lane::resolved(queue, impl_->settings.prefix));
  if (queues.empty()) return;
  const lane::Settings& settings = impl_->settings;
  const lane::SteadyTime deadline = Clock::now() + timeout;
  lane::Interrupt interrupt;
  lane::Backoff backoff;
  bool created = false;  // by any of our attempts
  while (true) {
    bool logged_in = false;
    const QueueSpec* queue = &queues.front();
    try {
      lane::Connection connection{settings.address, settings.heartbeat, "penstock declaring " + queue->name, deadline,
                                  interrupt};
      logged_in = true;
      connection.open_channel(1);
      const auto declare_all = [&] {
        bool any = false;
        for (const QueueSpec& each : queues) {
          queue = &each;
          any = lane::declare_queue(connection, 1, each, *settings.topology) || any;
          created = created || any;
        }
        return any;
      };
      declare_all();
      if (created) {
        // Whoever publishes after this call may rely on what is confirmed, so the call lasts until that is so.
        do {
          std::this_thread::sleep_for(lane::settling);
        } while (declare_all());
      }
      for (const QueueSpec& each : queues) settings.topology->remember(each);
      connection.close(std::chrono::seconds{1});
      return;
    } catch (const lane::AmqpError& error) {
      const std::string where = "queue '" + queue->name + "' at " + settings.address.shown() + ": ";
      if (dynamic_cast<const lane::ExchangeDiffers*>(&error) != nullptr) throw std::runtime_error{where + error.what()};
      if (error.channel_only() && error.code() == 406) {
        throw std::runtime_error{where + "wanted " + wanted(*queue) + ", and it exists with other arguments: " + error.what() +
                                 ". Give the QueueSpec the arguments it has, or drain and delete it"};
      }
      if (error.channel_only()) throw std::runtime_error{where + error.what()};
      if (!logged_in && (error.code() == 403 || error.code() == 530)) {
        throw std::runtime_error{
            where + error.what() +
            ". Check user, password and vhost of LaneOptions::url, or LaneOptions::login and its certificate"};
      }
      const auto pause = backoff.next(Random::system());
      if (Clock::now() + pause >= deadline) {
        throw std::runtime_error{where + "not declared within " + std::to_string(timeout.count()) + " ms: " + error.what()};
      }
      std::this_thread::sleep_for(pause);
    }
  }
}

Channel Lane::channel(const std::string& name, const LaneChannelOptions& options) {
  lane::Target target{.exchange = {}, .queue = {}, .key = lane::RoutingKey{""}};
  if (options.exchange.empty()) {
    if (!options.routing_key.empty()) {
      throw std::invalid_argument{"channel '" + name + "': LaneChannelOptions::routing_key is '" + options.routing_key +
                                  "' and there is no exchange that would look at it; give LaneChannelOptions::exchange"};
    }
    target.queue = impl_->settings.queue_of(name);
    target.key = lane::RoutingKey::fixed(target.queue);
  } else {
    target.exchange = impl_->settings.exchange_of(options.exchange);
    if (name.empty()) throw std::invalid_argument{"the channel to exchange '" + options.exchange + "' has no name; give one"};
    if (options.routing_key.empty()) lane::check_routing_key(name);
    target.key = options.routing_key.empty() ? lane::RoutingKey::fixed(name) : lane::RoutingKey{options.routing_key};
  }
  const std::lock_guard lock{impl_->mutex};
  auto& known = impl_->publishers[{name, options.exchange, options.routing_key}];
  auto publisher = known.lock();
  if (!publisher) known = publisher = std::make_shared<lane::LanePublisher>(impl_->settings, std::move(target));
  return {"rabbitmq", name, std::move(publisher)};
}

std::unique_ptr<Source> Lane::source(const std::string& queue, LaneSourceOptions options) {
  return std::make_unique<lane::LaneSource>(impl_->settings, queue, options);
}

}  // namespace penstock
