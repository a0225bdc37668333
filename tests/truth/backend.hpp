// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"

namespace penstock::truth {

/// A process's use of a backend, through the public API and the wire.
class Client {
 public:
  virtual ~Client() = default;
  virtual void declare(const std::string& channel) = 0;
  virtual Channel channel(const std::string& channel) = 0;
  virtual std::unique_ptr<Source> source(const std::string& channel) = 0;
};

/// One broker: how to use it, how to do it harm, and how to look at it past the library. What is done to it goes straight to
/// it, not through the wire; each returns when it has taken effect.
class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::unique_ptr<Client> client() = 0;

  /// Hands over the payload of every message that a channel holds, by a client that is not ours.
  virtual void read_back(const std::string& channel, const std::function<void(std::string_view)>& look) = 0;

  virtual void remove(const std::string& channel) = 0;
  virtual void fill(const std::string& channel, bool full) = 0;
  virtual void alarm(bool on) = 0;
  virtual void forbid(const std::string& channel, bool on) = 0;
  /// A payload of so many bytes is more than it takes.
  [[nodiscard]] virtual std::size_t too_large() const = 0;
  /// Messages of a channel are stored at most once, however often they are sent inside the time of a test.
  [[nodiscard]] virtual bool deduplicates() const { return false; }
};

/// `wire` is the port through which clients go.
std::unique_ptr<Backend> make_kafka(std::uint16_t wire);
std::unique_ptr<Backend> make_rabbitmq(std::uint16_t wire);
std::unique_ptr<Backend> make_nats(std::uint16_t wire);

/// The server, by scripts/services in $PENSTOCK_SERVICES_DIR. Throws when the script fails.
class Server {
 public:
  explicit Server(std::string name) : name_{std::move(name)} {}
  void stop() const { services("stop --only " + name_); }
  void start() const { services("restart " + name_); }
  void kill() const { services("kill " + name_); }
  void freeze() const { services("pause " + name_); }
  void thaw() const { services("resume " + name_); }
  /// A value of its state file, as pid or port.
  [[nodiscard]] std::string state(const std::string& key) const;

 private:
  static void services(const std::string& command);
  std::string name_;
};

/// What the library says, into the servers' folder.
std::shared_ptr<Logger> client_log();

/// Runs a shell command, its output into the services' folder; throws when it fails.
void shell(const std::string& command);
/// The folder of the servers.
std::string folder();
/// Throws when it is not set.
std::string environment(const char* name);
/// Until it does not throw, for half a minute: what is done to a server that has just come back.
void insist(const std::function<void()>& action);

}  // namespace penstock::truth
