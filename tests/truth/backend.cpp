// SPDX-License-Identifier: Apache-2.0
#include "truth/backend.hpp"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace penstock::truth {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') {
    throw std::runtime_error{std::string{name} + " is not set: this is started by scripts/truth or ctest"};
  }
  return value;
}

std::string folder() { return environment("PENSTOCK_SERVICES_DIR"); }

void shell(const std::string& command) {
  const std::string all = "{ " + command + "; } >>'" + folder() + "/truth.log' 2>&1 </dev/null";
  if (std::system(all.c_str()) != 0) {  // NOLINT(cert-env33-c): a test's own commands
    throw std::runtime_error{"failed: " + command + "; see " + folder() + "/truth.log"};
  }
}

std::shared_ptr<Logger> client_log() {
  class File final : public Logger {
   public:
    void log(LogLevel /*level*/, const std::string& message) override {
      const std::lock_guard lock{mutex_};
      const auto now = std::chrono::system_clock::now().time_since_epoch();
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
      out_ << ms / 1'000 % 86'400 << "." << ms % 1'000 << " " << message << std::endl;
    }

   private:
    std::mutex mutex_;
    std::ofstream out_{folder() + "/client.log"};
  };
  static const auto log = std::make_shared<File>();
  return log;
}

void Server::services(const std::string& command) {
  shell(std::string{PENSTOCK_SOURCE_DIR} + "/scripts/services " + command + " --dir '" + folder() + "'");
}

std::string Server::state(const std::string& key) const {
  std::ifstream in{folder() + '/' + name_ + ".state"};
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key + '=')) return line.substr(key.size() + 1);
  }
  throw std::runtime_error{name_ + " has no " + key};
}

void insist(const std::function<void()>& action) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{30};
  while (true) {
    try {
      action();
      return;
    } catch (const std::exception&) {
      if (std::chrono::steady_clock::now() > deadline) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds{50});
    }
  }
}

}  // namespace penstock::truth
