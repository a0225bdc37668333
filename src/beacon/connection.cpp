// SPDX-License-Identifier: Apache-2.0
#include "beacon/connection.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "core/tls.hpp"
#include "penstock/random.hpp"

namespace penstock::beacon {
namespace {

constexpr milliseconds kWriteDeadline{5'000};
constexpr milliseconds kPingInterval{10'000};
constexpr int kPingsOut = 2;
constexpr std::chrono::seconds kQuiet{10};

/// The client library may call back after a connection has been destroyed, and does not say when the last call was. So it is
/// given a number, never a pointer.
class Listeners {
 public:
  static Listeners& instance() {
    static auto* const listeners = new Listeners;  // never freed: those threads may outlive main
    return *listeners;
  }
  struct Entry {
    std::weak_ptr<Listener> listener{};
    std::shared_ptr<std::atomic<bool>> ended{};
  };
  std::uintptr_t add(Entry entry) {
    const std::lock_guard lock{mutex_};
    by_number_.emplace(++last_, std::move(entry));
    return last_;
  }
  void remove(std::uintptr_t number) {
    const std::lock_guard lock{mutex_};
    by_number_.erase(number);
  }
  std::shared_ptr<Listener> find(void* closure) {
    const std::lock_guard lock{mutex_};
    const auto found = by_number_.find(reinterpret_cast<std::uintptr_t>(closure));
    return found == by_number_.end() ? nullptr : found->second.listener.lock();
  }
  void end(void* closure) {
    const std::lock_guard lock{mutex_};
    const auto found = by_number_.find(reinterpret_cast<std::uintptr_t>(closure));
    if (found != by_number_.end()) found->second.ended->store(true);
  }

 private:
  std::mutex mutex_;
  std::uintptr_t last_ = 0;
  std::map<std::uintptr_t, Entry> by_number_;
};

// NOLINTNEXTLINE(performance-no-int-to-ptr): it is never used as a pointer
void* closure(std::uintptr_t number) { return reinterpret_cast<void*>(number); }

void message_arrived(natsConnection* /*connection*/, natsSubscription* /*subscription*/, natsMsg* message, void* number) {
  const MessageHandle handle{message};
  try {
    if (const auto listener = Listeners::instance().find(number)) listener->on_message(message);
  } catch (...) {  // a C library's thread; what is lost here is found by its deadline
  }
}

void error_occurred(natsConnection* /*connection*/, natsSubscription* /*subscription*/, natsStatus status, void* number) {
  try {
    if (const auto listener = Listeners::instance().find(number)) listener->on_error(last_error(status));
  } catch (...) {
  }
}

void connection_closed(natsConnection* /*connection*/, void* number) {
  try {
    Listeners::instance().end(number);
    if (const auto listener = Listeners::instance().find(number)) listener->on_closed();
  } catch (...) {
  }
}

void check(natsStatus status, const char* what) {
  if (status != NATS_OK) throw std::runtime_error{std::string{what} + ": " + last_error(status)};
}

void log_in(natsOptions* options, const Servers& servers) {
  if (!servers.user.empty()) {
    check(natsOptions_SetUserInfo(options, servers.user.c_str(), servers.password.reveal().c_str()), "user and password");
  } else if (!servers.token.empty()) {
    check(natsOptions_SetToken(options, servers.token.reveal().c_str()), "token");
  } else if (!servers.credentials_file.empty()) {
    check(natsOptions_SetUserCredentialsFromFiles(options, servers.credentials_file.c_str(), nullptr),
          "BeaconOptions::credentials_file");
  } else if (!servers.nkey.empty()) {
    check(natsOptions_SetNKeyFromSeed(options, servers.nkey.c_str(), servers.nkey_seed_file.c_str()), "BeaconOptions::nkey");
  }
}

void encrypt(natsOptions* options, const TlsOptions& tls, const std::string& host) {
  check(natsOptions_SetSecure(options, true), "TLS");
  if (!tls.ca_file.empty()) {
    check(natsOptions_LoadCATrustedCertificates(options, tls.ca_file.c_str()), "BeaconOptions::tls.ca_file");
  }
  if (!tls.certificate_file.empty()) {
    check(natsOptions_LoadCertificatesChain(options, tls.certificate_file.c_str(), tls.key_file.c_str()),
          "BeaconOptions::tls.certificate_file and key_file");
  }
  if (tls.verify) {
    check(natsOptions_SetExpectedHostname(options, host.c_str()), "BeaconOptions::tls.server_name");
  } else {
    check(natsOptions_SkipServerVerification(options, true), "BeaconOptions::tls.verify");
  }
}

}  // namespace

void Speech::say(LogLevel level, const std::string& text) noexcept {
  if (!logger_) return;
  try {
    logger_->log(level, "beacon: " + text);
  } catch (...) {
  }
}

void Speech::say_rarely(LogLevel level, const std::string& kind, const std::string& text) noexcept {
  if (!logger_) return;
  try {
    std::uint64_t omitted = 0;
    {
      const std::lock_guard lock{mutex_};
      auto& last = last_[kind];
      const auto now = SteadyClock::now();
      if (last.at != Instant{} && now - last.at < kQuiet) {
        ++last.omitted;
        return;
      }
      last.at = now;
      omitted = std::exchange(last.omitted, 0);
    }
    say(level, omitted == 0 ? text : text + " (" + std::to_string(omitted) + " more like it before)");
  } catch (...) {
  }
}

milliseconds Backoff::next() {
  const std::int64_t half = std::min<std::int64_t>(5'000, std::int64_t{50} << std::min(failures_++, 10)) / 2;
  return milliseconds{half + static_cast<std::int64_t>(static_cast<double>(half) * Random::system().unit())};
}

Connection::Connection(const Servers& servers, const std::vector<std::string>& announced,
                       const std::weak_ptr<Listener>& listener, milliseconds connect_timeout) {
  std::string why;
  // The client library verifies one name, whichever server it connects to. So each is tried alone where names matter. Those
  // that a server announced, by address as a rule, are of the first one's cluster and bear its name.
  struct Try {
    std::vector<std::string> urls{};
    std::string host{};
  };
  std::vector<Try> tries;
  if (servers.tls && servers.tls->verify && servers.tls->server_name.empty()) {
    for (std::size_t i = 0; i < servers.urls.size(); ++i) tries.push_back({{servers.urls[i]}, servers.hosts[i]});
    if (!announced.empty()) tries.push_back({announced, servers.hosts.front()});
    const auto first = static_cast<std::ptrdiff_t>(Random::system().unit() * static_cast<double>(tries.size()));
    std::rotate(tries.begin(), tries.begin() + std::min<std::ptrdiff_t>(first, std::ssize(tries) - 1), tries.end());
  } else {
    tries.push_back({servers.urls, servers.tls ? servers.tls->server_name : std::string{}});
    tries.back().urls.insert(tries.back().urls.end(), announced.begin(), announced.end());
  }
  // One signature in 256 that nats.c 3.4 makes is none (measured with keys, challenges and servers that were well): who logs in
  // by one asks for a second challenge before it counts.
  bool doubtful = !servers.credentials_file.empty() || !servers.nkey.empty();
  for (std::size_t i = 0; i < tries.size(); ++i) {
    const Try& each = tries[i];
    // Of a try that failed the client library may have something to say later, which is not of this one.
    ended_ = std::make_shared<std::atomic<bool>>(false);
    listener_ = Listeners::instance().add({listener, ended_});
    try {
      const natsStatus status = dial(servers, each.urls, each.host, connect_timeout);
      if (status == NATS_OK) return;
      why = tls::explained(last_error(status), "BeaconOptions::tls");
      if (status == NATS_CONNECTION_AUTH_FAILED && std::exchange(doubtful, false)) --i;
    } catch (const std::exception& failure) {
      why = failure.what();
    }
    Listeners::instance().remove(listener_);
  }
  throw std::runtime_error{"cannot connect to " + servers.label + ": " + why};
}

natsStatus Connection::dial(const Servers& servers, const std::vector<std::string>& server_urls, const std::string& host,
                            milliseconds timeout) {
  natsOptions* made = nullptr;
  check(natsOptions_Create(&made), "NATS options");
  const OptionsHandle options{made};
  std::vector<const char*> urls;
  urls.reserve(server_urls.size());
  for (const auto& url : server_urls) urls.push_back(url.c_str());
  check(natsOptions_SetServers(made, urls.data(), static_cast<int>(urls.size())), "NATS options");
  log_in(made, servers);
  if (servers.tls) encrypt(made, *servers.tls, host);
  natsStatus status = natsOptions_SetName(made, "penstock");
  if (status == NATS_OK) status = natsOptions_SetAllowReconnect(made, false);
  if (status == NATS_OK) status = natsOptions_SetTimeout(made, std::max<std::int64_t>(timeout.count(), 100));
  if (status == NATS_OK) status = natsOptions_SetWriteDeadline(made, kWriteDeadline.count());
  if (status == NATS_OK) status = natsOptions_SetPingInterval(made, kPingInterval.count());
  if (status == NATS_OK) status = natsOptions_SetMaxPingsOut(made, kPingsOut);
  if (status == NATS_OK) status = natsOptions_SetFailRequestsOnDisconnect(made, true);
  if (status == NATS_OK) status = natsOptions_SetErrorHandler(made, error_occurred, closure(listener_));
  if (status == NATS_OK) status = natsOptions_SetClosedCB(made, connection_closed, closure(listener_));
  check(status, "NATS options");
  return natsConnection_Connect(&connection_, made);
}

Connection::~Connection() {
  natsConnection_Destroy(connection_);
  Listeners::instance().remove(listener_);
}

void Connection::close() noexcept {
  condemn();
  natsConnection_Close(connection_);
}

std::vector<std::string> Connection::announced() const {
  char** servers = nullptr;
  int count = 0;
  std::vector<std::string> result;
  if (natsConnection_GetDiscoveredServers(connection_, &servers, &count) != NATS_OK) return result;
  for (int i = 0; i < count; ++i) {
    result.emplace_back(servers[i]);
    std::free(servers[i]);
  }
  std::free(servers);
  return result;
}

SubscriptionHandle Connection::listen(const std::string& subject) {
  natsSubscription* made = nullptr;
  check(natsConnection_Subscribe(&made, connection_, subject.c_str(), message_arrived, closure(listener_)), "subscribe");
  SubscriptionHandle subscription{made};
  check(natsSubscription_SetPendingLimits(made, -1, -1), "subscribe");
  return subscription;
}

SubscriptionHandle Connection::subscribe(const std::string& subject) {
  natsSubscription* made = nullptr;
  check(natsConnection_SubscribeSync(&made, connection_, subject.c_str()), "subscribe");
  SubscriptionHandle subscription{made};
  check(natsSubscription_SetPendingLimits(made, -1, -1), "subscribe");
  return subscription;
}

std::string Connection::new_inbox() {
  natsInbox* made = nullptr;
  check(natsInbox_Create(&made), "inbox");
  std::string inbox{made};
  natsInbox_Destroy(made);
  return inbox;
}

JetStreamHandle jetstream(const Connection& connection, milliseconds wait) {
  jsOptions options;
  jsOptions_Init(&options);
  options.Wait = std::max<std::int64_t>(wait.count(), 1);
  jsCtx* made = nullptr;
  check(natsConnection_JetStream(&made, connection.get(), &options), "JetStream");
  return JetStreamHandle{made};
}

}  // namespace penstock::beacon
