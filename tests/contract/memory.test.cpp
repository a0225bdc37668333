// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>

#include "contract/contract.hpp"
#include "penstock/testing/memory_broker.hpp"

namespace penstock::contract {
namespace {

class MemoryBackend final : public Backend {
 public:
  void declare(const std::string& channel, int partitions) override { broker_.declare(channel, partitions); }
  Channel channel(const std::string& channel) override { return broker_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) override {
    return broker_.source(channel, {.prefetch = prefetch});
  }
  void put_raw(const std::string& channel, const Wire& wire) override { broker_.put(channel, wire); }
  [[nodiscard]] std::size_t too_large() const override { return (std::size_t{1} << 20U) + 1; }
  void stop_broker() override { broker_.set_down(true); }
  void start_broker() override { broker_.set_down(false); }

 private:
  testing::MemoryBroker broker_;
};

std::unique_ptr<Backend> make() { return std::make_unique<MemoryBackend>(); }

PENSTOCK_CONTRACT(Memory, kMemory, make);

}  // namespace
}  // namespace penstock::contract
