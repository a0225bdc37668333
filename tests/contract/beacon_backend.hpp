// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "contract/contract.hpp"
#include "penstock/beacon.hpp"
#include "support/services.hpp"

namespace penstock::contract {

/// nats.c alone, for what a Beacon does not do.
class Nats {
 public:
  Nats() {
    check(natsConnection_ConnectTo(&connection_, support::address("PENSTOCK_NATS_URL").c_str()));
    check(natsConnection_JetStream(&js_, connection_, nullptr));
  }
  ~Nats() {
    jsCtx_Destroy(js_);
    natsConnection_Destroy(connection_);
  }
  Nats(const Nats&) = delete;
  Nats& operator=(const Nats&) = delete;

  void remove(const std::string& stream) const { js_DeleteStream(js_, stream.c_str(), nullptr, nullptr); }

  void put(const std::string& subject, const Wire& wire) const {
    natsMsg* message = nullptr;
    const auto* data = wire.payload ? wire.payload->data() : nullptr;
    check(natsMsg_Create(&message, subject.c_str(), nullptr, data, wire.payload ? static_cast<int>(wire.payload->size()) : 0));
    for (const auto& header : wire.headers)
      check(natsMsgHeader_Add(message, header.name.c_str(), header.value.value_or("").c_str()));
    const auto status = js_PublishMsg(nullptr, js_, message, nullptr, nullptr);
    natsMsg_Destroy(message);
    check(status);
  }

  [[nodiscard]] bool ready() const {
    jsAccountInfo* info = nullptr;
    const bool answered = js_GetAccountInfo(&info, js_, nullptr, nullptr) == NATS_OK;
    jsAccountInfo_Destroy(info);
    return answered;
  }

 private:
  static void check(natsStatus status) {
    if (status != NATS_OK) throw std::runtime_error{std::string{"nats.c: "} + natsStatus_GetText(status)};
  }
  natsConnection* connection_ = nullptr;
  jsCtx* js_ = nullptr;
};

/// nats-server, with streams that have partitions or none.
template <bool partitioned>
class BeaconBackend final : public Backend {
 public:
  ~BeaconBackend() override {
    if (stopped_) start_broker();
  }

  void declare(const std::string& channel, int partitions) override {
    if (partitioned) partitions_[channel] = partitions;
    beacon_.declare({.name = channel, .partitions = of(channel)});
  }
  void remove(const std::string& channel) noexcept override {
    try {
      Nats{}.remove(channel);
    } catch (const std::exception&) {  // the server's folder goes with it
    }
  }
  Channel channel(const std::string& channel) override { return beacon_.channel(channel, of(channel)); }
  std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) override {
    return beacon_.source(channel, {.partitions = of(channel), .max_ack_pending = static_cast<int>(prefetch), .ack_wait = 3s});
  }
  void put_raw(const std::string& channel, const Wire& wire) override {
    Nats{}.put(partitioned ? channel + ".0" : channel, wire);
  }
  [[nodiscard]] std::size_t too_large() const override { return (std::size_t{1} << 20U) + 1; }  // max_payload: 1 MiB

  void stop_broker() override {
    support::services("kill", "nats");
    stopped_ = true;
  }
  void start_broker() override {
    support::services("restart", "nats");
    stopped_ = false;
    const auto answers = [] {
      try {
        return Nats{}.ready();
      } catch (const std::exception&) {
        return false;
      }
    };
    if (!eventually(answers)) throw std::runtime_error{"nats-server does not come back"};
  }

 private:
  /// Of a channel that nobody declared: some number.
  int of(const std::string& channel) {
    if (!partitioned) return 0;
    return partitions_.try_emplace(channel, 2).first->second;
  }

  std::map<std::string, int> partitions_;
  Beacon beacon_{{.url = support::address("PENSTOCK_NATS_URL")}};
  bool stopped_ = false;
};

}  // namespace penstock::contract
