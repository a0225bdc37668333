// SPDX-License-Identifier: Apache-2.0
#include "penstock/beacon.hpp"

#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "beacon/declare.hpp"
#include "beacon/names.hpp"
#include "beacon/partitions.hpp"
#include "beacon/servers.hpp"
#include "beacon/session.hpp"
#include "beacon/source.hpp"

namespace penstock {
namespace {

class StreamPublisher final : public Publisher {
 public:
  StreamPublisher(std::shared_ptr<beacon::Session> session, const std::string& channel, int partitions, std::size_t window)
      : session_{std::move(session)}, window_{std::make_shared<beacon::Window>()} {
    window_->channel = channel;
    window_->partitions = partitions;
    window_->subjects = beacon::subjects_of(channel, partitions);
    window_->stream = beacon::stream_of(channel);
    window_->limit = window;
  }
  ~StreamPublisher() override { session_->ledger().settle_all(*window_); }

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds timeout) override {
    return session_->submit(window_, events, timeout);
  }

 private:
  const std::shared_ptr<beacon::Session> session_;
  const std::shared_ptr<beacon::Window> window_;
};

}  // namespace

class Beacon::Impl {
 public:
  explicit Impl(BeaconOptions options)
      : servers_{beacon::servers_of(options)},
        options_{std::move(options)},
        session_{std::make_shared<beacon::Session>(servers_, options_.logger)} {
    if (options_.window == 0) throw std::invalid_argument{"Beacon: window must be at least 1"};
    options_.url.clear();  // it holds a password
    if (!options_.prefix.empty()) static_cast<void>(beacon::subject_of(options_.prefix + 'x'));
  }

  void declare(const StreamSpec& stream, std::chrono::milliseconds timeout) const {
    StreamSpec prefixed = stream;
    prefixed.name = subject(stream.name);
    for (std::string& each : prefixed.subjects) each.insert(0, options_.prefix);
    beacon::declare_stream(servers_, prefixed, timeout, options_.logger);
  }

  std::shared_ptr<Publisher> publisher(const std::string& channel, int partitions) {
    const std::lock_guard lock{mutex_};
    const std::string prefixed = subject(channel);
    beacon::check_partitions(partitions, prefixed);
    auto& known = publishers_[{prefixed, partitions}];
    auto publisher = known.lock();
    if (!publisher) known = publisher = std::make_shared<StreamPublisher>(session_, prefixed, partitions, options_.window);
    return publisher;
  }

  std::unique_ptr<Source> source(const std::string& channel, const BeaconSourceOptions& options) const {
    return beacon::make_source(servers_, options_.prefix, channel, options, options_.logger);
  }

 private:
  [[nodiscard]] std::string subject(const std::string& channel) const {
    static_cast<void>(beacon::subject_of(channel));  // a prefix must not make a name of nothing
    return beacon::subject_of(options_.prefix + channel);
  }

  const beacon::Servers servers_;
  BeaconOptions options_;
  const std::shared_ptr<beacon::Session> session_;
  std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::weak_ptr<Publisher>> publishers_;  // by name and partitions
};

Beacon::Beacon(BeaconOptions options) : impl_{std::make_shared<Impl>(std::move(options))} {}
Beacon::~Beacon() = default;
Beacon::Beacon(Beacon&&) noexcept = default;
Beacon& Beacon::operator=(Beacon&&) noexcept = default;

void Beacon::declare(const StreamSpec& stream, std::chrono::milliseconds timeout) { impl_->declare(stream, timeout); }

Channel Beacon::channel(const std::string& stream, int partitions) {
  return {"nats", stream, impl_->publisher(stream, partitions)};
}

std::unique_ptr<Source> Beacon::source(const std::string& stream, BeaconSourceOptions options) {
  return impl_->source(stream, options);
}

}  // namespace penstock
