// SPDX-License-Identifier: Apache-2.0
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

#include <sys/time.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "harness.hpp"
#include "payload.hpp"
#include "raw.hpp"

namespace penstock::bench {
namespace {

constexpr amqp_channel_t kChannel = 1;

amqp_bytes_t bytes(const std::string& text) { return {text.size(), const_cast<char*>(text.data())}; }  // NOLINT

/// One connection with one channel.
class Amqp {
 public:
  explicit Amqp(const std::string& url) : state_{amqp_new_connection()} {
    std::string copy = url;  // amqp_parse_url writes into it
    amqp_connection_info info{};
    amqp_default_connection_info(&info);
    if (amqp_parse_url(copy.data(), &info) != AMQP_STATUS_OK) throw std::runtime_error{"rabbitmq: bad URL"};
    amqp_socket_t* const socket = amqp_tcp_socket_new(state_);
    const int status = amqp_socket_open(socket, info.host, info.port);
    if (status != AMQP_STATUS_OK) throw std::runtime_error{std::string{"rabbitmq: "} + amqp_error_string2(status)};
    check(amqp_login(state_, info.vhost, 0, AMQP_DEFAULT_FRAME_SIZE, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password),
          "login");
    amqp_channel_open(state_, kChannel);
    check(amqp_get_rpc_reply(state_), "open channel");
  }
  ~Amqp() {
    amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(state_);
  }
  Amqp(const Amqp&) = delete;
  Amqp& operator=(const Amqp&) = delete;

  [[nodiscard]] amqp_connection_state_t get() const { return state_; }

  void check_last(const std::string& what) { check(amqp_get_rpc_reply(state_), what); }

  static void check(const amqp_rpc_reply_t& reply, const std::string& what) {
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
    std::string error = "unexpected answer";
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) {
      error = amqp_error_string2(reply.library_error);
    } else if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
      const auto* close = static_cast<const amqp_channel_close_t*>(reply.reply.decoded);
      error.assign(static_cast<const char*>(close->reply_text.bytes), close->reply_text.len);
    }
    throw std::runtime_error{"rabbitmq: " + what + ": " + error};
  }

 private:
  amqp_connection_state_t state_;
};

class RabbitPublisher final : public RawPublisher {
 public:
  RabbitPublisher(const std::string& url, std::string queue, std::size_t window)
      : queue_{std::move(queue)}, window_{window}, amqp_{url} {
    amqp_confirm_select(amqp_.get(), kChannel);
    amqp_.check_last("confirm.select");
  }

  void publish(std::size_t first, std::size_t count) override {
    for (std::size_t i = first; i < first + count; ++i) {
      send(i);
      while (sent_ - confirmed_ >= window_) receive(true);
      if (i % 64 == 0) receive(false);
    }
    while (confirmed_ < sent_) receive(true);
  }

 private:
  void send(std::size_t i) {
    const std::string id = id_of(i);
    const std::string key = key_of(i);
    const std::string payload = payload_of(i);
    const std::string version = "1.0";
    const std::array<std::pair<const char*, const std::string*>, 6> attributes{{{"cloudEvents_specversion", &version},
                                                                                {"cloudEvents_id", &id},
                                                                                {"cloudEvents_source", &kSource},
                                                                                {"cloudEvents_type", &kType},
                                                                                {"cloudEvents_time", &kTime},
                                                                                {"cloudEvents_partitionkey", &key}}};
    std::array<amqp_table_entry_t, 6> entries{};
    for (std::size_t n = 0; n < entries.size(); ++n) {
      entries[n].key = amqp_cstring_bytes(attributes[n].first);
      entries[n].value.kind = AMQP_FIELD_KIND_UTF8;
      entries[n].value.value.bytes = bytes(*attributes[n].second);
    }
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
    properties.content_type = bytes(kContentType);
    properties.delivery_mode = 2;
    properties.headers = {static_cast<int>(entries.size()), entries.data()};
    const int status =
        amqp_basic_publish(amqp_.get(), kChannel, amqp_empty_bytes, bytes(queue_), 1, 0, &properties, bytes(payload));
    if (status != AMQP_STATUS_OK) throw std::runtime_error{std::string{"rabbitmq: publish: "} + amqp_error_string2(status)};
    ++sent_;
  }

