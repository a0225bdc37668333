// SPDX-License-Identifier: Apache-2.0
// topic_reader SERVERS TOPIC: reads the whole topic by librdkafka alone and checks, for every key, that its events first appear
// in their order: placed, then one final event. Repeats of an id are allowed and counted. Exit 0 only if that holds.
#include <librdkafka/rdkafka.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

std::string header(const rd_kafka_message_t* message, const char* name) {
  rd_kafka_headers_t* headers = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  if (rd_kafka_message_headers(message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) return {};
  if (rd_kafka_header_get_last(headers, name, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR) return {};
  return {static_cast<const char*>(value), size};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fputs("usage: topic_reader SERVERS TOPIC\n", stderr), 2;
  char error[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  for (const auto& [name, value] : std::map<std::string, std::string>{{"bootstrap.servers", argv[1]},
                                                                      {"group.id", "topic-reader"},
                                                                      {"enable.auto.commit", "false"},
                                                                      {"enable.partition.eof", "true"},
                                                                      {"auto.offset.reset", "earliest"}}) {
    if (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error, sizeof error) != RD_KAFKA_CONF_OK)
      return std::fprintf(stderr, "%s\n", error), 2;
  }
  rd_kafka_t* consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof error);
  if (consumer == nullptr) return std::fprintf(stderr, "%s\n", error), 2;
  rd_kafka_poll_set_consumer(consumer);

  const struct rd_kafka_metadata* metadata = nullptr;
  rd_kafka_topic_t* topic = rd_kafka_topic_new(consumer, argv[2], nullptr);
  if (rd_kafka_metadata(consumer, 0, topic, &metadata, 10'000) != RD_KAFKA_RESP_ERR_NO_ERROR)
    return std::fputs("no metadata\n", stderr), 2;
  const int partitions = metadata->topics[0].partition_cnt;
  rd_kafka_metadata_destroy(metadata);
  rd_kafka_topic_destroy(topic);
  rd_kafka_topic_partition_list_t* all = rd_kafka_topic_partition_list_new(partitions);
  for (int i = 0; i < partitions; ++i) rd_kafka_topic_partition_list_add(all, argv[2], i)->offset = RD_KAFKA_OFFSET_BEGINNING;
  rd_kafka_assign(consumer, all);
  rd_kafka_topic_partition_list_destroy(all);

  std::map<std::string, std::vector<std::string>> types;  // by key, each id once
  std::set<std::string> ids;
  std::size_t messages = 0;
  std::set<int> ended;
  while (static_cast<int>(ended.size()) < partitions) {
    rd_kafka_message_t* message = rd_kafka_consumer_poll(consumer, 15'000);
    if (message == nullptr) return std::fputs("the topic does not answer\n", stderr), 2;
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
      ended.insert(message->partition);
    } else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
      ++messages;
      const std::string key{static_cast<const char*>(message->key), message->key_len};
      if (ids.insert(header(message, "ce_id")).second) types[key].push_back(header(message, "ce_type"));
    } else {
      std::fprintf(stderr, "%s\n", rd_kafka_message_errstr(message));
    }
    rd_kafka_message_destroy(message);
  }
  rd_kafka_consumer_close(consumer);
  rd_kafka_destroy(consumer);

  std::size_t wrong = 0;
  for (const auto& [key, sequence] : types) {
    const bool right = sequence.size() <= 2 && sequence.front() == "shop.order.placed.v1";
    if (right) continue;
    ++wrong;
    std::fprintf(stderr, "%s:", key.c_str());
    for (const auto& type : sequence) std::fprintf(stderr, " %s", type.c_str());
    std::fputs("\n", stderr);
  }
  std::printf("%zu messages, %zu events of %zu orders, %zu repeats, %zu orders out of order\n", messages, ids.size(),
              types.size(), messages - ids.size(), wrong);
  return wrong == 0 && !types.empty() ? 0 : 1;
}
