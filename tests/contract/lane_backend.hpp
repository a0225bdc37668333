// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/lane.hpp"
#include "support/raw_amqp.hpp"
#include "support/services.hpp"

namespace penstock::contract {

/// RabbitMQ, with queues of one kind.
template <QueueSpec::Kind kind>
class LaneBackend final : public Backend {
 public:
  ~LaneBackend() override {
    if (down_) start_broker();
  }

  void declare(const std::string& channel, int /*partitions*/) override { lane_.declare({.name = channel, .kind = kind}); }
  void declare_quickly(const std::string& channel, int partitions) override {
    support::RawAmqp{url_}.declare_as_lane(channel, kind == QueueSpec::Kind::quorum);
    declare(channel, partitions);
  }
  void remove(const std::string& channel) noexcept override {
    try {
      support::RawAmqp{url_}.remove(channel);
    } catch (const std::exception&) {  // it is gone, or its name is unique anyway
    }
  }

  Channel channel(const std::string& channel) override { return lane_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) override {
    return lane_.source(channel, {.prefetch = static_cast<std::uint16_t>(std::min<std::size_t>(prefetch, 65'535))});
  }

  void put_raw(const std::string& channel, const Wire& wire) override {
    std::vector<amqp_table_entry_t> headers;
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    for (const Header& header : wire.headers) {
      const std::string_view value = header.value ? std::string_view{*header.value} : std::string_view{};
      if (header.name == "content-type") {
        properties.content_type = support::RawAmqp::bytes(value);
        properties._flags |= AMQP_BASIC_CONTENT_TYPE_FLAG;
        continue;
      }
      amqp_table_entry_t entry{};
      entry.key = support::RawAmqp::bytes(header.name);
      entry.value.kind = header.value ? AMQP_FIELD_KIND_UTF8 : AMQP_FIELD_KIND_VOID;
      entry.value.value.bytes = support::RawAmqp::bytes(value);
      headers.push_back(entry);
    }
    properties.headers = amqp_table_t{static_cast<int>(headers.size()), headers.data()};
    support::RawAmqp{url_}.publish(channel, properties, wire.payload.value_or(""));
  }

  /// RabbitMQ 3's limit; 4 takes an eighth of it.
  [[nodiscard]] std::size_t too_large() const override { return (std::size_t{128} << 20U) + 1; }
  [[nodiscard]] std::size_t fits() const override { return std::size_t{1} << 20U; }

  void stop_broker() override {
    support::services("kill", "rabbitmq");
    down_ = true;
  }
  void start_broker() override {
    support::services("restart", "rabbitmq");
    down_ = false;
  }

 private:
  std::string url_ = support::address("PENSTOCK_AMQP_URL");
  Lane lane_{{.url = url_}};
  bool down_ = false;
};

}  // namespace penstock::contract
