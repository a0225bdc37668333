// SPDX-License-Identifier: Apache-2.0
#include "conduit/topics.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "conduit/handles.hpp"
#include "conduit/properties.hpp"
#include "conduit/trouble.hpp"

namespace penstock::conduit {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;
using NewTopic = std::unique_ptr<rd_kafka_NewTopic_t, Deleter<rd_kafka_NewTopic_destroy>>;
using AdminOptions = std::unique_ptr<rd_kafka_AdminOptions_t, Deleter<rd_kafka_AdminOptions_destroy>>;

NewTopic new_topic(const TopicSpec& topic) {
  if (topic.partitions < 1) {
    throw std::invalid_argument{"topic '" + topic.name + "' with " + std::to_string(topic.partitions) +
                                " partitions: at least 1 is needed"};
  }
  std::array<char, 512> reason{};
  NewTopic result{rd_kafka_NewTopic_new(topic.name.c_str(), topic.partitions, topic.replication, reason.data(), reason.size())};
  if (!result) throw std::invalid_argument{"topic '" + topic.name + "': " + reason.data()};
  for (const auto& [name, value] : topic.config) {
    const rd_kafka_resp_err_t error = rd_kafka_NewTopic_set_config(result.get(), name.c_str(), value.c_str());
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
      throw std::invalid_argument{"topic '" + topic.name + "', setting '" + name + "': " + describe(error)};
    }
  }
  return result;
}

struct Answer {
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  std::string words{};
};

/// What the brokers say to a CreateTopics request: one try.
Answer create(rd_kafka_t* client, const NewTopic& topic, SteadyClock::duration wait) {
  const AdminOptions options{rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_CREATETOPICS)};
  std::array<char, 512> reason{};
  rd_kafka_AdminOptions_set_request_timeout(options.get(), std::max(timeout_ms(wait), 1), reason.data(), reason.size());
  rd_kafka_AdminOptions_set_operation_timeout(options.get(), std::max(timeout_ms(wait), 1), reason.data(), reason.size());
  const Queue queue{rd_kafka_queue_new(client)};
  rd_kafka_NewTopic_t* topics = topic.get();
  rd_kafka_CreateTopics(client, &topics, 1, options.get(), queue.get());
  const RdEvent event{rd_kafka_queue_poll(queue.get(), timeout_ms(wait + 1s))};
  if (!event) return {RD_KAFKA_RESP_ERR__TIMED_OUT, "no answer"};
  if (const rd_kafka_resp_err_t error = rd_kafka_event_error(event.get()); error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return {error, rd_kafka_event_error_string(event.get())};
  }
  std::size_t count = 0;
  const rd_kafka_topic_result_t** results =
      rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event.get()), &count);
  if (count == 0) return {RD_KAFKA_RESP_ERR__BAD_MSG, "an empty answer"};
  const char* words = rd_kafka_topic_result_error_string(results[0]);
  return {rd_kafka_topic_result_error(results[0]), words == nullptr ? "" : words};
}

struct Layout {
  int partitions = 0;
  int replication = 0;
};

/// What the brokers know of the topic, once each partition has a leader; nothing while not.
std::optional<Layout> layout(rd_kafka_t* client, const std::string& name, SteadyClock::duration wait) {
  const RdTopic handle{rd_kafka_topic_new(client, name.c_str(), nullptr)};
  const rd_kafka_metadata_t* metadata = nullptr;
  if (!handle || rd_kafka_metadata(client, 0, handle.get(), &metadata, timeout_ms(wait)) != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return std::nullopt;
  }
  const std::unique_ptr<const rd_kafka_metadata_t, Deleter<rd_kafka_metadata_destroy>> owned{metadata};
  for (int i = 0; i < metadata->topic_cnt; ++i) {
    const rd_kafka_metadata_topic_t& topic = metadata->topics[i];
    if (name != topic.topic || topic.err != RD_KAFKA_RESP_ERR_NO_ERROR || topic.partition_cnt == 0) continue;
    const bool led = std::all_of(topic.partitions, topic.partitions + topic.partition_cnt,
                                 [](const rd_kafka_metadata_partition_t& partition) { return partition.leader >= 0; });
    if (led) return Layout{topic.partition_cnt, topic.partitions[0].replica_cnt};
  }
  return std::nullopt;
}

using Settings = std::map<std::string, std::string>;

/// The topic's settings, those of the broker's defaults included; nothing where the brokers cannot tell.
std::optional<Settings> settings(rd_kafka_t* client, const std::string& name, SteadyClock::duration wait) {
  using Resource = std::unique_ptr<rd_kafka_ConfigResource_t, Deleter<rd_kafka_ConfigResource_destroy>>;
  const Resource resource{rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, name.c_str())};
  const AdminOptions options{rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS)};
  std::array<char, 512> reason{};
  rd_kafka_AdminOptions_set_request_timeout(options.get(), std::max(timeout_ms(wait), 1), reason.data(), reason.size());
  const Queue queue{rd_kafka_queue_new(client)};
  rd_kafka_ConfigResource_t* resources = resource.get();
  rd_kafka_DescribeConfigs(client, &resources, 1, options.get(), queue.get());
  const RdEvent event{rd_kafka_queue_poll(queue.get(), timeout_ms(wait + 1s))};
  rd_kafka_resp_err_t error = event ? rd_kafka_event_error(event.get()) : RD_KAFKA_RESP_ERR__TIMED_OUT;
  std::size_t count = 0;
  const rd_kafka_ConfigResource_t** found = nullptr;
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
    found = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event.get()), &count);
    if (count > 0) error = rd_kafka_ConfigResource_error(found[0]);
  }
  if (error == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE) return std::nullopt;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR || count == 0) {
    throw std::runtime_error{"topic '" + name + "' exists, and its settings cannot be compared: " + describe(error) +
                             "; grant DescribeConfigs on it, or declare it without `config`"};
  }
  Settings result;
  const rd_kafka_ConfigEntry_t** entries = rd_kafka_ConfigResource_configs(found[0], &count);
  for (std::size_t i = 0; i < count; ++i) {
    const char* value = rd_kafka_ConfigEntry_value(entries[i]);
    result[rd_kafka_ConfigEntry_name(entries[i])] = value == nullptr ? "" : value;
  }
  return result;
}

