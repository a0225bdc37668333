// SPDX-License-Identifier: Apache-2.0
#include <librdkafka/rdkafka.h>

#include <array>
#include <map>
#include <stdexcept>
#include <utility>

#include "harness.hpp"
#include "payload.hpp"
#include "raw.hpp"

namespace penstock::bench {
namespace {

template <auto Destroy>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Destroy(object);
  }
};
using Handle = std::unique_ptr<rd_kafka_t, Deleter<rd_kafka_destroy>>;
using PartitionList = std::unique_ptr<rd_kafka_topic_partition_list_t, Deleter<rd_kafka_topic_partition_list_destroy>>;
using KafkaMessage = std::unique_ptr<rd_kafka_message_t, Deleter<rd_kafka_message_destroy>>;
using Queue = std::unique_ptr<rd_kafka_queue_t, Deleter<rd_kafka_queue_destroy>>;
using KafkaEvent = std::unique_ptr<rd_kafka_event_t, Deleter<rd_kafka_event_destroy>>;

void check(rd_kafka_resp_err_t error, const std::string& what) {
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) throw std::runtime_error{what + ": " + rd_kafka_err2str(error)};
}

using Properties = std::map<std::string, std::string>;

struct Deliveries {
  std::size_t good = 0;
  std::size_t bad = 0;
  std::string error{};
};

void on_delivery(rd_kafka_t* /*client*/, const rd_kafka_message_t* message, void* opaque) {
  auto& deliveries = *static_cast<Deliveries*>(opaque);
  if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
    ++deliveries.good;
  } else {
    ++deliveries.bad;
    deliveries.error = rd_kafka_err2str(message->err);
  }
}

Handle make(rd_kafka_type_t type, const Properties& properties, Deliveries* deliveries = nullptr) {
  std::array<char, 512> error{};
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  for (const auto& [name, value] : properties) {
    if (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error.data(), error.size()) != RD_KAFKA_CONF_OK) {
      rd_kafka_conf_destroy(conf);
      throw std::runtime_error{error.data()};
    }
  }
  if (deliveries != nullptr) {
    rd_kafka_conf_set_opaque(conf, deliveries);
    rd_kafka_conf_set_dr_msg_cb(conf, &on_delivery);
  }
  Handle handle{rd_kafka_new(type, conf, error.data(), error.size())};
  if (!handle) {
    rd_kafka_conf_destroy(conf);
    throw std::runtime_error{error.data()};
  }
  return handle;
}

class KafkaPublisher final : public RawPublisher {
 public:
  KafkaPublisher(const std::string& bootstrap, std::string topic)
      : topic_{std::move(topic)},
        client_{make(RD_KAFKA_PRODUCER,
                     {{"bootstrap.servers", bootstrap},
                      {"enable.idempotence", "true"},
                      {"acks", "all"},
                      {"partitioner", "murmur2_random"},
                      {"linger.ms", "0"},
                      {"log_level", "2"}},
                     &deliveries_)} {}

  void publish(std::size_t first, std::size_t count) override {
    const std::size_t good_before = deliveries_.good;
    for (std::size_t i = first; i < first + count; ++i) produce(i);
    const Stopwatch watch;
    while (deliveries_.good + deliveries_.bad < good_before + count) {
      rd_kafka_poll(client_.get(), 1'000);
      if (watch.seconds() > 60) throw std::runtime_error{"kafka: no delivery report within 60 s"};
    }
    if (deliveries_.bad != 0) throw std::runtime_error{"kafka: " + deliveries_.error};
  }

 private:
  void produce(std::size_t i) {
    const std::string id = id_of(i);
    const std::string key = key_of(i);
    std::string payload = payload_of(i);
    rd_kafka_headers_t* headers = rd_kafka_headers_new(7);
    const auto add = [&](const char* name, const std::string& value) {
      rd_kafka_header_add(headers, name, -1, value.data(), static_cast<ssize_t>(value.size()));
    };
    add("ce_specversion", "1.0");
    add("ce_id", id);
    add("ce_source", kSource);
    add("ce_type", kType);
    add("ce_time", kTime);
    add("ce_partitionkey", key);
    add("content-type", kContentType);
    for (;;) {
      const rd_kafka_resp_err_t error =
          rd_kafka_producev(client_.get(), RD_KAFKA_V_TOPIC(topic_.c_str()), RD_KAFKA_V_KEY(key.data(), key.size()),
                            RD_KAFKA_V_VALUE(payload.data(), payload.size()), RD_KAFKA_V_HEADERS(headers),
                            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
      if (error == RD_KAFKA_RESP_ERR_NO_ERROR) break;
      if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        rd_kafka_headers_destroy(headers);
        check(error, "kafka: produce");
      }
      rd_kafka_poll(client_.get(), 5);
    }
    rd_kafka_poll(client_.get(), 0);
  }

  std::string topic_;
  Deliveries deliveries_;
  Handle client_;
};

class Kafka final : public RawBroker {
 public:
  explicit Kafka(std::string bootstrap)
      : bootstrap_{std::move(bootstrap)}, client_{make(RD_KAFKA_PRODUCER, {{"bootstrap.servers", bootstrap_}})} {}

