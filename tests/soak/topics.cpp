// SPDX-License-Identifier: Apache-2.0
// What the brokers hold, read by their own clients alone.
#include <nats/nats.h>

#include <stdexcept>

#include "soak.hpp"
#include "support/kafka.hpp"
#include "support/raw_amqp.hpp"

namespace soak {
namespace {

std::vector<Raw> read_kafka(const Settings& settings, const std::string& channel) {
  std::vector<Raw> found;
  for (auto& stored : penstock::support::read_all(settings.broker, channel, 4)) {
    Raw raw{.key = stored.wire.key.value_or(""), .body = stored.wire.payload.value_or("")};
    for (const auto& header : stored.wire.headers) {
      if (header.name == "ce_id") raw.id = header.value.value_or("");
      if (header.name == "dlq-consumer-group") raw.group = header.value.value_or("");
    }
    found.push_back(std::move(raw));
  }
  return found;
}

std::vector<Raw> read_rabbit(const Settings& settings, const std::string& channel) {
  using penstock::support::RawAmqp;
  RawAmqp client{settings.broker};
  std::vector<Raw> found;
  while (client.get(channel, [&](const amqp_message_t& message) {
    Raw raw{.body = RawAmqp::text(message.body)};
    const auto& headers = message.properties.headers;
    for (int i = 0; i < headers.num_entries; ++i) {
      const auto& entry = headers.entries[i];
      if (entry.value.kind != AMQP_FIELD_KIND_UTF8) continue;
      const auto name = RawAmqp::text(entry.key);
      const auto value = RawAmqp::text(entry.value.value.bytes);
      if (name == "cloudEvents_id") raw.id = value;
      if (name == "cloudEvents_partitionkey") raw.key = value;
      if (name == "dlq-consumer-group") raw.group = value;
    }
    found.push_back(std::move(raw));
  })) {
  }
  return found;
}

void check(natsStatus status) {
  if (status != NATS_OK) throw std::runtime_error{std::string{"nats.c: "} + natsStatus_GetText(status)};
}

std::vector<Raw> read_nats(const Settings& settings, const std::string& channel) {
  std::string stream = channel;  // whose name JetStream takes with another dot
  for (auto dot = stream.find('.'); dot != std::string::npos; dot = stream.find('.')) stream.replace(dot, 1, "=2E");
  natsConnection* connection = nullptr;
  jsCtx* js = nullptr;
  check(natsConnection_ConnectTo(&connection, settings.broker.c_str()));
  check(natsConnection_JetStream(&js, connection, nullptr));
  jsStreamInfo* info = nullptr;
  check(js_GetStreamInfo(&info, js, stream.c_str(), nullptr, nullptr));
  std::vector<Raw> found;
  for (auto sequence = info->State.FirstSeq; sequence != 0 && sequence <= info->State.LastSeq; ++sequence) {
    natsMsg* message = nullptr;
    check(js_GetMsg(&message, js, stream.c_str(), sequence, nullptr, nullptr));
    const auto header = [&](const char* name) -> std::string {
      const char* value = nullptr;
      return natsMsgHeader_Get(message, name, &value) == NATS_OK ? value : "";
    };
    found.push_back({.id = header("ce-id"),
                     .key = header("ce-partitionkey"),
                     .body = {natsMsg_GetData(message), static_cast<std::size_t>(natsMsg_GetDataLength(message))},
                     .group = header("dlq-consumer-group")});
    natsMsg_Destroy(message);
  }
  jsStreamInfo_Destroy(info);
  jsCtx_Destroy(js);
  natsConnection_Destroy(connection);
  return found;
}

}  // namespace

std::vector<Raw> read_topic(const Settings& settings, const std::string& channel) {
  if (settings.backend == "kafka") return read_kafka(settings, channel);
  if (settings.backend == "rabbitmq") return read_rabbit(settings, channel);
  return read_nats(settings, channel);
}

}  // namespace soak
