// SPDX-License-Identifier: Apache-2.0
#include "postgres/datastore_session.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "postgres/connection.hpp"
#include "postgres/outbox_append.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/stored_wire.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {

namespace {

using std::chrono::milliseconds;

/// In the place of a backend: an event that waits to be emitted.
constexpr const char* scheduled = "scheduled";
/// A head that is settled between the look without the lock and the look with it lets the message in at the next try.
constexpr int most_begins = 10;
constexpr milliseconds longest_delay = std::chrono::hours{24 * 365 * 10};

/// Deadlock, serialization failure, lock or statement timeout: undone by the server, and worth another try.
bool is_conflict(std::string_view state) {
  return state == "40001" || state == "40P01" || state == "55P03" || state == "57014";
}

/// The data of this very statement, or of the handler's, are at fault: feature, cardinality, data, integrity, transaction
/// state, program limits, `RAISE`.
bool is_data_error(std::string_view state) {
  constexpr std::array<std::string_view, 8> classes{"0A", "21", "22", "23", "25", "44", "54", "P0"};
  return state != "25006" && state.size() == 5 &&
         std::find(classes.begin(), classes.end(), state.substr(0, 2)) != classes.end();
}

std::optional<std::string> unless_empty(const std::string& text) { return text.empty() ? std::nullopt : std::optional{text}; }

Message message_of(const pqxx::row& row) {
  Message message;
  message.origin = {.backend = row["backend"].as<std::string>(),
                    .channel = row["channel"].as<std::string>(),
                    .partition = row["partition"].as<std::int32_t>(),
                    .position = row["position"].as<std::int64_t>(),
                    .deliveries = static_cast<std::uint32_t>(row["deliveries"].as<std::int64_t>()),
                    .redelivered = row["redelivered"].as<bool>()};
  message.wire = stored_wire(row);
  try {
    message.event = decode(message.wire, binding_of(message.origin.backend));
  } catch (const MalformedMessage& error) {
    message.defect = error.what();
  }
  // What the row is known by, whatever the bytes say now.
  message.event.source = row["source"].as<std::string>();
  message.event.id = row["event_id"].as<std::string>();
  message.event.type = row["type"].as<std::string>();
  if (message.origin.backend != scheduled) {
    message.event.key = row["key"].as<std::string>("");
  }
  return message;
}

}  // namespace

PostgresSession::PostgresSession(std::string url, PostgresDatastoreOptions options, std::string group)
    : url_{std::move(url)},
      options_{std::move(options)},
      group_{std::move(group)},
      begin_sql_{in_schema("SELECT * FROM @schema@.consumer_begin($1, $2, $3, $4, $5)", options_.schema)},
      done_sql_{
          in_schema("CALL @schema@.consumer_done($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);\n",
                    options_.schema)} {}

PostgresSession::~PostgresSession() { close(); }

// --- errors -----------------------------------------------------------------------------------------------------------------

void PostgresSession::fail(Stage stage, const std::string& what) {
  if (connection_ == nullptr || !connection_->is_open()) {
    unavailable(what);
  }
  if (stage == Stage::handlers) {
    throw std::runtime_error{"the transaction cannot go on, as after a failed statement that the handler passed over: " + what};
  }
  const std::runtime_error failure{what};
  close();
  throw std::runtime_error{failure};
}

void PostgresSession::refused(Stage stage, const std::string& what, const std::string& state) {
  const bool missing = state.rfind("42", 0) == 0 || state == "3F000";
  const std::string hint = missing ? " (does the schema exist, in this version? call penstock::migrate)" : "";
  if (connection_ == nullptr || !connection_->is_open()) {
    unavailable(what + hint);
  }
  if (is_conflict(state)) {
    const TransactionConflict conflict{what};
    close();
    throw TransactionConflict{conflict};
  }
  if (is_data_error(state) || (stage == Stage::handlers && state.rfind("42", 0) == 0)) {
    const std::runtime_error failure{what};
    if (stage == Stage::own) {
      close();
    }
    throw std::runtime_error{failure};
  }
  unavailable(what + hint);
}

void PostgresSession::unavailable(const std::string& what) {
  const DatastoreUnavailable failure{what};  // before: `what` may live in what is dropped
  drop();
  throw DatastoreUnavailable{failure};
}

