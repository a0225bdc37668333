// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <pqxx/pqxx>
#include <stdexcept>
#include <string>
#include <thread>

#include "penstock/migrate.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::test {

/// The server of the integration tests. Throws, so that the test fails, when there is none.
inline std::string postgres_url() {
  const char* url = std::getenv("PENSTOCK_POSTGRES_URL");
  if (url == nullptr || *url == '\0') {
    throw std::runtime_error("PENSTOCK_POSTGRES_URL is not set: run the test through ctest, or scripts/with-services");
  }
  return url;
}

/// A schema name nobody else uses.
inline std::string unique_name(const std::string& prefix) {
  static std::atomic<int> next{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return prefix + "_" + std::to_string(::getpid()) + "_" + std::to_string(now % 1'000'000'000) + "_" + std::to_string(next++);
}

/// A migrated schema for one test, dropped at its end.
class Schema {
 public:
  explicit Schema(const std::string& prefix, bool migrated = true) : name_{unique_name(prefix)} {
    if (migrated) {
      migrate(postgres_url(), name_);
    }
  }
  ~Schema() {
    try {
      exec("SET client_min_messages = warning; SET lock_timeout = '20s'; DROP SCHEMA IF EXISTS \"" + name_ + "\" CASCADE");
    } catch (const std::exception&) {  // the schema stays, under a name nobody uses
    }
  }
  Schema(const Schema&) = delete;
  Schema& operator=(const Schema&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  /// "schema"."table"
  [[nodiscard]] std::string table(const std::string& table) const { return '"' + name_ + "\"." + table; }

  /// One statement on a connection of its own.
  pqxx::result exec(const std::string& sql) const {
    pqxx::connection connection{postgres_url()};
    pqxx::nontransaction tx{connection};
    return tx.exec(sql);
  }
  /// The first field of the first row.
  template <class T = long long>
  T value(const std::string& sql) const {
    return exec(sql)[0][0].template as<T>();
  }

 private:
  std::string name_;
};

/// Dead rows of some tables of a schema, as last counted: by their own statistics or by VACUUM.
inline long long dead_tuples(const Schema& schema, std::initializer_list<const char*> tables) {
  long long sum = 0;
  for (const auto* table : tables) {
    sum += schema.value("SELECT pg_stat_get_dead_tuples('" + schema.table(table) + "'::regclass)");
  }
  return sum;
}

/// Waits for a condition; false when it has not come true within the deadline.
template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds within = std::chrono::seconds{20}) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
  }
  return true;
}

}  // namespace penstock::test
