// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "postgres/pqxx_compat.hpp"

namespace penstock::bench {

using postgres::run;

/// A schema of its own, dropped at the end: of penstock, or empty for what is written by hand.
class Schema {
 public:
  enum class Kind { penstock, empty };
  Schema(std::string url, Kind kind);
  /// One that is there, and another's.
  Schema(std::string url, std::string name);
  ~Schema();
  Schema(const Schema&) = delete;
  Schema& operator=(const Schema&) = delete;

  [[nodiscard]] const std::string& url() const { return url_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::string table(const std::string& table) const { return name_ + "." + table; }
  void execute(const std::string& sql) const;
  [[nodiscard]] std::size_t count(const std::string& table) const;

 private:
  std::string url_;
  std::string name_;
  bool own_ = true;
};

void execute(const std::string& url, const std::string& sql);

/// Appends the events of payload.hpp through Outbox::append, 1000 in a transaction.
void fill_outbox(const Schema& schema, std::size_t events);
/// An outbox that others are copied from, filled when it is first needed.
class Original {
 public:
  Original(std::string url, std::size_t events) : url_{std::move(url)}, events_{events} {}
  [[nodiscard]] std::size_t events() const { return events_; }
  const Schema& get();

 private:
  std::string url_;
  std::size_t events_;
  std::unique_ptr<Schema> schema_;
};

/// The same from the rows of another outbox, inside the server: quicker, also 1000 in a transaction.
struct Refill {
  std::size_t events = 0;
  std::size_t keys = 0;
  std::size_t types = 1;         ///< more than one: `kType.0`, `kType.1` …, in turn
  bool one_transaction = false;  ///< all of them
};
void refill_outbox(const Schema& from, const Schema& to, const Refill& refill);

/// `COPY table TO STDOUT`; returns the rows the client received.
std::size_t copy_out(const std::string& url, const std::string& table);

/// Each client has a connection and a thread, opened before the clock starts; together they do `total` times `work`. Returns
/// the seconds.
double with_clients(const std::string& url, int clients, std::size_t total,
                    const std::function<void(pqxx::connection&, std::size_t i)>& work);

}  // namespace penstock::bench
