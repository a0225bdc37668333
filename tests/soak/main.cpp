// SPDX-License-Identifier: Apache-2.0
// One process of the soak: soak ROLE OPTION=VALUE… It is started, killed and started again by scripts/soak.
#include <csignal>
#include <ctime>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <thread>

#include "penstock/migrate.hpp"
#include "soak.hpp"

namespace {

class Stderr final : public penstock::Logger {
 public:
  void log(penstock::LogLevel level, const std::string& message) override {
    if (level >= penstock::LogLevel::info) std::cerr << (level >= penstock::LogLevel::warn ? "! " : "  ") + message + "\n";
  }
};

soak::Settings read(int argc, char** argv) {
  soak::Settings settings;
  if (argc < 2) throw std::invalid_argument{"usage: soak ROLE OPTION=VALUE…; see scripts/soak"};
  settings.role = argv[1];
  for (int i = 2; i < argc; ++i) {
    const std::string text = argv[i];
    const auto equals = text.find('=');
    const auto name = text.substr(0, equals);
    const auto value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (name == "backend") {
      settings.backend = value;
    } else if (name == "postgres") {
      settings.postgres = value;
    } else if (name == "broker") {
      settings.broker = value;
    } else if (name == "ledger") {
      settings.ledger = value;
    } else if (name == "seed") {
      settings.seed = std::stoull(value);
    } else if (name == "life") {
      settings.life = std::stoull(value);
    } else if (name == "rate") {
      settings.rate = std::stoi(value);
    } else if (name == "within") {
      settings.within = std::stoi(value);
    } else if (name == "forgive") {
      settings.forgive = value == "1";
    } else if (name == "group") {
      settings.replay_group = value;
    } else {
      throw std::invalid_argument{"there is no option '" + name + "'"};
    }
  }
  return settings;
}

/// SIGTERM asks for a stop.
std::jthread stop_on_signal(std::stop_source& stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return std::jthread{[signals, &stop](const std::stop_token& done) {
    const timespec moment{0, 100'000'000};
    while (!done.stop_requested()) {
      if (sigtimedwait(&signals, nullptr, &moment) > 0) stop.request_stop();
    }
  }};
}

/// Exit codes: 0 as asked, 1 the account does not balance or the stop took too long, 2 it could not be done.
int run(const soak::Settings& settings) {
  std::stop_source stop;
  const auto signals = stop_on_signal(stop);
  const auto logger = std::make_shared<Stderr>();
  const auto& role = settings.role;
  if (role == "init") return soak::create_tables(settings), 0;
  if (role == "writer") return soak::run_writer(settings, stop.get_token()) ? 0 : 1;
  if (role == "relay") return soak::run_relay(settings, logger, stop.get_token()) ? 0 : 1;
  if (role == "worker") return soak::run_worker(settings, logger, stop.get_token()) ? 0 : 1;
  if (role == "replay") return soak::run_replay(settings, logger, stop.get_token()) ? 0 : 1;
  if (role == "drain") return soak::drained(settings) ? 0 : 1;
  if (role == "judge") return soak::judge(settings, false) ? 0 : 1;
  if (role == "judge-replayed") return soak::judge(settings, true) ? 0 : 1;
  throw std::invalid_argument{"there is no role '" + role + "'"};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(read(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "soak: " << error.what() << "\n";
    return 2;
  }
}
