// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <nats/nats.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/handle.hpp"
#include "penstock/beacon.hpp"
#include "penstock/uuid.hpp"

extern char** environ;  // NOLINT: POSIX wants it declared by the user

// What the Beacon's tests share: a server to break, and a reader that knows nothing of penstock.
namespace penstock::beacon_test {

using namespace std::chrono_literals;

inline bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds patience = 30s) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

/// Polls until so many have come.
inline std::vector<Message> take(Source& source, std::size_t count, std::chrono::milliseconds patience = 30s) {
  std::vector<Message> result;
  eventually(
      [&] {
        for (auto& message : source.poll(count - result.size(), 100ms)) result.push_back(std::move(message));
        return result.size() >= count;
      },
      patience);
  return result;
}

/// The address of the shared server; a test without it fails.
inline std::string shared_url() {
  const char* url = std::getenv("PENSTOCK_NATS_URL");
  if (url == nullptr || *url == '\0') throw std::runtime_error{"PENSTOCK_NATS_URL is not set: run the test through ctest"};
  return url;
}

/// A name no other run uses.
inline std::string fresh(const std::string& what) { return what + '-' + uuid7(); }

/// A nats-server of the test's own, on a port that stays its own through restarts.
class Server {
 public:
  explicit Server(std::string config = {}, bool jetstream = true) : config_{std::move(config)}, jetstream_{jetstream} {
    std::string folder = (std::filesystem::temp_directory_path() / "penstock-nats-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw std::system_error{errno, std::generic_category(), "mkdtemp"};
    folder_ = folder;
    port_ = free_port();
  }
  ~Server() {
    kill();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  [[nodiscard]] std::string url() const { return "nats://" + address(); }

  void start() {
    if (pid_ != 0) return;
    std::ofstream{folder_ + "/nats.conf"} << "listen: \"127.0.0.1:" << port_ << "\"\n"
                                          << (jetstream_ ? "jetstream { store_dir: \"" + folder_ + "/js\" }\n" : "") << config_;
    const std::string log = folder_ + "/log";
    posix_spawn_file_actions_t actions{};
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    std::string program = std::filesystem::exists("/usr/sbin/nats-server") ? "/usr/sbin/nats-server" : "nats-server";
    std::string option = "-c";
    std::string file = folder_ + "/nats.conf";
    char* argv[] = {program.data(), option.data(), file.data(), nullptr};
    const int error = ::posix_spawnp(&pid_, program.c_str(), &actions, nullptr, argv, environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::system_error{error, std::generic_category(), program};
    if (!eventually([&] { return answers(); })) throw std::runtime_error{"nats-server does not answer; see " + log};
  }
  /// As a crash would end it.
  void kill() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
  }
  /// Returns when every thread of the server stands still: the signal alone may take a moment.
  void pause() const {
    ::kill(pid_, SIGSTOP);
    while (!stopped()) std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  void resume() const { ::kill(pid_, SIGCONT); }

 private:
  [[nodiscard]] bool stopped() const {
    for (const auto& thread : std::filesystem::directory_iterator{"/proc/" + std::to_string(pid_) + "/task"}) {
      std::ifstream in{thread.path() / "stat"};
      std::string text;
      std::getline(in, text);
      // "<id> (<name>) <state> …"
      const auto name_end = text.rfind(')');
      if (name_end == std::string::npos || text.compare(name_end, 3, ") T") != 0) return false;
    }
    return true;
  }
  static int free_port() {
    for (int i = 0; i < 200; ++i) {
      const int port =
          10'240 + static_cast<int>(
                       (static_cast<unsigned>(::getpid()) * 7'919U + static_cast<unsigned>(next_port_++) * 104'729U) % 22'000U);
      const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<std::uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      const bool free = ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
      ::close(socket);
      if (free) return port;
    }
    throw std::runtime_error{"no free port"};
  }
  [[nodiscard]] bool answers() const {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool up = ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    ::close(socket);
    return up;
  }

  static inline int next_port_ = 0;
  std::string config_;
  bool jetstream_;
  std::string folder_;
  int port_ = 0;
  pid_t pid_ = 0;
};

/// A client that uses nats.c alone.
class Raw {
 public:
  explicit Raw(const std::string& url) {
    expect(natsConnection_ConnectTo(&connection_, url.c_str()));
    expect(natsConnection_JetStream(&js_, connection_, nullptr));
  }
  ~Raw() {
    jsCtx_Destroy(js_);
    natsConnection_Destroy(connection_);
  }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;

  [[nodiscard]] jsCtx* js() const { return js_; }

  void add(const char* stream, const char* subject, const std::function<void(jsStreamConfig&)>& more = {}) const {
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    const char* subjects[] = {subject};
    config.Name = stream;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    if (more) more(config);
    expect(js_AddStream(nullptr, js_, &config, nullptr, nullptr));
  }
  void remove(const std::string& stream) const { js_DeleteStream(js_, stream.c_str(), nullptr, nullptr); }

  /// The `ce-id` of every message a stream holds, in order.
  [[nodiscard]] std::vector<std::string> ids(const std::string& stream) const {
    jsStreamInfo* found = nullptr;
    expect(js_GetStreamInfo(&found, js_, stream.c_str(), nullptr, nullptr));
    const beacon::StreamInfoHandle info{found};
    std::vector<std::string> result;
    for (auto sequence = info->State.FirstSeq; info->State.Msgs > 0 && sequence <= info->State.LastSeq; ++sequence) {
      natsMsg* got = nullptr;
      if (js_GetMsg(&got, js_, stream.c_str(), sequence, nullptr, nullptr) != NATS_OK) continue;
      const beacon::MessageHandle message{got};
      const char* id = nullptr;
      if (natsMsgHeader_Get(got, "ce-id", &id) == NATS_OK) result.emplace_back(id);
    }
    return result;
  }
  [[nodiscard]] std::int64_t ack_pending(const std::string& stream, const std::string& consumer) const {
    jsConsumerInfo* found = nullptr;
    if (js_GetConsumerInfo(&found, js_, stream.c_str(), consumer.c_str(), nullptr, nullptr) != NATS_OK) return -1;
    const beacon::ConsumerInfoHandle info{found};
    return info->NumAckPending;
  }

  /// From when on that consumer reads, as the server has it.
  [[nodiscard]] std::chrono::sys_time<std::chrono::nanoseconds> start_of(const std::string& stream,
                                                                         const std::string& consumer) const {
    jsConsumerInfo* found = nullptr;
    expect(js_GetConsumerInfo(&found, js_, stream.c_str(), consumer.c_str(), nullptr, nullptr));
    const beacon::ConsumerInfoHandle info{found};
    return std::chrono::sys_time<std::chrono::nanoseconds>{std::chrono::nanoseconds{info->Config->OptStartTime}};
  }

 private:
  static void expect(natsStatus status) {
    if (status != NATS_OK) throw std::runtime_error{"nats.c: " + beacon::last_error(status)};
  }
  natsConnection* connection_ = nullptr;
  jsCtx* js_ = nullptr;
};

inline Event event(int number, const std::string& key = "k", std::string data = "{}") {
  return {.id = std::to_string(number), .source = "/test", .type = "test.made.v1", .key = key, .data = std::move(data)};
}
inline std::vector<Event> events(int count, int first = 1) {
  std::vector<Event> result;
  for (int i = 0; i < count; ++i) result.push_back(event(first + i));
  return result;
}
inline std::vector<std::string> ids_of(const std::vector<Event>& events) {
  std::vector<std::string> result;
  for (const auto& each : events) result.push_back(each.id);
  return result;
}

}  // namespace penstock::beacon_test
