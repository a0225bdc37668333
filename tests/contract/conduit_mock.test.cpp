// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <set>
#include <string>

#include "contract/contract.hpp"
#include "penstock/conduit.hpp"
#include "support/kafka.hpp"

namespace penstock::contract {
namespace {

/// librdkafka's cluster inside the process: no server, no Java, and not quite Kafka.
class MockBackend final : public Backend {
 public:
  void declare(const std::string& channel, int partitions) override {
    cluster_.create(channel, partitions);
    declared_.insert(channel);
  }
  Channel channel(const std::string& channel) override {
    // The cluster makes topics up as they are asked for, if it is not told.
    if (!declared_.contains(channel)) {
      rd_kafka_mock_topic_set_error(cluster_.get(), channel.c_str(), RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    }
    return conduit_.channel(channel);
  }
  std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) override {
    static_cast<void>(prefetch);
    return conduit_.source(channel, {.revoke_timeout = 200ms});
  }
  void put_raw(const std::string& channel, const Wire& wire) override { support::put(cluster_.servers(), channel, wire); }
  [[nodiscard]] std::size_t too_large() const override { return 1'100'000; }
  [[nodiscard]] std::size_t fits() const override { return 990'000; }  // message.max.bytes: 1,000,000
  void stop_broker() override { cluster_.down(); }
  void start_broker() override { cluster_.up(); }

 private:
  std::set<std::string> declared_;
  support::MockCluster cluster_;
  Conduit conduit_{{.bootstrap_servers = cluster_.servers(),
                    .properties = {{"session.timeout.ms", "6000"}, {"heartbeat.interval.ms", "500"}}}};
};

std::unique_ptr<Backend> make() { return std::make_unique<MockBackend>(); }

PENSTOCK_CONTRACT(ConduitMock, kConduit, make);

}  // namespace
}  // namespace penstock::contract
