// SPDX-License-Identifier: Apache-2.0
#include "conduit/properties.hpp"

#include <array>
#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "core/tls.hpp"

namespace penstock::conduit {
namespace {

using Properties = std::map<std::string, std::string>;

void set(rd_kafka_conf_t* conf, const std::string& name, const std::string& value) {
  std::array<char, 512> reason{};
  switch (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), reason.data(), reason.size())) {
    case RD_KAFKA_CONF_OK: return;
    case RD_KAFKA_CONF_UNKNOWN:
      throw std::invalid_argument{"librdkafka " + std::string{rd_kafka_version_str()} + " has no property '" + name +
                                  "': " + reason.data() + "; its CONFIGURATION.md lists them"};
    default:
      // The value may be a secret, so it is librdkafka's to show it or not.
      throw std::invalid_argument{"property '" + name + "' does not take that value: " + reason.data()};
  }
}

std::string get(const rd_kafka_conf_t* conf, const char* name) {
  std::array<char, 512> value{};
  std::size_t size = value.size();
  if (rd_kafka_conf_get(conf, name, value.data(), &size) != RD_KAFKA_CONF_OK) return {};
  return value.data();
}

void refuse(bool broken, const char* name, const std::string& value, const char* why) {
  if (broken) throw std::invalid_argument{"property '" + std::string{name} + "' cannot be '" + value + "': " + why};
}

/// Aliases and spellings are librdkafka's; what it made of them is what counts.
void refuse_broken_promises(const rd_kafka_conf_t* conf, bool producer) {
  const auto check = [conf](const char* name, auto&& broken, const char* why) {
    const std::string value = get(conf, name);
    refuse(broken(value), name, value, why);
  };
  const auto isnt_true = [](const std::string& value) { return value != "true"; };
  const auto is_true = [](const std::string& value) { return value == "true"; };
  const auto is_set = [](const std::string& value) { return !value.empty(); };
  check("enable.idempotence", isnt_true, "without it a retry inside librdkafka can store an event twice or out of order");
  check(
      "acks", [](const std::string& value) { return value != "-1" && value != "all"; },
      "an event counts as confirmed only when all in-sync replicas have it; leave it at 'all'");
  check("delivery.report.only.error", is_true, "every event needs its delivery report");
  if (producer)
    check("enable.gapless.guarantee", isnt_true, "without it an event can be stored before an earlier one of its key");
  check("transactional.id", is_set,
        "penstock does not use Kafka's transactions; the consumer's inbox makes effects exactly once");
  check("enable.auto.commit", is_true, "it commits messages that were never processed; a source commits what was acknowledged");
}

Conf base_conf(const ConduitOptions& options) {
  if (options.bootstrap_servers.empty()) {
    throw std::invalid_argument{"bootstrap_servers is empty; name at least one broker, as in \"localhost:9092\""};
  }
  Conf conf{rd_kafka_conf_new()};
  set(conf.get(), "bootstrap.servers", options.bootstrap_servers);
  set(conf.get(), "client.id", "penstock");
  set(conf.get(), "socket.nagle.disable", "true");
  set(conf.get(), "reconnect.backoff.max.ms", "5000");
  set(conf.get(), "enable.idempotence", "true");
  set(conf.get(), "acks", "all");
  set(conf.get(), "enable.auto.commit", "false");
  return conf;
}

void overlay(rd_kafka_conf_t* conf, const Properties& properties) {
  for (const auto& [name, value] : properties) {
    if (name == "group.id") {
      throw std::invalid_argument{"property 'group.id' is the group a source is opened for; name it there"};
    }
    set(conf, name, value);
  }
}

bool any_sasl(const Properties& properties) {
  const auto from = properties.lower_bound("sasl.");
  return from != properties.end() && from->first.starts_with("sasl.");
}

void overlay(rd_kafka_conf_t* conf, const ConduitOptions& options) {
  if (options.tls) {
    const TlsOptions& tls = *options.tls;
    tls::check(tls, "ConduitOptions::tls");
    if (!tls.server_name.empty()) {
      throw std::invalid_argument{"ConduitOptions::tls.server_name is '" + tls.server_name +
                                  "': on Kafka each broker has its own name, the one it announces, and librdkafka verifies "
                                  "that; leave it empty"};
    }
    set(conf, "security.protocol", "ssl");
    set(conf, "ssl.endpoint.identification.algorithm", tls.verify ? "https" : "none");
    set(conf, "enable.ssl.certificate.verification", tls.verify ? "true" : "false");
    if (!tls.ca_file.empty()) set(conf, "ssl.ca.location", tls.ca_file);
    if (!tls.certificate_file.empty()) set(conf, "ssl.certificate.location", tls.certificate_file);
    if (!tls.key_file.empty()) set(conf, "ssl.key.location", tls.key_file);
  }
  overlay(conf, options.properties);
  for (const auto& [name, secret] : options.secrets) overlay(conf, {{name, secret.reveal()}});
}