void PostgresSession::classify(const std::exception_ptr& thrown) {
  std::string what = "the connection broke";
  std::string state;
  try {
    std::rethrow_exception(thrown);
  } catch (const pqxx::failure& error) {
    what = error.what();
    state = sqlstate(error);
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {
    what = "unknown exception";
  }
  if (tx_ == nullptr || !connection_->is_open()) {
    unavailable(what);
  }
  // Whose transaction was it? A handler may have other connections, and may wrap what it caught. Ours tells.
  bool failed = false;
  try {
    tx()->exec("SELECT 1");
  } catch (const pqxx::broken_connection& error) {
    unavailable(error.what());
  } catch (const std::exception&) {  // in failure
    failed = true;
  }
  if (!connection_->is_open()) {
    unavailable(what);
  }
  if (failed && (state == "40001" || state == "40P01")) {
    close();
    throw TransactionConflict{what};
  }
}

// --- the transaction --------------------------------------------------------------------------------------------------------

void PostgresSession::start() {
  close();
  if (connection_ == nullptr) {
    auto connection =
        connect(url_, {.connect_timeout = options_.connect_timeout, .statement_timeout = options_.statement_timeout});
    never_reconnect(*connection);
    pqxx::nontransaction setup{*connection};
    // The look under a key's lock must see what was committed before the lock was given.
    setup.exec("SET default_transaction_isolation = 'read committed'");
    member_ = setup.exec(in_schema("SELECT @schema@.consumer_member(", options_.schema) + setup.quote(group_) + ")")[0][0]
                  .as<std::string>();
    setup.commit();
    connection_ = std::move(connection);
  }
  tx_ = std::make_unique<pqxx::nontransaction>(*connection_);
}

pqxx::result PostgresSession::exec(const std::string& sql) {
  if (open_) {
    return tx_->exec(sql);
  }
  open_ = true;  // also when the statement behind it fails
  return tx_->exec("BEGIN;\n" + sql);
}

/// For a statement with parameters, which goes alone.
void PostgresSession::open_block() {
  if (!open_) {
    open_ = true;
    tx_->exec("BEGIN");
  }
}

void PostgresSession::finish() {
  exec("COMMIT");
  open_ = false;
  close();
}

void PostgresSession::commit_with(const std::string& sql) {
  try {
    guarded(Stage::handlers, [&] {
      try {
        exec(sql + "COMMIT");
        open_ = false;
      } catch (const std::exception&) {
        if (connection_->is_open()) {
          // What failed at COMMIT has ended the transaction, what failed before it has not. ROLLBACK without one is a warning.
          try {
            tx_->exec("SELECT 1");
            open_ = false;
          } catch (const pqxx::sql_error&) {
            open_ = true;
          }
        }
        throw;
      }
    });
  } catch (const DatastoreUnavailable& error) {
    throw CommitInDoubt{error.what()};
  }
  close();
}

void PostgresSession::close() noexcept {
  try {
    if (open_ && connection_ != nullptr && connection_->is_open()) {
      tx_->exec("ROLLBACK");
    }
    tx_.reset();
  } catch (...) {  // the connection is gone, which rolls back, too
    tx_.reset();
    connection_.reset();
  }
  open_ = false;
  savepoint_ = false;
  batch_.clear();
  current_.reset();
  seq_ = 0;
}

void PostgresSession::drop() noexcept {
  open_ = false;
  close();
  try {
    connection_.reset();
  } catch (...) {  // NOLINT(bugprone-empty-catch): there is nothing to be closed any more
  }
}

bool PostgresSession::undo_handler() {
  if (!connection_->is_open()) {
    throw pqxx::broken_connection{"the connection broke while the handler ran"};
  }
  if (seq_ != 0 && open_) {
    exec("ROLLBACK TO SAVEPOINT penstock_handler");
    return true;
  }
  if (open_) {
    exec("ROLLBACK");
    open_ = false;
  }
  // The commit of a parked message failed and took the lock of its row with it.
  return seq_ == 0 || !exec(literals().number("seq", seq_).number("attempt", attempt_).in(sql::reclaim)).empty();
}

pqxx::transaction_base* PostgresSession::tx() { return tx_.get(); }

Literals PostgresSession::literals() const {
  Literals values{*tx_, options_.schema};
  values.text("group", group_).text("member", member_);
  return values;
}

Literals PostgresSession::literals(const Message& message) const {
  Literals values{*tx_, options_.schema};
  values.message(group_, message).text("member", member_);
  return values;
}

Attempt PostgresSession::stamped(const Attempt& attempt) const {
  Attempt result = attempt;
  result.at = at_;
  return result;
}

std::string PostgresSession::key_lock(const Literals& values) const {
  return current_->key().empty() ? std::string{} : values.in(sql::lock_key);
}

std::string PostgresSession::settle_note(const Literals& values) const {
  return current_->origin.repeated() ? values.in(sql::settle_note) : std::string{};
}

// --- intake -----------------------------------------------------------------------------------------------------------------

Datastore::Admission PostgresSession::begin(const Message& message) {
  return guarded(Stage::own, [&] {
    for (int i = 0; i < most_begins; ++i) {
      if (const auto admission = try_begin(message)) {
        return *admission;
      }
    }
    throw TransactionConflict{"the parked messages of the key come and go"};
  });
}

std::optional<Datastore::Admission> PostgresSession::try_begin(const Message& message) {
  start();
  const pqxx::result result = exec(
      filled_in(*tx_, begin_sql_,
                {group_, message.event.source, message.id(), unless_empty(message.key()), unless_empty(message.event.time)}));
  const auto admission = result[0][0].as<std::string>();
  if (admission == "busy") {
    close();
    throw TransactionConflict{"the message is in work in another session"};
  }
  if (admission == "duplicate") {
    close();
    return Datastore::Admission::duplicate;
  }
  at_ = result[0][1].as<std::string>();
  if (result[0][2].as<bool>()) {
    if (options_.beyond_retention == BeyondRetention::refuse) {
      refuse_forgotten(message);
      return Datastore::Admission::refused;
    }
    if (options_.logger) {
      options_.logger->log(LogLevel::warn, "event " + message.id() + " of " + message.event.source +
                                               " is older than what the inbox of '" + group_ + "' keeps, and taken for new");
    }
  }
  if (admission == "fresh") {
    current_ = message;
    return Datastore::Admission::fresh;
  }
  Literals values = literals(message);
  values.wire(message);
  if (exec(values.in(std::string{sql::lock_key} + std::string{sql::park_behind})).empty()) {
    close();  // and give the lock back: it is never held while a handler runs
    return std::nullopt;
  }
  finish();
  return Datastore::Admission::behind;
}

/// In the transaction that marked the inbox, which it ends.
void PostgresSession::refuse_forgotten(const Message& message) {
  const std::string reason = "beyond retention: the inbox of '" + group_ +
                             "' has forgotten the time this event is of, so it may have been handled; if it was not, replay it";
  const Attempt attempt{.number = 0, .error = reason, .at = at_};
  Literals values = literals(message);
  values.attempt(message, attempt, "dead").wire(message).text("reason", reason);
  exec(values.in(sql::mark_refused));
  exec(values.in(sql::bury_marked));
  finish_with_letter(message, reason, {});
}

std::optional<Datastore::Due> PostgresSession::begin_due() {
  return guarded(Stage::own, [&]() -> std::optional<Datastore::Due> {
    start();
    const pqxx::result result = exec(literals().in(sql::claim_due));
    if (result.empty()) {
      close();
      return std::nullopt;
    }
    current_ = message_of(result[0]);
    seq_ = result[0]["seq"].as<std::int64_t>();
    at_ = result[0]["at"].as<std::string>();
    attempt_ = result[0]["attempt"].as<int>();
    exec("SAVEPOINT penstock_handler");
    const bool late = result[0]["late"].as<bool>();
    current_->origin.redelivered = current_->origin.redelivered || late;
    Datastore::Due due{.message = *current_, .attempt = attempt_, .late = late};
    due.scheduled = current_->origin.backend == scheduled;
    if (due.scheduled) {
      current_->event.key.clear();  // it waits in no key's line, so it releases none
    }
    if (!result[0]["elapsed"].is_null()) {
      due.elapsed = milliseconds{std::max<std::int64_t>(0, result[0]["elapsed"].as<std::int64_t>())};
      due.previous = milliseconds{std::max<std::int64_t>(0, result[0]["previous"].as<std::int64_t>())};
    }
    return due;
  });
}

std::size_t PostgresSession::due(std::size_t limit) {
  return guarded(Stage::own, [&] {
    start();
    const auto most = static_cast<std::int64_t>(std::min<std::size_t>(limit, 1'000'000));
    const auto count = exec(literals().number("limit", most).in(sql::count_due))[0][0].as<std::size_t>();
    close();
    return count;
  });
}

bool PostgresSession::settled(const Message& message) {
  return guarded(Stage::own, [&] {
    start();
    const bool found = !exec(literals(message).in(sql::settled)).empty();
    close();
    return found;
  });
}

// --- settlement -------------------------------------------------------------------------------------------------------------

void PostgresSession::schedule(std::span<const ScheduledEvent> events) {
  guarded(Stage::handlers, [&] {
    std::string rows;
    for (const ScheduledEvent& each : events) {
      Message message;
      message.event = each.event;
      message.event.key.clear();
      message.wire = encode(each.event, Binding::kafka);
      message.origin.backend = scheduled;
      Literals values = literals(message);
      values.wire(message).number("delay", std::clamp(each.delay, milliseconds{0}, longest_delay).count());
      rows += values.in(sql::schedule);
    }
    tx()->exec(rows);
  });
}

void PostgresSession::complete(std::span<const Event> emitted, const Attempt& attempt) {
  std::string text;
  guarded(Stage::handlers, [&] {
    std::vector<OutboxRow> rows;
    for (const Event& event : emitted) {
      rows.push_back({.event = &event});
    }
    text = append_text(*tx_, options_.schema, rows);
    if (seq_ == 0) {
      text += done_text(attempt);
    } else {
      Literals values = literals(*current_);
      values.attempt(*current_, stamped(attempt), current_->origin.backend == scheduled ? "emitted" : "done");
      text += settle_note(values) + key_lock(values) + values.number("seq", seq_).in(sql::complete_due) + ";\n";
    }
  });
  commit_with(text);
}

/// Audit row and checkpoint.
std::string PostgresSession::done_text(const Attempt& attempt) const {
  const Event& event = current_->event;
  const Origin& origin = current_->origin;
  std::string text = current_->origin.repeated() ? settle_note(literals(*current_)) : std::string{};
  return text +
         filled_in(*tx_, done_sql_,
                   {group_, member_, origin.backend, origin.channel, std::to_string(origin.partition),
                    std::to_string(origin.position), event.source, event.id, event.type, unless_empty(event.key),
                    unless_empty(event.correlation_id), unless_empty(event.causation_id), unless_empty(event.traceparent),
                    std::to_string(attempt.number), std::to_string(attempt.duration.count()), unless_empty(attempt.host)});
}

void PostgresSession::park(const Attempt& attempt, milliseconds delay) {
  guarded(Stage::own, [&] {
    if (!undo_handler()) {
      close();
      return;
    }
    Literals values = literals(*current_);
    values.attempt(*current_, stamped(attempt), "parked").wire(*current_);
    values.number("delay", std::clamp(delay, milliseconds{0}, longest_delay).count());
    if (seq_ == 0) {
      exec(settle_note(values) + key_lock(values) + values.in(sql::park));
    } else {
      exec(settle_note(values) + values.number("seq", seq_).in(sql::park_again));
    }
    finish();
  });
}

/// Appends its event and commits.
void PostgresSession::finish_with_letter(const Message& message, const std::string& reason, std::vector<Attempt> attempts) {
  const Event event = to_event({.group = group_, .message = message, .reason = reason, .attempts = std::move(attempts)});
  const OutboxRow row{.event = &event, .route = dead_letters_of(message.origin.channel)};
  exec(append_text(*tx_, options_.schema, {&row, 1}) + "COMMIT");
  open_ = false;
  close();
}

void PostgresSession::bury(const Attempt& attempt, const std::string& reason) {
  guarded(Stage::own, [&] {
    if (!undo_handler()) {
      close();
      return;
    }
    const Attempt last = stamped(attempt);
    Literals values = literals(*current_);
    values.attempt(*current_, last, "dead").wire(*current_).text("reason", reason);
    std::vector<Attempt> attempts;
    if (seq_ == 0) {
      if (exec(settle_note(values) + values.in(sql::bury)).empty()) {
        close();  // another consumer of the group has settled it meanwhile
        return;
      }
    } else {
      values.number("seq", seq_);
      for (const auto& row : exec(values.in(sql::history))) {
        attempts.push_back({.number = row["number"].as<int>(),
                            .error = row["error"].as<std::string>(),
                            .duration = milliseconds{row["duration"].as<std::int64_t>()},
                            .at = row["at"].as<std::string>(),
                            .host = row["host"].as<std::string>()});
      }
      exec(settle_note(values) + key_lock(values) + values.in(sql::bury_due));
    }
    attempts.push_back(last);
    finish_with_letter(*current_, reason, std::move(attempts));
  });
}

void PostgresSession::bury_malformed(const Message& message) {
  guarded(Stage::own, [&] {
    start();
    Literals values = literals(message);
    values.wire(message).text("reason", message.defect);
    // Where it lies on the channel is all the identity it has. Without such a place a redelivery is another dead letter.
    if (message.origin.position >= 0 && exec(values.in(sql::mark_malformed)).empty()) {
      close();
      return;
    }
    exec(values.in(sql::bury_malformed));
    finish_with_letter(message, message.defect, {});
  });
}

void PostgresSession::abandon() noexcept { close(); }

}  // namespace penstock::postgres
