// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "penstock/conduit.hpp"
#include "support/kafka.hpp"
#include "truth/backend.hpp"

namespace penstock::truth {
namespace {

using namespace std::chrono_literals;

constexpr int partitions = 4;

class ConduitClient final : public Client {
 public:
  explicit ConduitClient(std::uint16_t port)
      : conduit_{{.bootstrap_servers = "127.0.0.1:" + std::to_string(port),
                  .properties = {{"session.timeout.ms", "6000"}},
                  .logger = client_log()}} {}
  void declare(const std::string& channel) override { conduit_.declare({.name = channel, .partitions = partitions}); }
  Channel channel(const std::string& channel) override { return conduit_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel) override { return conduit_.source(channel); }

 private:
  Conduit conduit_;
};

class Kafka final : public Backend {
 public:
  explicit Kafka(std::uint16_t wire) : wire_{wire}, straight_{"127.0.0.1:" + server_.state("port")} {}

  std::unique_ptr<Client> client() override { return std::make_unique<ConduitClient>(wire_); }

  void read_back(const std::string& channel, const std::function<void(std::string_view)>& look) override {
    const support::RawClient consumer{RD_KAFKA_CONSUMER,
                                      {{"bootstrap.servers", straight_},
                                       {"group.id", "read-back"},
                                       {"enable.auto.commit", "false"},
                                       {"enable.partition.eof", "true"},
                                       {"auto.offset.reset", "earliest"}}};
    rd_kafka_topic_partition_list_t* list = rd_kafka_topic_partition_list_new(partitions);
    for (int i = 0; i < partitions; ++i) rd_kafka_topic_partition_list_add(list, channel.c_str(), i)->offset = 0;
    rd_kafka_assign(consumer.get(), list);
    rd_kafka_topic_partition_list_destroy(list);
    auto last = std::chrono::steady_clock::now();
    for (int ends = 0; ends < partitions;) {
      if (std::chrono::steady_clock::now() - last > 30s) throw std::runtime_error{"reading " + channel + " takes too long"};
      rd_kafka_message_t* message = rd_kafka_consumer_poll(consumer.get(), 100);
      if (message == nullptr) continue;
      if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        ++ends;
      } else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        look({static_cast<const char*>(message->payload), message->len});
        last = std::chrono::steady_clock::now();
      }
      rd_kafka_message_destroy(message);
    }
    rd_kafka_consumer_close(consumer.get());
  }

  void remove(const std::string& channel) override {
    insist([&] {
      support::delete_topic(straight_, channel);
      const support::RawClient client{RD_KAFKA_PRODUCER, {{"bootstrap.servers", straight_}}};
      rd_kafka_topic_t* topic = rd_kafka_topic_new(client.get(), channel.c_str(), nullptr);
      const rd_kafka_metadata_t* found = nullptr;
      const auto error = rd_kafka_metadata(client.get(), 0, topic, &found, 5'000);
      const bool gone = error == RD_KAFKA_RESP_ERR_NO_ERROR && found->topics[0].err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
      if (error == RD_KAFKA_RESP_ERR_NO_ERROR) rd_kafka_metadata_destroy(found);
      rd_kafka_topic_destroy(topic);
      if (!gone) throw std::runtime_error{"it is still there"};
    });
    // A client that does not notice in between reads the next topic from where it was in this one (docs/conduit.md).
    std::this_thread::sleep_for(2s);
  }
  void fill(const std::string& /*channel*/, bool /*full*/) override { throw std::logic_error{"Kafka has no limit for a disk"}; }
  void alarm(bool /*on*/) override { throw std::logic_error{"Kafka has no alarm"}; }

  void forbid(const std::string& channel, bool on) override {
    insist([&] {
      const support::RawClient client{RD_KAFKA_PRODUCER, {{"bootstrap.servers", straight_}}};
      const std::unique_ptr<rd_kafka_queue_t, void (*)(rd_kafka_queue_t*)> queue{rd_kafka_queue_new(client.get()),
                                                                                 &rd_kafka_queue_destroy};
      std::array<char, 256> reason{};
      if (on) {
        rd_kafka_AclBinding_t* acl = rd_kafka_AclBinding_new(
            RD_KAFKA_RESOURCE_TOPIC, channel.c_str(), RD_KAFKA_RESOURCE_PATTERN_LITERAL, "User:ANONYMOUS", "*",
            RD_KAFKA_ACL_OPERATION_WRITE, RD_KAFKA_ACL_PERMISSION_TYPE_DENY, reason.data(), reason.size());
        rd_kafka_CreateAcls(client.get(), &acl, 1, nullptr, queue.get());
        rd_kafka_AclBinding_destroy(acl);
      } else {
        rd_kafka_AclBindingFilter_t* filter = rd_kafka_AclBindingFilter_new(
            RD_KAFKA_RESOURCE_TOPIC, channel.c_str(), RD_KAFKA_RESOURCE_PATTERN_LITERAL, nullptr, nullptr,
            RD_KAFKA_ACL_OPERATION_ANY, RD_KAFKA_ACL_PERMISSION_TYPE_ANY, reason.data(), reason.size());
        rd_kafka_DeleteAcls(client.get(), &filter, 1, nullptr, queue.get());
        rd_kafka_AclBinding_destroy(filter);
      }
      rd_kafka_event_t* event = rd_kafka_queue_poll(queue.get(), 10'000);
      const auto error = event == nullptr ? RD_KAFKA_RESP_ERR__TIMED_OUT : rd_kafka_event_error(event);
      std::string first;
      if (event != nullptr && on) {
        std::size_t count = 0;
        const auto** results = rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(event), &count);
        if (count == 1 && rd_kafka_acl_result_error(results[0]) != nullptr) {
          first = rd_kafka_error_string(rd_kafka_acl_result_error(results[0]));
        }
      }
      if (event != nullptr) rd_kafka_event_destroy(event);
      if (error != RD_KAFKA_RESP_ERR_NO_ERROR || !first.empty()) {
        throw std::runtime_error{"the ACL: " + first + rd_kafka_err2str(error)};
      }
    });
  }
  [[nodiscard]] std::size_t too_large() const override { return std::size_t{2} << 20U; }

 private:
  Server server_{"kafka"};
  std::uint16_t wire_;
  std::string straight_;
};

}  // namespace

std::unique_ptr<Backend> make_kafka(std::uint16_t wire) { return std::make_unique<Kafka>(wire); }

}  // namespace penstock::truth