  /// Takes the frames that are there, or waits for one.
  void receive(bool wait) {
    for (;;) {
      timeval timeout{wait ? 60 : 0, 0};
      amqp_frame_t frame{};
      const int status = amqp_simple_wait_frame_noblock(amqp_.get(), &frame, &timeout);
      if (status == AMQP_STATUS_TIMEOUT) {
        if (wait) throw std::runtime_error{"rabbitmq: no confirm within 60 s"};
        return;
      }
      if (status != AMQP_STATUS_OK) throw std::runtime_error{std::string{"rabbitmq: "} + amqp_error_string2(status)};
      if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        throw std::runtime_error{"rabbitmq: returned, nacked or closed"};
      }
      // Acks of several come as one with the highest tag, those of one by one in any order; the sum is what counts here.
      const auto* ack = static_cast<const amqp_basic_ack_t*>(frame.payload.method.decoded);
      settle(ack->delivery_tag, ack->multiple != 0);
      amqp_maybe_release_buffers(amqp_.get());
      wait = false;
    }
  }

  void settle(std::uint64_t tag, bool multiple) {
    if (multiple) {
      for (; lowest_ <= tag; ++lowest_) {
        if (single_.erase(lowest_) == 0) ++confirmed_;
      }
    } else {
      ++confirmed_;
      single_.emplace(tag, true);
      while (single_.erase(lowest_) != 0) ++lowest_;
    }
  }

  std::string queue_;
  std::size_t window_;
  Amqp amqp_;
  std::uint64_t sent_ = 0;
  std::uint64_t confirmed_ = 0;
  std::uint64_t lowest_ = 1;  ///< tag that is not confirmed
  std::map<std::uint64_t, bool> single_;
};

class Rabbit final : public RawBroker {
 public:
  Rabbit(std::string url, std::size_t window, std::uint16_t prefetch)
      : url_{std::move(url)}, window_{window}, prefetch_{prefetch} {}

  void create(const std::string& name) override {
    const Amqp amqp{url_};
    amqp_table_entry_t entry{};
    entry.key = amqp_cstring_bytes("x-queue-type");
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = amqp_cstring_bytes("quorum");
    amqp_queue_declare(amqp.get(), kChannel, bytes(name), 0, 1, 0, 0, {1, &entry});
    Amqp::check(amqp_get_rpc_reply(amqp.get()), "declare " + name);
  }

  void remove(const std::string& name) override {
    const Amqp amqp{url_};
    amqp_queue_delete(amqp.get(), kChannel, bytes(name), 0, 0);
    Amqp::check(amqp_get_rpc_reply(amqp.get()), "delete " + name);
  }

  // A quorum queue counts a confirmed message a moment later: what counts is the figure at which it comes to rest.
  std::size_t stored(const std::string& name) override {
    const Amqp amqp{url_};
    std::size_t count = 0;
    for (int same = 0; same < 5; std::this_thread::sleep_for(std::chrono::milliseconds{20})) {
      const amqp_queue_declare_ok_t* ok = amqp_queue_declare(amqp.get(), kChannel, bytes(name), 1, 0, 0, 0, amqp_empty_table);
      Amqp::check(amqp_get_rpc_reply(amqp.get()), "count " + name);
      same = ok->message_count == count ? same + 1 : 0;
      count = ok->message_count;
      amqp_maybe_release_buffers(amqp.get());
    }
    return count;
  }

  std::unique_ptr<RawPublisher> publisher(const std::string& name) override {
    return std::make_unique<RabbitPublisher>(url_, name, window_);
  }

  double consume(const std::string& name, const std::string& /*group*/, std::size_t count) override {
    const Amqp amqp{url_};
    amqp_basic_qos(amqp.get(), kChannel, 0, prefetch_, 0);
    Amqp::check(amqp_get_rpc_reply(amqp.get()), "qos");
    amqp_basic_consume(amqp.get(), kChannel, bytes(name), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    Amqp::check(amqp_get_rpc_reply(amqp.get()), "consume " + name);
    std::optional<Stopwatch> watch;
    for (std::size_t seen = 0; seen < count; ++seen) {
      amqp_maybe_release_buffers(amqp.get());
      amqp_envelope_t envelope{};
      timeval timeout{30, 0};
      Amqp::check(amqp_consume_message(amqp.get(), &envelope, &timeout, 0), "message");
      if (!watch) watch.emplace();
      const int status = amqp_basic_ack(amqp.get(), kChannel, envelope.delivery_tag, 0);
      amqp_destroy_envelope(&envelope);
      if (status != AMQP_STATUS_OK) throw std::runtime_error{std::string{"rabbitmq: ack: "} + amqp_error_string2(status)};
    }
    const double seconds = watch->seconds();
    // A channel that is closed while its queue works off acknowledgements loses the last of them.
    for (const Stopwatch patience; stored(name) != 0 && patience.seconds() < 10;) {
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    return seconds;
  }

  std::size_t unsettled(const std::string& name, const std::string& /*group*/) override { return stored(name); }

 private:
  std::string url_;
  std::size_t window_;
  std::uint16_t prefetch_;
};

}  // namespace

std::unique_ptr<RawBroker> raw_rabbitmq(const std::string& url, std::size_t window, std::uint16_t prefetch) {
  return std::make_unique<Rabbit>(url, window, prefetch);
}

}  // namespace penstock::bench
