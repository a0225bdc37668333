// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>

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
/// The same from the rows of another outbox, inside the server: quicker, also 1000 in a transaction. Over so many keys.
void refill_outbox(const Schema& from, const Schema& to, std::size_t events, std::size_t keys);

/// `COPY table TO STDOUT`; returns the rows the client received.
std::size_t copy_out(const std::string& url, const std::string& table);

/// Each client has a connection and a thread, opened before the clock starts; together they do `total` times `work`. Returns
/// the seconds.
double with_clients(const std::string& url, int clients, std::size_t total,
                    const std::function<void(pqxx::connection&, std::size_t i)>& work);

}  // namespace penstock::bench
