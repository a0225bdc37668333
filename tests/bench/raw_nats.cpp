// SPDX-License-Identifier: Apache-2.0
#include <nats/nats.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>

#include "harness.hpp"
#include "payload.hpp"
#include "raw.hpp"

namespace penstock::bench {
namespace {

void check(natsStatus status, const std::string& what) {
  if (status == NATS_OK) return;
  throw std::runtime_error{"nats: " + what + ": " + natsStatus_GetText(status) + ": " + nats_GetLastError(nullptr)};
}

template <class T, void (*Destroy)(T*)>
class Owned {
 public:
  Owned() = default;
  ~Owned() { Destroy(pointer_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T** out() { return &pointer_; }
  [[nodiscard]] T* get() const { return pointer_; }

 private:
  T* pointer_ = nullptr;
};

using Connection = Owned<natsConnection, natsConnection_Destroy>;
using Context = Owned<jsCtx, jsCtx_Destroy>;

void on_error(jsCtx* /*context*/, jsPubAckErr* /*error*/, void* closure) { ++*static_cast<std::atomic<std::size_t>*>(closure); }

class NatsPublisher final : public RawPublisher {
 public:
  NatsPublisher(const std::string& url, std::string stream, std::size_t window) : stream_{std::move(stream)} {
    check(natsConnection_ConnectTo(connection_.out(), url.c_str()), "connect");
    jsOptions options{};
    check(jsOptions_Init(&options), "options");
    options.PublishAsync.MaxPending = static_cast<std::int64_t>(window);
    options.PublishAsync.StallWait = 60'000;
    options.PublishAsync.ErrHandler = &on_error;
    options.PublishAsync.ErrHandlerClosure = &errors_;
    check(natsConnection_JetStream(context_.out(), connection_.get(), &options), "context");
  }

  void publish(std::size_t first, std::size_t count) override {
    for (std::size_t i = first; i < first + count; ++i) send(i);
    jsPubOptions options{};
    check(jsPubOptions_Init(&options), "options");
    options.MaxWait = 60'000;
    check(js_PublishAsyncComplete(context_.get(), &options), "acks");
    if (errors_ != 0) throw std::runtime_error{"nats: " + std::to_string(errors_) + " publishes failed"};
  }

 private:
  void send(std::size_t i) {
    const std::string id = id_of(i);
    const std::string payload = payload_of(i);
    natsMsg* message = nullptr;
    check(natsMsg_Create(&message, stream_.c_str(), nullptr, payload.data(), static_cast<int>(payload.size())), "message");
    const auto add = [&](const char* name, const std::string& value) { natsMsgHeader_Set(message, name, value.c_str()); };
    add("ce-specversion", "1.0");
    add("ce-id", id);
    add("ce-source", kSource);
    add("ce-type", kType);
    add("ce-time", kTime);
    add("ce-partitionkey", key_of(i));
    add("ce-datacontenttype", kContentType);
    jsPubOptions options{};
    jsPubOptions_Init(&options);
    options.MsgId = id.c_str();
    options.MaxWait = 60'000;
    const natsStatus status = js_PublishMsgAsync(context_.get(), &message, &options);
    natsMsg_Destroy(message);
    check(status, "publish");
  }

  std::string stream_;
  std::atomic<std::size_t> errors_ = 0;
  Connection connection_;
  Context context_;
};

class Nats final : public RawBroker {
 public:
  Nats(std::string url, std::size_t window, int fetch) : url_{std::move(url)}, window_{window}, fetch_{fetch} {
    check(natsConnection_ConnectTo(connection_.out(), url_.c_str()), "connect");
    check(natsConnection_JetStream(context_.out(), connection_.get(), nullptr), "context");
  }

  void create(const std::string& name) override {
    jsStreamConfig config{};
    check(jsStreamConfig_Init(&config), "stream");
    const char* subject = name.c_str();
    config.Name = name.c_str();
    config.Subjects = &subject;
    config.SubjectsLen = 1;
    config.Storage = js_FileStorage;
    check(js_AddStream(nullptr, context_.get(), &config, nullptr, nullptr), "add stream " + name);
  }

  void remove(const std::string& name) override {
    check(js_DeleteStream(context_.get(), name.c_str(), nullptr, nullptr), "delete stream " + name);
  }

  std::size_t stored(const std::string& name) override {
    Owned<jsStreamInfo, jsStreamInfo_Destroy> info;
    check(js_GetStreamInfo(info.out(), context_.get(), name.c_str(), nullptr, nullptr), "stream info " + name);
    return static_cast<std::size_t>(info.get()->State.Msgs);
  }

  std::unique_ptr<RawPublisher> publisher(const std::string& name) override {
    return std::make_unique<NatsPublisher>(url_, name, window_);
  }

  double consume(const std::string& name, const std::string& group, std::size_t count) override {
    Owned<natsSubscription, natsSubscription_Destroy> subscription;
    jsSubOptions options{};
    check(jsSubOptions_Init(&options), "options");
    options.Config.MaxAckPending = fetch_;
    check(js_PullSubscribe(subscription.out(), context_.get(), name.c_str(), group.c_str(), nullptr, &options, nullptr),
          "pull subscribe " + name);
    std::optional<Stopwatch> watch;
    for (std::size_t seen = 0; seen < count;) {
      natsMsgList list{};
      check(natsSubscription_Fetch(&list, subscription.get(), fetch_, 30'000, nullptr), "fetch");
      if (!watch) watch.emplace();
      for (int i = 0; i < list.Count; ++i) check(natsMsg_Ack(list.Msgs[i], nullptr), "ack");
      seen += static_cast<std::size_t>(list.Count);
      natsMsgList_Destroy(&list);
    }
    const double seconds = watch->seconds();
    check(natsConnection_Flush(connection_.get()), "flush");
    return seconds;
  }

  std::size_t unsettled(const std::string& name, const std::string& group) override {
    Owned<jsConsumerInfo, jsConsumerInfo_Destroy> info;
    check(js_GetConsumerInfo(info.out(), context_.get(), name.c_str(), group.c_str(), nullptr, nullptr), "consumer info");
    return static_cast<std::size_t>(info.get()->NumPending) + static_cast<std::size_t>(info.get()->NumAckPending);
  }

 private:
  std::string url_;
  std::size_t window_;
  int fetch_;
  Connection connection_;
  Context context_;
};

}  // namespace

std::unique_ptr<RawBroker> raw_nats(const std::string& url, std::size_t window, int fetch) {
  return std::make_unique<Nats>(url, window, fetch);
}

}  // namespace penstock::bench
