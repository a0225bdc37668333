// SPDX-License-Identifier: Apache-2.0
#include "brokers.hpp"

#include <unistd.h>

#include <atomic>
#include <exception>
#include <iostream>

#include "penstock/beacon.hpp"
#include "penstock/conduit.hpp"
#include "penstock/lane.hpp"

namespace penstock::bench {

std::vector<Backend> backends(const Config& config) {
  std::vector<Backend> all;
  if (!config.kafka.empty()) {
    all.push_back(
        {.name = "kafka",
         .client = "librdkafka",
         .drain_events = 200'000,
         .publish_events = 500'000,
         .settings = {{"acks", "all"}, {"idempotence", true}, {"partitions", kKafkaPartitions}, {"replication", 1}},
         .raw = [](const Config& c) { return raw_kafka(c.kafka); },
         .channel = [](const Config& c,
                       const std::string& destination) { return Conduit{{.bootstrap_servers = c.kafka}}.channel(destination); },
         .source = [](const Config& c,
                      const std::string& destination) { return Conduit{{.bootstrap_servers = c.kafka}}.source(destination); }});
  }
  if (!config.amqp.empty()) {
    all.push_back(
        {.name = "rabbitmq",
         .client = "rabbitmq-c",
         .drain_events = 20'000,
         .publish_events = 50'000,
         .settings = {{"acks", "publisher confirms, mandatory"},
                      {"queue", "quorum"},
                      {"persistent", true},
                      {"window", LaneOptions{}.window},
                      {"prefetch", LaneSourceOptions{}.prefetch}},
         .raw = [](const Config& c) { return raw_rabbitmq(c.amqp, LaneOptions{}.window, LaneSourceOptions{}.prefetch); },
         .channel = [](const Config& c, const std::string& destination) { return Lane{{.url = c.amqp}}.channel(destination); },
         .source = [](const Config& c, const std::string& destination) { return Lane{{.url = c.amqp}}.source(destination); }});
  }
  if (!config.nats.empty()) {
    all.push_back(
        {.name = "nats",
         .client = "nats.c",
         .drain_events = 50'000,
         .publish_events = 100'000,
         .settings = {{"acks", "PubAck with Nats-Msg-Id"},
                      {"storage", "file"},
                      {"replicas", 1},
                      {"window", BeaconOptions{}.window},
                      {"max_ack_pending", BeaconSourceOptions{}.max_ack_pending}},
         .raw = [](const Config& c) { return raw_nats(c.nats, BeaconOptions{}.window, BeaconSourceOptions{}.max_ack_pending); },
         .channel = [](const Config& c,
                       const std::string& destination) { return Beacon{{.url = c.nats}}.channel(destination); },
         .source = [](const Config& c,
                      const std::string& destination) { return Beacon{{.url = c.nats}}.source(destination); }});
  }
  return all;
}

Samples publish_raw(const Config& config, const Backend& backend, std::size_t events) {
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  const Stopwatch watch;
  broker->publisher(destination.name())->publish(0, events);
  const double seconds = watch.seconds();
  check_count("messages at " + backend.name, events, broker->stored(destination.name()));
  return rate(events, seconds);
}

Destination::Destination(RawBroker& broker) : broker_{broker} {
  static std::atomic<int> counter{0};
  name_ = "bench-" + std::to_string(::getpid()) + "-" + std::to_string(++counter);
  broker_.create(name_);
}

Destination::~Destination() {
  try {
    broker_.remove(name_);
  } catch (const std::exception& e) {
    std::cerr << "cannot remove " << name_ << ": " << e.what() << std::endl;
  }
}

}  // namespace penstock::bench
