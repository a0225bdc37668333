// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/postgres_datastore.hpp"
#include "postgres/datastore_sql.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// A worker's connection. A fresh message costs two round trips beside the handler's: BEGIN goes with the inbox mark, COMMIT
/// with the writes at the end (emitted events, audit row, checkpoint). A batch costs five and one more a message, for its
/// savepoint. After any sign that the connection is broken it is thrown away; the next `begin` opens another.
///
/// The handler sees a pqxx::nontransaction: BEGIN, savepoints and COMMIT are this class's, so that they can share a round trip
/// with statements, and every libpqxx means the same by a failed statement.
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
  void schedule(std::span<const ScheduledEvent> events) override;
  void complete(std::span<const Event> emitted, const Attempt& attempt) override;
  void park(const Attempt& attempt, std::chrono::milliseconds delay) override;
  void bury(const Attempt& attempt, const std::string& reason) override;
  void bury_malformed(const Message& message) override;
  void abandon() noexcept override;
  std::vector<Datastore::Admission> begin_batch(std::span<const Message* const> messages) override;
  void savepoint() override;
  void undo() override;
  void complete_batch(std::span<const Datastore::Completed> done) override;
  std::vector<Datastore::Begun> begun(std::span<const Message* const> messages) override;
  void note_begun(std::span<const Message* const> messages) override;
  bool settled(const Message& message) override;

 private:
  enum class Stage : std::uint8_t { own, handlers };

  template <class Work>
  auto guarded(Stage stage, Work work) -> decltype(work());
  [[noreturn]] void refused(Stage stage, const std::string& what, const std::string& state);
  [[noreturn]] void fail(Stage stage, const std::string& what);
  [[noreturn]] void unavailable(const std::string& what);

  void start();   ///< connects if need be; the transaction begins with the next statement
  void finish();  ///< commits; what is in doubt counts as unavailable, as nothing is acknowledged then
  void open_block();
  /// The last statements of a handler's transaction and their COMMIT, in one round trip. Throws CommitInDoubt, or what makes it
  /// the handler's failure.
  void commit_with(const std::string& sql);
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
  [[nodiscard]] std::string settle_note(const Literals& values) const;
  void write_done(std::span<const Datastore::Completed> done);
  [[nodiscard]] std::string done_text(const Attempt& attempt) const;
  pqxx::result exec(const std::string& sql);
  void finish_with_letter(const Message& message, const std::string& reason, std::vector<Attempt> attempts);

  const std::string url_;
  const PostgresDatastoreOptions options_;
  const std::string group_;
  const std::string begin_sql_;
  const std::string done_sql_;
  std::unique_ptr<pqxx::connection> connection_;
  std::unique_ptr<pqxx::nontransaction> tx_;
  bool open_ = false;   ///< BEGIN was sent, and neither COMMIT nor ROLLBACK
  std::string member_;  ///< which row of `checkpoints` is this connection's
  std::optional<Message> current_;
  std::int64_t seq_ = 0;  ///< of the parked message in work; 0: a fresh one
  int attempt_ = 0;
  std::string at_;                     ///< when it was begun, by the database's clock
  std::vector<const Message*> batch_;  ///< those that are marked
  bool savepoint_ = false;             ///< the batch has one
};

template <class Work>
auto PostgresSession::guarded(Stage stage, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const pqxx::broken_connection& error) {
    unavailable(error.what());
  } catch (const pqxx::in_doubt_error& error) {
    unavailable(error.what());
  } catch (const pqxx::failure& error) {
    const std::string state = sqlstate(error);
    if (state.empty()) {
      fail(stage, error.what());
    }
    refused(stage, error.what(), state);
  } catch (const std::logic_error& error) {
    fail(stage, error.what());
  }
}

}  // namespace penstock::postgres
