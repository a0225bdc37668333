// SPDX-License-Identifier: Apache-2.0
#pragma once

// Kafka as a stranger sees it: librdkafka itself, past everything the tests put to the test. And its cluster in the process.

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "penstock/envelope.hpp"

namespace penstock::support {

using Properties = std::map<std::string, std::string>;

class RawClient {
 public:
  RawClient(rd_kafka_type_t type, const Properties& properties) {
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    std::array<char, 512> reason{};
    rd_kafka_conf_set_log_cb(conf, nullptr);
    for (const auto& [name, value] : properties) {
      if (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), reason.data(), reason.size()) != RD_KAFKA_CONF_OK) {
        rd_kafka_conf_destroy(conf);
        throw std::runtime_error{reason.data()};
      }
    }
    client_ = rd_kafka_new(type, conf, reason.data(), reason.size());
    if (client_ == nullptr) {
      rd_kafka_conf_destroy(conf);
      throw std::runtime_error{reason.data()};
    }
  }
  ~RawClient() { rd_kafka_destroy(client_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  [[nodiscard]] rd_kafka_t* get() const { return client_; }

 private:
  rd_kafka_t* client_ = nullptr;
};

/// Stores a message and waits until it is there. A partition of -1 leaves the choice to librdkafka.
inline void put(const std::string& servers, const std::string& topic, const Wire& wire, std::int32_t partition = -1) {
  const RawClient producer{RD_KAFKA_PRODUCER, {{"bootstrap.servers", servers}, {"acks", "all"}, {"linger.ms", "0"}}};
  rd_kafka_headers_t* headers = rd_kafka_headers_new(wire.headers.size());
  for (const Header& header : wire.headers) {
    rd_kafka_header_add(headers, header.name.data(), static_cast<ssize_t>(header.name.size()),
                        header.value ? header.value->data() : nullptr,
                        header.value ? static_cast<ssize_t>(header.value->size()) : 0);
  }
  std::array<rd_kafka_vu_t, 6> fields{};
  std::size_t count = 0;
  const auto add = [&](rd_kafka_vtype_t type) -> rd_kafka_vu_t& {
    fields.at(count).vtype = type;
    return fields.at(count++);
  };
  std::string key = wire.key.value_or("");
  std::string payload = wire.payload.value_or("");
  add(RD_KAFKA_VTYPE_TOPIC).u.cstr = topic.c_str();
  add(RD_KAFKA_VTYPE_PARTITION).u.i32 = partition;
  add(RD_KAFKA_VTYPE_MSGFLAGS).u.i = RD_KAFKA_MSG_F_COPY;
  if (wire.key) add(RD_KAFKA_VTYPE_KEY).u.mem = {key.data(), key.size()};
  if (wire.payload) add(RD_KAFKA_VTYPE_VALUE).u.mem = {payload.data(), payload.size()};
  add(RD_KAFKA_VTYPE_HEADERS).u.headers = headers;
  if (rd_kafka_error_t* error = rd_kafka_produceva(producer.get(), fields.data(), count)) {
    const std::string what = rd_kafka_error_string(error);
    rd_kafka_error_destroy(error);
    rd_kafka_headers_destroy(headers);
    throw std::runtime_error{"produce: " + what};
  }
  if (rd_kafka_flush(producer.get(), 30'000) != RD_KAFKA_RESP_ERR_NO_ERROR) throw std::runtime_error{"flush"};
}

struct Stored {
  std::int32_t partition = 0;
  std::int64_t offset = 0;
  Wire wire{};
};

/// Everything a topic holds now, partition by partition.
inline std::vector<Stored> read_all(const std::string& servers, const std::string& topic, int partitions) {
  const auto bytes = [](const void* data, std::size_t size) {
    return data == nullptr ? std::nullopt : std::optional<std::string>{std::string{static_cast<const char*>(data), size}};
  };
  const RawClient consumer{RD_KAFKA_CONSUMER,
                           {{"bootstrap.servers", servers},
                            {"group.id", "read-all"},
                            {"enable.auto.commit", "false"},
                            {"enable.partition.eof", "true"},
                            {"auto.offset.reset", "earliest"}}};
  rd_kafka_topic_partition_list_t* list = rd_kafka_topic_partition_list_new(partitions);
  for (int i = 0; i < partitions; ++i) rd_kafka_topic_partition_list_add(list, topic.c_str(), i)->offset = 0;
  rd_kafka_assign(consumer.get(), list);
  rd_kafka_topic_partition_list_destroy(list);
  std::vector<Stored> stored;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{60};
  for (int ends = 0; ends < partitions;) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error{"reading " + topic + " takes too long"};
    rd_kafka_message_t* message = rd_kafka_consumer_poll(consumer.get(), 100);
    if (message == nullptr) continue;
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
      ++ends;
    } else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
      Stored one{message->partition, message->offset, {}};
      one.wire.key = bytes(message->key, message->key_len);
      one.wire.payload = bytes(message->payload, message->len);
      rd_kafka_headers_t* headers = nullptr;
      if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        const char* name = nullptr;
        const void* value = nullptr;
        std::size_t size = 0;
        for (std::size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR; ++i) {
          one.wire.headers.push_back({name, bytes(value, size)});
        }
      }
      stored.push_back(std::move(one));
    }
    rd_kafka_message_destroy(message);
  }
  rd_kafka_consumer_close(consumer.get());
  return stored;
}

