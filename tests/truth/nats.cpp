// SPDX-License-Identifier: Apache-2.0
#include <nats/nats.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <thread>

#include "penstock/beacon.hpp"
#include "truth/backend.hpp"

namespace penstock::truth {
namespace {

using namespace std::chrono_literals;

/// nats.c and nothing else.
class Raw {
 public:
  explicit Raw(const std::string& url) {
    check(natsConnection_ConnectTo(&connection_, url.c_str()), "connect");
    check(natsConnection_JetStream(&js_, connection_, nullptr), "JetStream");
  }
  ~Raw() {
    jsCtx_Destroy(js_);
    natsConnection_Destroy(connection_);
  }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;
  [[nodiscard]] jsCtx* js() const { return js_; }
  static void check(natsStatus status, const char* what) {
    if (status != NATS_OK) throw std::runtime_error{std::string{what} + ": " + natsStatus_GetText(status)};
  }

 private:
  natsConnection* connection_ = nullptr;
  jsCtx* js_ = nullptr;
};

class BeaconClient final : public Client {
 public:
  explicit BeaconClient(const std::string& url) : beacon_{{.url = url, .logger = client_log()}} {}
  void declare(const std::string& channel) override { beacon_.declare({.name = channel}); }
  Channel channel(const std::string& channel) override { return beacon_.channel(channel); }
  std::unique_ptr<Source> source(const std::string& channel) override { return beacon_.source(channel, {.ack_wait = 5s}); }

 private:
  Beacon beacon_;
};

class Nats final : public Backend {
 public:
  explicit Nats(std::uint16_t wire)
      : through_{"nats://app:app@127.0.0.1:" + std::to_string(wire)},
        straight_{"nats://admin:admin@127.0.0.1:" + server_.state("port")} {}

  std::unique_ptr<Client> client() override { return std::make_unique<BeaconClient>(through_); }

  void read_back(const std::string& channel, const std::function<void(std::string_view)>& look) override {
    const Raw raw{straight_};
    jsStreamInfo* info = nullptr;
    Raw::check(js_GetStreamInfo(&info, raw.js(), channel.c_str(), nullptr, nullptr), "stream");
    const std::uint64_t total = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    natsSubscription* subscription = nullptr;
    jsSubOptions options;
    jsSubOptions_Init(&options);
    options.Stream = channel.c_str();
    options.Config.AckPolicy = js_AckNone;
    Raw::check(js_PullSubscribe(&subscription, raw.js(), channel.c_str(), nullptr, nullptr, &options, nullptr), "subscribe");
    const std::unique_ptr<natsSubscription, void (*)(natsSubscription*)> owner{subscription, &natsSubscription_Destroy};
    std::uint64_t seen = 0;
    for (int empty = 0; seen < total;) {
      natsMsgList list{};
      const natsStatus status = natsSubscription_Fetch(&list, subscription, 500, 2'000, nullptr);
      if (status != NATS_OK && ++empty > 10) throw std::runtime_error{"reading " + channel + " ends early"};
      for (int i = 0; i < list.Count; ++i) {
        look({natsMsg_GetData(list.Msgs[i]), static_cast<std::size_t>(natsMsg_GetDataLength(list.Msgs[i]))});
        ++seen;
      }
      natsMsgList_Destroy(&list);
    }
  }

  void remove(const std::string& channel) override {
    insist([&] {
      const natsStatus status = js_DeleteStream(Raw{straight_}.js(), channel.c_str(), nullptr, nullptr);
      if (status != NATS_NOT_FOUND) Raw::check(status, "delete");
    });
  }
  /// The stream may grow no more, and keeps what it has.
  void fill(const std::string& channel, bool full) override {
    bool dropped = false;
    insist([&] {
      const Raw raw{straight_};
      const auto before = stream(raw, channel);
      std::this_thread::sleep_for(50ms);
      const auto info = stream(raw, channel);
      // A limit below what is there drops the oldest, whatever the stream does with new ones; so it is set ahead of what comes.
      // And it counts messages: one in bytes is weighed without what each costs beside, and then the oldest go, too.
      const auto now = static_cast<std::int64_t>(info->State.Msgs);
      const auto grown = std::max<std::int64_t>(0, now - static_cast<std::int64_t>(before->State.Msgs));
      info->Config->MaxMsgs = full ? now + 4 * grown + 4'000 : -1;  // two windows, and what a slow moment brings
      info->Config->Discard = full ? js_DiscardNew : js_DiscardOld;
      const std::uint64_t oldest = info->State.FirstSeq;
      Raw::check(js_UpdateStream(nullptr, raw.js(), info->Config, nullptr, nullptr), "update");
      dropped = stream(raw, channel)->State.FirstSeq != oldest;
    });
    if (dropped) throw std::logic_error{"the limit dropped what was stored, which is this test's own doing"};
  }
  void alarm(bool /*on*/) override { throw std::logic_error{"nats-server has no alarm"}; }
  void forbid(const std::string& channel, bool on) override {
    std::ofstream{folder() + "/nats.more"} << "authorization { users = [ {user: admin, password: admin},\n"
                                           << "  {user: app, password: app"
                                           << (on ? ", permissions: {publish: {deny: [\"" + channel + "\"]}}" : std::string{})
                                           << "} ] }\n";
    ::kill(static_cast<pid_t>(std::stol(server_.state("pid"))), SIGHUP);
    std::this_thread::sleep_for(100ms);  // it tells nobody when it has read it
    if (on) return;
    // nats-server 2.9 has no JetStream API any more for who was there before it read its settings again (publishing goes on),
    // so connections see permissions come and go, and then it is started anew.
    std::this_thread::sleep_for(400ms);
    server_.stop();
    server_.start();
  }
  [[nodiscard]] std::size_t too_large() const override { return (std::size_t{1} << 20U) + 1; }
  [[nodiscard]] bool deduplicates() const override { return true; }

 private:
  using StreamInfo = std::unique_ptr<jsStreamInfo, void (*)(jsStreamInfo*)>;
  static StreamInfo stream(const Raw& raw, const std::string& channel) {
    jsStreamInfo* info = nullptr;
    Raw::check(js_GetStreamInfo(&info, raw.js(), channel.c_str(), nullptr, nullptr), "stream");
    return {info, &jsStreamInfo_Destroy};
  }

  Server server_{"nats"};
  std::string through_;
  std::string straight_;
};

}  // namespace

std::unique_ptr<Backend> make_nats(std::uint16_t wire) { return std::make_unique<Nats>(wire); }

}  // namespace penstock::truth
