// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "penstock/postgres_datastore.hpp"
#include "postgres/datastore_sql.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// A worker's connection. A fresh message costs four round trips beside the handler's: BEGIN, the inbox, the writes at the end
/// (emitted events with them), COMMIT. After any sign that the connection is broken it is thrown away; the next `begin` opens
/// another.
class PostgresSession final : public Datastore::Session {
 public:
  PostgresSession(std::string url, PostgresDatastoreOptions options, std::string group);
  ~PostgresSession() override;
  PostgresSession(const PostgresSession&) = delete;
  PostgresSession& operator=(const PostgresSession&) = delete;

  Datastore::Admission begin(const Message& message) override;
  std::optional<Datastore::Due> begin_due() override;
  std::size_t due(std::size_t limit) override;
  pqxx::transaction_base* tx() override;
  void classify(const std::exception_ptr& thrown) override;
  void complete(std::span<const Event> emitted, const Attempt& attempt) override;
  void park(const Attempt& attempt, std::chrono::milliseconds delay) override;
  void bury(const Attempt& attempt, const std::string& reason) override;
  void bury_malformed(const Message& message) override;
  void abandon() noexcept override;
  bool settled(const Message& message) override;

 private:
  enum class Stage : std::uint8_t { own, handlers };

  template <class Work>
  auto guarded(Stage stage, Work work) -> decltype(work());
  [[noreturn]] void refused(Stage stage, const std::string& what, const std::string& state);
  [[noreturn]] void fail(Stage stage, const std::string& what);
  [[noreturn]] void unavailable(const std::string& what);

  void start();   ///< connects if need be, and begins a transaction
  void finish();  ///< commits; what is in doubt counts as unavailable, as nothing is acknowledged then
  void close() noexcept;
  void drop() noexcept;
  /// Back to the moment before the handler ran; a parked message stays locked. False when it is another session's now.
  bool undo_handler();

  std::optional<Datastore::Admission> try_begin(const Message& message);
  void refuse_forgotten(const Message& message);
  [[nodiscard]] Literals literals() const;
  [[nodiscard]] Literals literals(const Message& message) const;
  [[nodiscard]] Attempt stamped(const Attempt& attempt) const;
  [[nodiscard]] std::string key_lock(const Literals& values) const;
  pqxx::result exec(const std::string& sql);
  void append_letter(const Message& message, const std::string& reason, std::vector<Attempt> attempts);

  const std::string url_;
  const PostgresDatastoreOptions options_;
  const std::string group_;
  std::unique_ptr<pqxx::connection> connection_;
  std::unique_ptr<pqxx::work> tx_;
  /// The handler's part of a parked message's transaction: what it does is undone and the row stays locked.
  std::unique_ptr<pqxx::subtransaction> sub_;
  std::optional<Message> current_;
  std::int64_t seq_ = 0;  ///< of the parked message in work; 0: a fresh one
  int attempt_ = 0;
  bool ended_ = false;  ///< the commit was tried, and failed
  std::string at_;      ///< when it was begun, by the database's clock
};

}  // namespace penstock::postgres