  void create(const std::string& name) override {
    std::array<char, 512> error{};
    rd_kafka_NewTopic_t* topic = rd_kafka_NewTopic_new(name.c_str(), kKafkaPartitions, 1, error.data(), error.size());
    if (topic == nullptr) throw std::runtime_error{error.data()};
    const Queue queue{rd_kafka_queue_new(client_.get())};
    rd_kafka_CreateTopics(client_.get(), &topic, 1, nullptr, queue.get());
    rd_kafka_NewTopic_destroy(topic);
    await(queue.get(), "create topic " + name, &rd_kafka_event_CreateTopics_result, &rd_kafka_CreateTopics_result_topics);
    const Stopwatch watch;
    while (!known(name)) {
      if (watch.seconds() > 30) throw std::runtime_error{"kafka: topic " + name + " has no leaders within 30 s"};
    }
  }

  void remove(const std::string& name) override {
    rd_kafka_DeleteTopic_t* topic = rd_kafka_DeleteTopic_new(name.c_str());
    const Queue queue{rd_kafka_queue_new(client_.get())};
    rd_kafka_DeleteTopics(client_.get(), &topic, 1, nullptr, queue.get());
    rd_kafka_DeleteTopic_destroy(topic);
    await(queue.get(), "delete topic " + name, &rd_kafka_event_DeleteTopics_result, &rd_kafka_DeleteTopics_result_topics);
  }