inline void delete_topic(const std::string& servers, const std::string& topic) {
  const RawClient client{RD_KAFKA_PRODUCER, {{"bootstrap.servers", servers}}};
  rd_kafka_DeleteTopic_t* request = rd_kafka_DeleteTopic_new(topic.c_str());
  rd_kafka_queue_t* queue = rd_kafka_queue_new(client.get());
  rd_kafka_DeleteTopics(client.get(), &request, 1, nullptr, queue);
  if (rd_kafka_event_t* event = rd_kafka_queue_poll(queue, 10'000)) rd_kafka_event_destroy(event);
  rd_kafka_queue_destroy(queue);
  rd_kafka_DeleteTopic_destroy(request);
}

/// librdkafka's own cluster of one broker inside the process.
class MockCluster {
 public:
  MockCluster() : host_{RD_KAFKA_PRODUCER, {}}, cluster_{rd_kafka_mock_cluster_new(host_.get(), 1)} {
    if (cluster_ == nullptr) throw std::runtime_error{"no mock cluster"};
  }
  ~MockCluster() { rd_kafka_mock_cluster_destroy(cluster_); }
  MockCluster(const MockCluster&) = delete;
  MockCluster& operator=(const MockCluster&) = delete;

  [[nodiscard]] std::string servers() const { return rd_kafka_mock_cluster_bootstraps(cluster_); }
  [[nodiscard]] rd_kafka_mock_cluster_t* get() const { return cluster_; }
  void create(const std::string& topic, int partitions) {
    const auto error = rd_kafka_mock_topic_create(cluster_, topic.c_str(), partitions, 1);
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) throw std::runtime_error{rd_kafka_err2str(error)};
  }
  void down() { rd_kafka_mock_broker_set_down(cluster_, 1); }
  void up() { rd_kafka_mock_broker_set_up(cluster_, 1); }
  /// The next Produce requests are answered with these.
  void fail_produce(const std::vector<rd_kafka_resp_err_t>& errors) { fail(0, errors); }
  /// The next requests of a kind, by its number in Kafka's protocol, are answered with these.
  void fail(std::int16_t kind, const std::vector<rd_kafka_resp_err_t>& errors) {
    rd_kafka_mock_push_request_errors_array(cluster_, kind, errors.size(), errors.data());
  }

 private:
  RawClient host_;
  rd_kafka_mock_cluster_t* cluster_;
};

}  // namespace penstock::support
