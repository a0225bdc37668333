// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>

#include "contract/contract.hpp"
#include "penstock/conduit.hpp"
#include "support/kafka.hpp"
#include "support/services.hpp"

namespace penstock::contract {
namespace {

/// A real broker, as scripts/services runs it.
class ConduitBackend final : public Backend {
 public:
  ~ConduitBackend() override {
    if (!up_) start_broker();
  }
  ConduitBackend() = default;
  ConduitBackend(const ConduitBackend&) = delete;
  ConduitBackend& operator=(const ConduitBackend&) = delete;

  void declare(const std::string& channel, int partitions) override {
    conduit_.declare({.name = channel, .partitions = partitions});
  }
  void remove(const std::string& channel) noexcept override {
    try {
      support::delete_topic(servers_, channel);
    } catch (...) {  // NOLINT(bugprone-empty-catch): a topic that stays does no harm
    }
  }
  Channel channel(const std::string& channel) override { return conduit_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) override {
    static_cast<void>(prefetch);
    return conduit_.source(channel, {.revoke_timeout = 200ms});
  }
  void put_raw(const std::string& channel, const Wire& wire) override { support::put(servers_, channel, wire); }
  [[nodiscard]] std::size_t too_large() const override { return 1'100'000; }
  [[nodiscard]] std::size_t fits() const override { return 990'000; }  // message.max.bytes: 1,000,000
  void stop_broker() override {
    up_ = false;
    support::services("kill", "kafka");
  }
  void start_broker() override {
    support::services("restart", "kafka");
    up_ = true;
  }

 private:
  std::string servers_ = support::address("PENSTOCK_KAFKA");
  bool up_ = true;
  Conduit conduit_{
      {.bootstrap_servers = servers_, .properties = {{"session.timeout.ms", "6000"}, {"heartbeat.interval.ms", "500"}}}};
};

std::unique_ptr<Backend> make() { return std::make_unique<ConduitBackend>(); }

PENSTOCK_CONTRACT(Conduit, kConduit, make);

}  // namespace
}  // namespace penstock::contract