  std::size_t stored(const std::string& name) override {
    std::size_t sum = 0;
    for (std::int32_t partition = 0; partition < kKafkaPartitions; ++partition) {
      std::int64_t low = 0;
      std::int64_t high = 0;
      check(rd_kafka_query_watermark_offsets(client_.get(), name.c_str(), partition, &low, &high, 30'000), "kafka: offsets");
      sum += static_cast<std::size_t>(high - low);
    }
    return sum;
  }

  std::unique_ptr<RawPublisher> publisher(const std::string& name) override {
    return std::make_unique<KafkaPublisher>(bootstrap_, name);
  }

  double consume(const std::string& name, const std::string& group, std::size_t count) override {
    return raw_kafka_consume(bootstrap_, name, group, count, [] {});
  }

  std::size_t unsettled(const std::string& name, const std::string& group) override {
    return stored(name) - raw_kafka_committed(bootstrap_, name, group);
  }

 private:
  template <class ResultOf, class TopicsOf>
  void await(rd_kafka_queue_t* queue, const std::string& what, ResultOf result_of, TopicsOf topics_of) {
    const KafkaEvent event{rd_kafka_queue_poll(queue, 30'000)};
    if (!event) throw std::runtime_error{"kafka: " + what + ": no answer"};
    check(rd_kafka_event_error(event.get()), "kafka: " + what);
    std::size_t count = 0;
    const rd_kafka_topic_result_t** topics = topics_of(result_of(event.get()), &count);
    for (std::size_t i = 0; i < count; ++i) check(rd_kafka_topic_result_error(topics[i]), "kafka: " + what);
  }

  bool known(const std::string& name) {
    rd_kafka_topic_t* topic = rd_kafka_topic_new(client_.get(), name.c_str(), nullptr);
    const rd_kafka_metadata_t* metadata = nullptr;
    const rd_kafka_resp_err_t error = rd_kafka_metadata(client_.get(), 0, topic, &metadata, 10'000);
    bool all = error == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topic_cnt == 1 &&
               metadata->topics[0].partition_cnt == kKafkaPartitions;
    for (int i = 0; all && i < kKafkaPartitions; ++i) all = metadata->topics[0].partitions[i].leader >= 0;
    if (metadata != nullptr) rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_destroy(topic);
    return all;
  }

  std::string bootstrap_;
  Handle client_;
};

Properties consumer_properties(const std::string& bootstrap, const std::string& group) {
  return {{"bootstrap.servers", bootstrap},
          {"group.id", group},
          {"auto.offset.reset", "earliest"},
          {"enable.auto.commit", "true"},
          {"enable.auto.offset.store", "false"}};
}

}  // namespace

std::unique_ptr<RawBroker> raw_kafka(const std::string& bootstrap) { return std::make_unique<Kafka>(bootstrap); }

double raw_kafka_consume(const std::string& bootstrap, const std::string& topic, const std::string& group, std::size_t count,
                         const std::function<void()>& each) {
  const Handle client = make(RD_KAFKA_CONSUMER, consumer_properties(bootstrap, group));
  rd_kafka_poll_set_consumer(client.get());
  const PartitionList topics{rd_kafka_topic_partition_list_new(1)};
  rd_kafka_topic_partition_list_add(topics.get(), topic.c_str(), RD_KAFKA_PARTITION_UA);
  check(rd_kafka_subscribe(client.get(), topics.get()), "kafka: subscribe");
  // A list for each partition: librdkafka remembers in the entry which partition it was first used for.
  std::array<PartitionList, kKafkaPartitions> offsets;
  for (int i = 0; i < kKafkaPartitions; ++i) {
    offsets[static_cast<std::size_t>(i)].reset(rd_kafka_topic_partition_list_new(1));
    rd_kafka_topic_partition_list_add(offsets[static_cast<std::size_t>(i)].get(), topic.c_str(), i);
  }
  std::optional<Stopwatch> watch;
  const Stopwatch patience;
  std::size_t seen = 0;
  while (seen < count) {
    const KafkaMessage message{rd_kafka_consumer_poll(client.get(), 100)};
    if (!message) {
      if (patience.seconds() > 120) throw std::runtime_error{"kafka: read only " + std::to_string(seen)};
      continue;
    }
    check(message->err, "kafka: consume");
    if (!watch) watch.emplace();
    each();
    rd_kafka_topic_partition_list_t* const offset = offsets.at(static_cast<std::size_t>(message->partition)).get();
    offset->elems[0].offset = message->offset + 1;
    check(rd_kafka_offsets_store(client.get(), offset), "kafka: store offset");
    ++seen;
  }
  const double seconds = watch->seconds();
  check(rd_kafka_commit(client.get(), nullptr, 0), "kafka: commit");
  rd_kafka_consumer_close(client.get());
  return seconds;
}

std::size_t raw_kafka_committed(const std::string& bootstrap, const std::string& topic, const std::string& group) {
  const Handle client = make(RD_KAFKA_CONSUMER, consumer_properties(bootstrap, group));
  const PartitionList partitions{rd_kafka_topic_partition_list_new(kKafkaPartitions)};
  for (int i = 0; i < kKafkaPartitions; ++i) rd_kafka_topic_partition_list_add(partitions.get(), topic.c_str(), i);
  check(rd_kafka_committed(client.get(), partitions.get(), 30'000), "kafka: committed offsets");
  std::size_t sum = 0;
  for (int i = 0; i < partitions->cnt; ++i) {
    if (partitions->elems[i].offset > 0) sum += static_cast<std::size_t>(partitions->elems[i].offset);
  }
  return sum;
}

}  // namespace penstock::bench
