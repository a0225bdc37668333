// SPDX-License-Identifier: Apache-2.0
// The order pipeline: one program, its roles in one process or in several. See README.md beside this file.
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <iostream>
#include <pqxx/pqxx>
#include <thread>
#include <vector>

#include "account.hpp"
#include "api.hpp"
#include "feeder.hpp"
#include "options.hpp"
#include "penstock/migrate.hpp"
#include "penstock/postgres_datastore.hpp"
#include "providers.hpp"
#include "roles.hpp"
#include "tables.hpp"

namespace {

using namespace std::chrono_literals;
using shop::Options;

/// Does it again, with a word now and then, while what it needs is away. False when it was stopped first.
bool persist(const std::string& what, const std::stop_token& stop, const std::function<void()>& action) {
  for (int tries = 0; !stop.stop_requested(); ++tries) {
    try {
      action();
      return true;
    } catch (const penstock::SchemaTooNew&) {
      throw;
    } catch (const std::invalid_argument&) {
      throw;
    } catch (const std::exception& error) {
      if (tries % 10 == 0) std::cerr << what << ": " << error.what() << "; trying again\n";
    }
    for (int i = 0; i < 10 && !stop.stop_requested(); ++i) std::this_thread::sleep_for(50ms);
  }
  return false;
}

/// The roles of this process, each on a thread of its own. One that fails stops them all.
class Roles {
 public:
  explicit Roles(std::stop_source& stop) : stop_{stop} {}

  void start(const std::string& name, std::function<bool(std::stop_token)> role) {
    threads_.emplace_back([this, name, role = std::move(role)] {
      try {
        if (!role(stop_.get_token())) std::cerr << name << ": did not drain within its deadline\n";
      } catch (const std::exception& error) {
        std::cerr << name << ": " << error.what() << "\n";
        failed_ = true;
        stop_.request_stop();
      }
    });
  }
  void join() { threads_.clear(); }
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  std::stop_source& stop_;
  std::atomic<bool> failed_{false};
  std::vector<std::jthread> threads_;
};

/// SIGINT and SIGTERM ask for a stop; a second one does not wait for it.
std::jthread stop_on_signal(std::stop_source& stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return std::jthread{[signals, &stop](const std::stop_token& done) {
    const timespec moment{0, 100'000'000};
    while (!done.stop_requested()) {
      if (sigtimedwait(&signals, nullptr, &moment) < 0) continue;
      if (stop.stop_requested()) _exit(130);
      std::cerr << "stopping; once more to leave at once\n";
      stop.request_stop();
    }
  }};
}

int run(const Options& options, std::stop_source& stop) {
  if (options.account) {
    const auto account = shop::draw_up(options.postgres);
    print(account, std::cout);
    return account.balances() ? 0 : 1;
  }
  const auto token = stop.get_token();
  auto spdlogger = spdlog::stderr_logger_mt("penstock");
  spdlogger->set_level(options.verbose ? spdlog::level::debug : spdlog::level::warn);
  const auto logger = penstock::log_to(spdlogger);

  if (!persist("Postgres", token, [&] { shop::create_tables(options.postgres); })) return 130;
  penstock::Outbox outbox{options.postgres, {.source = "/shop/orders-api", .logger = logger}};
  penstock::PostgresDatastore datastore{options.postgres, {.logger = logger}};
  const auto brokers = options.embedded ? shop::memory_brokers() : shop::real_brokers(options, logger);
  const shop::Pipeline pipeline{options, outbox, datastore, *brokers, logger};

  const auto has = [&](const char* role) { return options.roles.count(role) != 0; };
  const bool moves = has("relay") || has("dispatcher") || has("worker") || has("notifier");
  if (moves && !persist("the brokers", token, [&] { brokers->declare(); })) return 130;

  Roles roles{stop};
  if (options.serve_payment)
    roles.start("payment", [&](std::stop_token t) { return shop::serve_payment(options, std::move(t)), true; });
  if (options.serve_stock)
    roles.start("stock", [&](std::stop_token t) { return shop::serve_stock(options, std::move(t)), true; });
  if (has("api")) roles.start("api", [&](std::stop_token t) { return shop::serve_api(options, outbox, std::move(t)), true; });
  if (has("relay")) roles.start("relay", [&](std::stop_token t) { return shop::run_relay(pipeline, std::move(t)); });
  if (has("dispatcher"))
    roles.start("dispatcher", [&](std::stop_token t) { return shop::run_dispatcher(pipeline, std::move(t)); });
  if (has("worker")) roles.start("worker", [&](std::stop_token t) { return shop::run_worker(pipeline, std::move(t)); });
  if (has("notifier")) roles.start("notifier", [&](std::stop_token t) { return shop::run_notifier(pipeline, std::move(t)); });
  if (has("api")) std::cerr << "orders-api on http://" << options.host << ":" << options.port << "\n";

  int result = 0;
  if (!options.orders.empty()) {
    try {
      const auto fed = shop::feed_orders(options, token);
      const auto account = shop::wait_for_account(options, fed, token);
      print(account, std::cout);
      if (fed.unsent != 0) std::cout << fed.unsent << " orders could not be sent\n";
      result = account.balances() && fed.unsent == 0 ? 0 : 1;
    } catch (const std::exception& error) {
      std::cerr << error.what() << "\n";
      result = 1;
    }
    if (!options.stay) stop.request_stop();
  }
  while (!token.stop_requested()) std::this_thread::sleep_for(50ms);
  roles.join();
  if (options.orders.empty() && has("api") && !roles.failed()) print(shop::draw_up(options.postgres), std::cout);
  return roles.failed() ? 1 : result;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  int exit_code = 0;
  if (!shop::parse_options(argc, argv, options, exit_code)) return exit_code;
  setenv("PGCONNECT_TIMEOUT", "5", 0);  // NOLINT: before any thread; a Postgres that does not answer is away
  std::stop_source stop;
  const auto signals = stop_on_signal(stop);
  try {
    return run(options, stop);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
