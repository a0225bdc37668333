// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <stdexcept>

#include "penstock/lane.hpp"
#include "support/raw_amqp.hpp"
#include "truth/backend.hpp"

namespace penstock::truth {
namespace {

std::string url(std::uint16_t port) { return "amqp://guest:guest@127.0.0.1:" + std::to_string(port) + "/%2f"; }

class LaneClient final : public Client {
 public:
  explicit LaneClient(std::uint16_t port)
      : lane_{{.url = url(port), .heartbeat = std::chrono::seconds{5}, .logger = client_log()}} {}
  void declare(const std::string& channel) override { lane_.declare({.name = channel}); }
  Channel channel(const std::string& channel) override { return lane_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel) override { return lane_.source(channel, {.prefetch = 100}); }

 private:
  Lane lane_;
};

class Rabbitmq final : public Backend {
 public:
  explicit Rabbitmq(std::uint16_t wire)
      : wire_{wire}, straight_{url(static_cast<std::uint16_t>(std::stoi(server_.state("port"))))} {}

  std::unique_ptr<Client> client() override { return std::make_unique<LaneClient>(wire_); }

  void read_back(const std::string& channel, const std::function<void(std::string_view)>& look) override {
    const support::RawAmqp raw{straight_};
    amqp_queue_declare(raw.state(), 1, support::RawAmqp::bytes(channel), 1, 1, 0, 0, amqp_empty_table);
    if (amqp_get_rpc_reply(raw.state()).reply_type != AMQP_RESPONSE_NORMAL) throw std::runtime_error{"no queue " + channel};
    amqp_basic_consume(raw.state(), 1, support::RawAmqp::bytes(channel), amqp_empty_bytes, 0, 1, 0, amqp_empty_table);
    if (amqp_get_rpc_reply(raw.state()).reply_type != AMQP_RESPONSE_NORMAL) throw std::runtime_error{"cannot read " + channel};
    // How many there are is known only when no more come: the count that RabbitMQ gives lags behind.
    while (true) {
      const timeval quiet{3, 0};
      amqp_envelope_t envelope;
      const amqp_rpc_reply_t reply = amqp_consume_message(raw.state(), &envelope, &quiet, 0);
      if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT) return;
      if (reply.reply_type != AMQP_RESPONSE_NORMAL) throw std::runtime_error{"reading " + channel + " failed"};
      look({static_cast<const char*>(envelope.message.body.bytes), envelope.message.body.len});
      amqp_destroy_envelope(&envelope);
      amqp_maybe_release_buffers(raw.state());
    }
  }

  void remove(const std::string& channel) override {
    insist([&] { support::RawAmqp{straight_}.remove(channel); });
  }
  void fill(const std::string& /*channel*/, bool full) override {
    control(full ? "set_disk_free_limit 900000GB" : "set_disk_free_limit 50MB");
  }
  void alarm(bool on) override {
    control(on ? "set_vm_memory_high_watermark absolute 1MB" : "set_vm_memory_high_watermark 0.6");
  }
  void forbid(const std::string& /*channel*/, bool on) override {
    control(on ? "set_permissions -p / guest '.*' '^$' '.*'" : "set_permissions -p / guest '.*' '.*' '.*'");
  }
  [[nodiscard]] std::size_t too_large() const override { return (std::size_t{128} << 20U) + 1; }

 private:
  void control(const std::string& command) const {
    shell("HOME='" + server_.state("data") + "' ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=" + server_.state("epmd") +
          " LANG=C.UTF-8 RABBITMQ_CONF_ENV_FILE='" + server_.state("data") + "/env' /usr/lib/rabbitmq/bin/rabbitmqctl -n " +
          server_.state("node") + " " + command);
  }

  Server server_{"rabbitmq"};
  std::uint16_t wire_;
  std::string straight_;
};

}  // namespace

std::unique_ptr<Backend> make_rabbitmq(std::uint16_t wire) { return std::make_unique<Rabbitmq>(wire); }

}  // namespace penstock::truth
