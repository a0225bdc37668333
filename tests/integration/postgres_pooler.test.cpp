// SPDX-License-Identifier: Apache-2.0
// Everything through a real PgBouncer in transaction mode, whose few connections serve whoever comes next.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "penstock/outbox.hpp"
#include "penstock/relay.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "support/ports.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::postgres_url;
using test::Schema;

/// A private PgBouncer before the test's server, with two connections.
class PgBouncer {
 public:
  PgBouncer() {
    std::string name = (std::filesystem::temp_directory_path() / "penstock-pooler-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error{"no folder for PgBouncer"};
    folder_ = name;
    std::filesystem::permissions(folder_, std::filesystem::perms{0755});  // PgBouncer, started by root, becomes nobody
    pqxx::connection server{postgres_url()};
    std::ofstream config{folder_ / "pgbouncer.ini"};
    config << "[databases]\npenstock = host=127.0.0.1 port=" << server.port() << " dbname=" << server.dbname()
           << " user=" << server.username() << "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = " << port_
           << "\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nlogfile =\n";
    if (::geteuid() == 0) config << "user = nobody\n";
    config.close();
    process_ = std::make_unique<test::Process>([path = (folder_ / "pgbouncer.ini").string()] {
      if (std::freopen("/dev/null", "w", stderr) == nullptr) return;
      for (const char* program : {"/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"}) {
        ::execl(program, program, "-q", path.c_str(), nullptr);
      }
      throw std::runtime_error{"there is no pgbouncer: run scripts/setup test"};
    });
    if (!eventually([this] { return answers(); })) throw std::runtime_error{"PgBouncer does not answer"};
  }
  ~PgBouncer() {
    process_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  PgBouncer(const PgBouncer&) = delete;
  PgBouncer& operator=(const PgBouncer&) = delete;

  [[nodiscard]] std::string url() const { return "postgresql://any@127.0.0.1:" + std::to_string(port_) + "/penstock"; }

 private:
  [[nodiscard]] bool answers() const {
    try {
      const pqxx::connection connection{url()};
      return connection.is_open();
    } catch (const std::exception&) {
      return false;
    }
  }
  int port_ = test::free_port();
  std::filesystem::path folder_;
  std::unique_ptr<test::Process> process_;
};

/// Rule 12: polling alone is enough.
TEST(Pooler, Rule12_AppendsAndRelaysShareConnectionsAndLeaveNothingBehind) {
  constexpr int kWriters = 4;
  constexpr int kEach = 50;
  const PgBouncer pooler;
  const Schema schema{"pooler"};
  testing::MemoryBroker broker{{.seed = 1}};
  broker.declare("orders", 1);
  Outbox outbox{pooler.url(), {.schema = schema.name(), .source = "/shop", .lease = 2s, .listen = false}};
  {
    std::vector<std::unique_ptr<Relay>> relays;
    std::vector<std::jthread> threads;
    for (int i = 0; i < 2; ++i) {  // one owns the cursor, the other waits for it
      relays.push_back(std::make_unique<Relay>(outbox, std::vector<Route>{{"*", broker.channel("orders")}}, RelayOptions{}));
      threads.emplace_back([&relay = *relays.back()](const std::stop_token& stop) { relay.run(stop); });
    }
    std::vector<std::jthread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&, w] {
        pqxx::connection connection{pooler.url()};
        for (int i = 0; i < kEach; ++i) {
          pqxx::work tx{connection};
          outbox.append(tx, {.type = "t", .key = "k" + std::to_string(w), .data = std::to_string(i)});
          if (i % 10 == 0) outbox.append_locked(tx, {.type = "locked", .key = "l" + std::to_string(w)});
          tx.commit();
        }
      });
    }
    writers.clear();
    EXPECT_TRUE(eventually([&] { return broker.published("orders").size() == kWriters * (kEach + kEach / 10); }))
        << broker.published("orders").size();
  }
  std::array<int, kWriters> next{};
  for (const Event& event : broker.published("orders")) {
    if (event.type != "t") continue;
    EXPECT_EQ(event.data, std::to_string(next.at(static_cast<std::size_t>(event.key[1] - '0'))++)) << event.key;
  }
  // Both of the pool's connections, as whoever comes next finds them.
  pqxx::connection one{pooler.url()};
  pqxx::connection two{pooler.url()};
  pqxx::work first{one};
  pqxx::work second{two};
  for (pqxx::work* tx : {&first, &second}) {
    EXPECT_EQ(tx->exec("SELECT count(*) FROM pg_prepared_statements")[0][0].as<int>(), 0);
    EXPECT_EQ(tx->exec("SELECT count(*) FROM pg_listening_channels()")[0][0].as<int>(), 0);
    EXPECT_EQ(tx->exec("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")[0][0].as<int>(),
              0);
    EXPECT_EQ(
        tx->exec("SELECT count(*) FROM pg_settings WHERE source = 'session'"
                 " AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'transaction_isolation',"
                 " 'transaction_read_only', 'transaction_deferrable', 'standard_conforming_strings', 'IntervalStyle')")[0][0]
            .as<int>(),
        0);
  }
}

}  // namespace
}  // namespace penstock
