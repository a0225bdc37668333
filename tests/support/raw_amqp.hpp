// SPDX-License-Identifier: Apache-2.0
#pragma once

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock::support {

/// A stranger at RabbitMQ: plain rabbitmq-c, nothing of Lane. Throws std::runtime_error. One thread.
class RawAmqp {
 public:
  explicit RawAmqp(const std::string& url) : state_{amqp_new_connection()} {
    std::string copy = url;
    amqp_connection_info info{};
    amqp_default_connection_info(&info);
    if (amqp_parse_url(copy.data(), &info) != AMQP_STATUS_OK) throw std::runtime_error{"the AMQP url cannot be read"};
    amqp_socket_t* socket = amqp_tcp_socket_new(state_);
    if (amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) {
      amqp_destroy_connection(state_);
      throw std::runtime_error{"cannot connect to RabbitMQ"};
    }
    check(amqp_login(state_, info.vhost, 0, AMQP_DEFAULT_FRAME_SIZE, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password));
    open();
  }
  ~RawAmqp() {
    amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(state_);
  }
  RawAmqp(const RawAmqp&) = delete;
  RawAmqp& operator=(const RawAmqp&) = delete;

  static amqp_bytes_t bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }  // NOLINT
  static std::string text(amqp_bytes_t value) { return {static_cast<const char*>(value.bytes), value.len}; }

  void declare(const std::string& queue, std::vector<amqp_table_entry_t> arguments = {}) {
    amqp_queue_declare(state_, 1, bytes(queue), 0, 1, 0, 0, amqp_table_t{static_cast<int>(arguments.size()), arguments.data()});
    check(amqp_get_rpc_reply(state_));
  }
  /// A queue as Lane declares it, without Lane's wait until it would survive a crash of RabbitMQ.
  void declare_as_lane(const std::string& queue, bool quorum) {
    std::vector<amqp_table_entry_t> arguments(1);
    arguments[0].key = bytes("x-queue-type");
    arguments[0].value.kind = AMQP_FIELD_KIND_UTF8;
    arguments[0].value.value.bytes = bytes(quorum ? "quorum" : "classic");
    if (quorum) {
      amqp_table_entry_t limit{};
      limit.key = bytes("x-delivery-limit");
      limit.value.kind = AMQP_FIELD_KIND_I64;
      limit.value.value.i64 = 1'000'000'000;
      arguments.push_back(limit);
    }
    declare(queue, std::move(arguments));
  }
  void remove(const std::string& queue) {
    amqp_queue_delete(state_, 1, bytes(queue), 0, 0);
    check(amqp_get_rpc_reply(state_));
  }

  void declare_exchange(const std::string& exchange, const std::string& type) {
    amqp_exchange_declare(state_, 1, bytes(exchange), bytes(type), 0, 1, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(state_));
  }
  void remove_exchange(const std::string& exchange) {
    amqp_exchange_delete(state_, 1, bytes(exchange), 0);
    check(amqp_get_rpc_reply(state_));
  }
  void bind(const std::string& queue, const std::string& exchange, const std::string& key) {
    amqp_queue_bind(state_, 1, bytes(queue), bytes(exchange), bytes(key), amqp_empty_table);
    check(amqp_get_rpc_reply(state_));
  }

  /// Throws when there is no such queue.
  void purge(const std::string& queue) {
    amqp_queue_purge(state_, 1, bytes(queue));
    check(amqp_get_rpc_reply(state_));
  }

  /// Stores one message and waits for the confirm.
  void publish(const std::string& queue, const amqp_basic_properties_t& properties, std::string_view body) {
    if (!std::exchange(confirms_, true)) {
      amqp_confirm_select(state_, 1);
      check(amqp_get_rpc_reply(state_));
    }
    if (amqp_basic_publish(state_, 1, amqp_empty_bytes, bytes(queue), 0, 0, &properties, bytes(body)) != AMQP_STATUS_OK) {
      throw std::runtime_error{"publishing failed"};
    }
    amqp_method_t method;
    if (amqp_simple_wait_method(state_, 1, AMQP_BASIC_ACK_METHOD, &method) != AMQP_STATUS_OK) {
      throw std::runtime_error{"RabbitMQ did not confirm"};
    }
    amqp_maybe_release_buffers(state_);
  }

  /// Takes the next message off the queue; false when there is none.
  bool get(const std::string& queue, const std::function<void(const amqp_message_t&)>& look) {
    const amqp_rpc_reply_t reply = amqp_basic_get(state_, 1, bytes(queue), 1);
    check(reply);
    if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD) return false;
    amqp_message_t message;
    check(amqp_read_message(state_, 1, &message, 0));
    look(message);
    amqp_destroy_message(&message);
    amqp_maybe_release_buffers(state_);
    return true;
  }

  [[nodiscard]] amqp_connection_state_t state() const noexcept { return state_; }

 private:
  void open() {
    amqp_channel_open(state_, 1);
    check(amqp_get_rpc_reply(state_));
  }
  static void check(const amqp_rpc_reply_t& reply) {
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
    std::string why = reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION ? amqp_error_string2(reply.library_error) : "";
    if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
      why = text(static_cast<amqp_channel_close_t*>(reply.reply.decoded)->reply_text);
    }
    throw std::runtime_error{"RabbitMQ: " + why};
  }

  amqp_connection_state_t state_;
  bool confirms_ = false;
};

}  // namespace penstock::support