/// What is asked for twice must agree, and a password that nobody would ask for is a mistake.
void check_security(rd_kafka_conf_t* conf, const ConduitOptions& options, const Properties& more) {
  bool sasl = any_sasl(options.properties) || any_sasl(more);
  for (const auto& [name, secret] : options.secrets) sasl = sasl || name.starts_with("sasl.");
  const std::string protocol = get(conf, "security.protocol");
  if (options.tls && (protocol == "plaintext" || protocol == "sasl_plaintext")) {
    throw std::invalid_argument{"ConduitOptions::tls is given, and the property 'security.protocol' is '" + protocol +
                                "', which does not encrypt; leave the property out"};
  }
  if (!sasl || protocol.starts_with("sasl_")) return;
  if (options.tls) return set(conf, "security.protocol", "sasl_ssl");
  throw std::invalid_argument{"a property says sasl, and 'security.protocol' is '" + protocol +
                              "', so nobody would log in; give ConduitOptions::tls, or set it to sasl_ssl or sasl_plaintext"};
}

void finish(rd_kafka_conf_t* conf, bool producer) {
  refuse_broken_promises(conf, producer);
  // librdkafka's own lines come through the queues we poll: never on stderr, never from its threads.
  set(conf, "log.queue", "true");
}

}  // namespace

Conf producer_conf(const ConduitOptions& options) {
  Conf conf = base_conf(options);
  set(conf.get(), "partitioner", "murmur2_random");  // the Java client's, so that both put a key on the same partition
  // Never expired inside librdkafka: dropping one queued message while the next one goes out would reorder its key. What
  // takes longer than its caller waits becomes `unknown`, and is waited for again when the caller repeats it.
  set(conf.get(), "message.timeout.ms", "0");
  // What the broker refuses must not be passed by what comes after it in its partition: then librdkafka gives up, and a new
  // client takes over.
  set(conf.get(), "enable.gapless.guarantee", "true");
  // Calls bring batches of their own; more is waited for in vain.
  set(conf.get(), "linger.ms", "0.2");
  set(conf.get(), "topic.metadata.propagation.max.ms", "3000");
  overlay(conf.get(), options);
  check_security(conf.get(), options, {});
  finish(conf.get(), true);
  return conf;
}

bool refetches_at_once() {
  static const bool known = [] {
    const Conf conf{rd_kafka_conf_new()};
    return rd_kafka_conf_set(conf.get(), "fetch.queue.backoff.ms", "20", nullptr, 0) == RD_KAFKA_CONF_OK;
  }();
  return known;
}

Conf consumer_conf(const ConduitOptions& options, const ConduitSourceOptions& source, const std::string& group) {
  Conf conf = base_conf(options);
  set(conf.get(), "auto.offset.reset", source.start == ConduitSourceOptions::Start::earliest ? "earliest" : "latest");
  if (source.until_end) set(conf.get(), "enable.partition.eof", "true");
  set(conf.get(), "queued.max.messages.kbytes", "16384");
  if (refetches_at_once()) set(conf.get(), "fetch.queue.backoff.ms", "20");
  set(conf.get(), "topic.metadata.refresh.interval.ms", "10000");  // how soon new partitions are seen
  overlay(conf.get(), options);
  overlay(conf.get(), source.properties);
  check_security(conf.get(), options, source.properties);
  if (!group.empty()) set(conf.get(), "group.id", group);
  set(conf.get(), "enable.auto.offset.store", "false");
  finish(conf.get(), false);
  return conf;
}

std::string property_text(const rd_kafka_conf_t* conf, const char* name) { return get(conf, name); }

long long property_number(const rd_kafka_conf_t* conf, const char* name) { return std::stoll(get(conf, name)); }

Client make_client(rd_kafka_type_t type, Conf conf) {
  std::array<char, 512> reason{};
  Client client{rd_kafka_new(type, conf.get(), reason.data(), reason.size())};
  if (!client) throw std::invalid_argument{std::string{"librdkafka refuses these properties: "} + reason.data()};
  static_cast<void>(conf.release());  // the client owns it now
  return client;
}

}  // namespace penstock::conduit
