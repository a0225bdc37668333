// SPDX-License-Identifier: Apache-2.0
#include "conduit/delivery.hpp"

#include <new>
#include <optional>
#include <string>
#include <utility>

namespace penstock::conduit {
namespace {

/// The remedy, for errors that no repetition cures; null for all others.
const char* remedy(rd_kafka_resp_err_t error) {
  switch (error) {
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
      return "create the topic, with Conduit::declare or Kafka's tools, or correct the channel's name";
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION: return "a topic's name is at most 249 letters, digits, '.', '_' and '-'";
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
      return "make the event smaller, or raise message.max.bytes here and max.message.bytes of the topic";
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
      return "grant the client's user Write and Describe on the topic, and IdempotentWrite on the cluster";
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
      return "the topic's settings do not allow this event; a compacted topic takes no event without a key";
    case RD_KAFKA_RESP_ERR__INVALID_ARG: return "librdkafka takes no such message";
    default: return nullptr;
  }
}

/// Into what has room already.
void assign(std::optional<std::string>& target, const void* data, std::size_t size) {
  if (data == nullptr) {
    target.reset();
  } else if (target) {
    target->assign(static_cast<const char*>(data), size);
  } else {
    target.emplace(static_cast<const char*>(data), size);
  }
}

}  // namespace

Outcome outcome_of(rd_kafka_resp_err_t error, rd_kafka_msg_status_t status) {
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR || status == RD_KAFKA_MSG_STATUS_PERSISTED) return {Outcome::Status::confirmed, {}};
  const char* cure = remedy(error);
  if (cure != nullptr && status == RD_KAFKA_MSG_STATUS_NOT_PERSISTED) {
    return {Outcome::Status::rejected, describe(error) + "; " + cure};
  }
  const bool surely_not = status == RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
  return {surely_not ? Outcome::Status::retryable : Outcome::Status::unknown, describe(error)};
}

RdHeaders to_headers(const Event& event) {
  RdHeaders result{rd_kafka_headers_new(8 + event.extensions.size() + event.headers.size())};
  encode_headers(event, Binding::kafka, [&](std::string_view name, const std::optional<std::string_view>& value) {
    if (rd_kafka_header_add(result.get(), name.data(), static_cast<ssize_t>(name.size()), value ? value->data() : nullptr,
                            value ? static_cast<ssize_t>(value->size()) : 0) != RD_KAFKA_RESP_ERR_NO_ERROR) {
      throw std::bad_alloc{};
    }
  });
  return result;
}

void to_wire(const rd_kafka_message_t& message, Wire& wire) {
  assign(wire.key, message.key, message.key_len);
  assign(wire.payload, message.payload, message.len);
  std::size_t count = 0;
  rd_kafka_headers_t* headers = nullptr;
  if (rd_kafka_message_headers(&message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) {
    wire.headers.clear();
    return;
  }
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  for (; rd_kafka_header_get_all(headers, count, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR; ++count) {
    if (count == wire.headers.size()) wire.headers.emplace_back();
    wire.headers[count].name = name;
    assign(wire.headers[count].value, value, size);
  }
  wire.headers.resize(count);
}

}  // namespace penstock::conduit
