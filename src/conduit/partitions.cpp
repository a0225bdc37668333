// SPDX-License-Identifier: Apache-2.0
#include "conduit/partitions.hpp"

#include <array>
#include <string_view>
#include <utility>

namespace penstock::conduit {
namespace {

using TopicConf = std::unique_ptr<rd_kafka_topic_conf_t, Deleter<rd_kafka_topic_conf_destroy>>;

}  // namespace

rd_kafka_topic_t* Partitions::handle(rd_kafka_t* client, const std::string& topic) {
  std::unique_ptr<Topic>& known = topics_[topic];
  if (known == nullptr) known = std::make_unique<Topic>();
  if (known->handle) return known->handle.get();
  TopicConf conf{rd_kafka_default_topic_conf_dup(client)};
  known->partitioner = configured(conf.get());
  rd_kafka_topic_conf_set_opaque(conf.get(), known.get());
  if (known->partitioner != nullptr) rd_kafka_topic_conf_set_partitioner_cb(conf.get(), &Partitions::place);
  known->handle.reset(rd_kafka_topic_new(client, topic.c_str(), conf.get()));
  if (known->handle) static_cast<void>(conf.release());  // the topic owns it now
  return known->handle.get();
}

bool Partitions::proved(const std::string& topic, const std::string& key) const {
  const auto found = topics_.find(topic);
  if (found == topics_.end()) return false;
  const Topic& known = *found->second;
  const int32_t count = known.partitions;
  if (known.partitioner == nullptr || count <= 0) return false;
  const int32_t at = known.partitioner(nullptr, key.data(), key.size(), count, nullptr, nullptr);
  return static_cast<std::size_t>(at) < known.proved.size() && known.proved[static_cast<std::size_t>(at)];
}

void Partitions::prove(const rd_kafka_message_t& message) {
  if (message.rkt == nullptr || message.partition < 0) return;
  auto* const topic = static_cast<Topic*>(rd_kafka_topic_opaque(message.rkt));
  if (topic == nullptr) return;
  const auto at = static_cast<std::size_t>(message.partition);
  if (at >= topic->proved.size()) topic->proved.resize(at + 1);
  topic->proved[at] = true;
}

void Partitions::release() {
  for (auto& [name, topic] : topics_) topic->handle.reset();
}

int32_t Partitions::place(const rd_kafka_topic_t* handle, const void* key, size_t size, int32_t partitions, void* topic,
                          void* message) {
  auto& known = *static_cast<Topic*>(topic);
  known.partitions = partitions;
  return known.partitioner(handle, key, size, partitions, nullptr, message);
}

/// The one the property names; null for `random`, which keeps no key in its place.
Partitions::Partitioner Partitions::configured(rd_kafka_topic_conf_t* conf) {
  static constexpr std::array<std::pair<std::string_view, Partitioner>, 6> kNamed{{
      {"murmur2_random", &rd_kafka_msg_partitioner_murmur2_random},
      {"murmur2", &rd_kafka_msg_partitioner_murmur2},
      {"consistent_random", &rd_kafka_msg_partitioner_consistent_random},
      {"consistent", &rd_kafka_msg_partitioner_consistent},
      {"fnv1a_random", &rd_kafka_msg_partitioner_fnv1a_random},
      {"fnv1a", &rd_kafka_msg_partitioner_fnv1a},
  }};
  std::array<char, 64> name{};
  std::size_t size = name.size();
  if (rd_kafka_topic_conf_get(conf, "partitioner", name.data(), &size) != RD_KAFKA_CONF_OK) return nullptr;
  for (const auto& [known, function] : kNamed) {
    if (known == name.data()) return function;
  }
  return nullptr;
}

}  // namespace penstock::conduit