/// Throws when the topic is not as wanted, with both sides of everything that differs.
void compare(rd_kafka_t* client, const TopicSpec& wanted, const Layout& found, bool existed, SteadyClock::duration wait) {
  std::string text;
  const auto differ = [&](const std::string& what, const std::string& want, const std::string& have) {
    if (want != have) text += (text.empty() ? "" : "; ") + what + ": wanted " + want + ", found " + have;
  };
  differ("partitions", std::to_string(wanted.partitions), std::to_string(found.partitions));
  if (wanted.replication > 0) differ("replication", std::to_string(wanted.replication), std::to_string(found.replication));
  if (existed && !wanted.config.empty()) {
    if (const auto known = settings(client, wanted.name, wait)) {
      for (const auto& [name, value] : wanted.config) {
        const auto entry = known->find(name);
        differ(name, "'" + value + "'", entry == known->end() ? "no such setting" : "'" + entry->second + "'");
      }
    }
  }
  if (text.empty()) return;
  throw std::runtime_error{
      "topic '" + wanted.name + "' exists with other settings: " + text +
      ". Nothing was changed: declare what it has, change it with Kafka's tools, or use another name" +
      (wanted.partitions == found.partitions ? "" : "; another number of partitions moves keys and breaks their order")};
}

bool passes(rd_kafka_resp_err_t error) {
  switch (error) {
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__DESTROY:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
    case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
    case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED: return true;
    default: return false;
  }
}

}  // namespace

void check_topic_name(const std::string& name, const std::string& shown) {
  constexpr std::size_t longest = 249;
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument{shown + " '" + name.substr(0, longest + 1) + "' " + why +
                                "; Kafka takes 1 to 249 of A-Z, a-z, 0-9, '.', '_' and '-'"};
  };
  const auto allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  if (name.empty()) refuse("is empty");
  if (name.size() > longest) refuse("has " + std::to_string(name.size()) + " characters");
  if (name == "." || name == "..") refuse("means a folder");
  const auto bad = std::find_if_not(name.begin(), name.end(), allowed);
  if (bad != name.end()) refuse("has a character that is not allowed, at place " + std::to_string(bad - name.begin() + 1));
}

void declare_topic(const ConduitOptions& options, const TopicSpec& topic, std::chrono::milliseconds timeout) {
  const auto deadline = SteadyClock::now() + bounded(timeout);
  const auto left = [deadline] { return std::max(deadline - SteadyClock::now(), SteadyClock::duration{0}); };
  check_topic_name(topic.name);
  const NewTopic request = new_topic(topic);
  Conf conf = producer_conf(options);
  rd_kafka_conf_set_log_cb(conf.get(), nullptr);  // what goes wrong is in the exception
  Trouble trouble;
  rd_kafka_conf_set_opaque(conf.get(), &trouble);
  rd_kafka_conf_set_error_cb(conf.get(), [](rd_kafka_t* /*client*/, int error, const char* words, void* opaque) {
    static_cast<Trouble*>(opaque)->connection(static_cast<rd_kafka_resp_err_t>(error), words);
  });
  Trouble::listen(conf.get(), &Trouble::note);
  const Client client = make_client(RD_KAFKA_PRODUCER, std::move(conf));

  Answer answer;
  do {
    answer = create(client.get(), request, left());
  } while (passes(answer.error) && left() > 0s);
  switch (answer.error) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
    case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE: break;  // a broker that makes no topics on request may have this one
    default: {
      std::string what = "topic '" + topic.name + "' cannot be created: " + describe(answer.error);
      if (!answer.words.empty()) what += ": " + answer.words;
      if (passes(answer.error)) {
        rd_kafka_poll(client.get(), 0);  // hears what is to be said of the connections
        what += "; is Kafka reachable at " + options.bootstrap_servers + "?" + trouble.suffix();
      }
      throw std::runtime_error{what};
    }
  }
  const bool existed = answer.error != RD_KAFKA_RESP_ERR_NO_ERROR;
  while (true) {
    if (const auto found = layout(client.get(), topic.name, std::max<SteadyClock::duration>(left(), 1ms))) {
      return compare(client.get(), topic, *found, existed, std::max<SteadyClock::duration>(left(), 1s));
    }
    if (left() == 0s) {
      throw std::runtime_error{"topic '" + topic.name + "' has no leader for all its partitions in time"};
    }
    const RdEvent pause{rd_kafka_queue_poll(Queue{rd_kafka_queue_get_main(client.get())}.get(), 20)};
  }
}

}  // namespace penstock::conduit
