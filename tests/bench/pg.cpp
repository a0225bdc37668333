// SPDX-License-Identifier: Apache-2.0
#include "pg.hpp"

#include <libpq-fe.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <iostream>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "payload.hpp"
#include "penstock/migrate.hpp"
#include "penstock/outbox.hpp"

namespace penstock::bench {
namespace {

constexpr std::size_t kFillBatch = 1'000;

}  // namespace

void execute(const std::string& url, const std::string& sql) {
  pqxx::connection connection{url};
  pqxx::nontransaction tx{connection};
  tx.exec(sql);
}

Schema::Schema(std::string url, Kind kind) : url_{std::move(url)} {
  static std::atomic<int> counter{0};
  name_ = "bench_" + std::to_string(::getpid()) + "_" + std::to_string(++counter);
  if (kind == Kind::penstock) {
    migrate(url_, name_);
  } else {
    execute("CREATE SCHEMA " + name_);
  }
}

Schema::Schema(std::string url, std::string name) : url_{std::move(url)}, name_{std::move(name)}, own_{false} {}

Schema::~Schema() {
  if (!own_) return;
  try {
    execute("DROP SCHEMA " + name_ + " CASCADE");
  } catch (const std::exception& e) {
    std::cerr << "cannot drop schema " << name_ << ": " << e.what() << std::endl;
  }
}

void Schema::execute(const std::string& sql) const { bench::execute(url_, sql); }

std::size_t Schema::count(const std::string& table) const {
  pqxx::connection connection{url_};
  pqxx::nontransaction tx{connection};
  return tx.exec("SELECT count(*) FROM " + name_ + "." + table)[0][0].as<std::size_t>();
}

void fill_outbox(const Schema& schema, std::size_t events) {
  Outbox outbox{schema.url(), {.schema = schema.name(), .source = kSource}};
  pqxx::connection connection{schema.url()};
  for (std::size_t done = 0; done < events;) {
    std::vector<Event> batch(std::min(kFillBatch, events - done));
    for (Event& event : batch) {
      event.type = kType;
      event.key = key_of(done);
      event.data = payload_of(done);
      ++done;
    }
    pqxx::work tx{connection};
    outbox.append(tx, batch);
    tx.commit();
  }
}

const Schema& Original::get() {
  if (!schema_) {
    schema_ = std::make_unique<Schema>(url_, Schema::Kind::penstock);
    fill_outbox(*schema_, events_);
  }
  return *schema_;
}

void refill_outbox(const Schema& from, const Schema& to, const Refill& refill) {
  const std::size_t before = to.count("outbox");
  pqxx::connection connection{to.url()};
  std::string columns;
  std::size_t available = 0;
  std::size_t lowest = 0;
  {
    pqxx::nontransaction tx{connection};
    columns =
        tx.exec(
              "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM "
              "information_schema.columns WHERE table_schema = '" +
              from.name() +
              "' AND table_name = 'outbox' AND column_name NOT IN ('id', 'txid', 'segment', 'key', 'type', 'route')")[0][0]
            .as<std::string>();
    const pqxx::result range = tx.exec("SELECT count(*), min(id) FROM " + from.table("outbox"));
    available = range[0][0].as<std::size_t>();
    lowest = range[0][1].as<std::size_t>();
  }
  const std::string type = refill.types == 1 ? "type" : "type || '.' || (id % " + std::to_string(refill.types) + ")";
  std::unique_ptr<pqxx::work> tx;
  for (std::size_t done = 0; done < refill.events;) {
    const std::size_t at = done % available;
    const std::size_t count = std::min({kFillBatch, refill.events - done, available - at});
    if (!tx) tx = std::make_unique<pqxx::work>(connection);
    tx->exec("INSERT INTO " + to.table("outbox") + " (" + columns + ", key, type, route) SELECT " + columns +
             ", 'order-' || (id % " + std::to_string(refill.keys) + "), " + type + ", " + type + " FROM " +
             from.table("outbox") + " WHERE id >= " + std::to_string(lowest + at) + " AND id < " +
             std::to_string(lowest + at + count) + " ORDER BY id");
    done += count;
    if (refill.one_transaction && done < refill.events) continue;
    tx->commit();
    tx.reset();
  }
  check_count("prefilled outbox", before + refill.events, to.count("outbox"));
}

std::size_t copy_out(const std::string& url, const std::string& table) {
  const std::unique_ptr<PGconn, decltype(&PQfinish)> connection{PQconnectdb(url.c_str()), &PQfinish};
  const std::string sql = "COPY " + table + " TO STDOUT";
  const std::unique_ptr<PGresult, decltype(&PQclear)> result{PQexec(connection.get(), sql.c_str()), &PQclear};
  if (PQresultStatus(result.get()) != PGRES_COPY_OUT) throw std::runtime_error{PQerrorMessage(connection.get())};
  std::size_t rows = 0;
  char* line = nullptr;
  int length = 0;
  while ((length = PQgetCopyData(connection.get(), &line, 0)) > 0) {
    ++rows;
    PQfreemem(line);
  }
  if (length != -1) throw std::runtime_error{PQerrorMessage(connection.get())};
  return rows;
}

double with_clients(const std::string& url, int clients, std::size_t total,
                    const std::function<void(pqxx::connection&, std::size_t i)>& work) {
  std::latch ready{clients + 1};
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  std::optional<Stopwatch> watch;
  {
    std::vector<std::jthread> threads;
    for (int client = 0; client < clients; ++client) {
      threads.emplace_back([&] {
        bool arrived = false;
        try {
          pqxx::connection connection{url};
          arrived = true;
          ready.arrive_and_wait();
          for (std::size_t i = next++; i < total; i = next++) work(connection, i);
        } catch (...) {
          if (!arrived) ready.count_down();
          next = total;
          const std::lock_guard lock{mutex};
          failure = std::current_exception();
        }
      });
    }
    ready.arrive_and_wait();
    watch.emplace();
  }
  const double seconds = watch->seconds();
  if (failure) std::rethrow_exception(failure);
  return seconds;
}

}  // namespace penstock::bench
