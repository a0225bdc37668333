// SPDX-License-Identifier: Apache-2.0
#include "postgres/cursor.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <stdexcept>
#include <stop_token>
#include <system_error>
#include <utility>

#include "penstock/uuid.hpp"
#include "postgres/backlog.hpp"
#include "postgres/connection.hpp"
#include "postgres/outbox_letter.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/window_sql.hpp"

namespace penstock::postgres {
namespace {

using namespace std::chrono_literals;

constexpr auto kCheckpointInterval = 250ms;  // the most frequent write of a cursor that moves
constexpr auto kSleepFrom = 16ms;            // shorter waits are polling
constexpr auto kOwnPace = 400ms;             // who reads less often than that lets the watch look
constexpr auto kRestFrom = 3'000ms;          // shorter leases would end between two looks
constexpr auto kLongestSleep = 60s;
constexpr auto kLongestRead = 100ms;  // that finds nothing …
constexpr unsigned kFewSteps = 6;     // … unless it has hardly begun

std::string owner_name() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) {
    host[0] = '?';
  }
  return std::string{host.data()} + ":" + std::to_string(::getpid()) + ":" + uuid7();
}

}  // namespace

PostgresCursor::PostgresCursor(CursorSettings settings, std::string name, const std::vector<std::string>& patterns)
    : settings_{std::move(settings)},
      name_{std::move(name)},
      reader_{settings_.schema, patterns, settings_.limits},
      parked_{settings_.schema, name_},
      state_{settings_.schema, name_, owner_name()} {
  if (!settings_.hub) {
    settings_.hub = std::make_shared<WakeHub>();
  }
  settings_.hub->add(waker_);
  if (!settings_.watch) {
    settings_.watch = std::make_shared<Watch>(settings_.schema, settings_.hub, !settings_.listen);
  }
}

PostgresCursor::~PostgresCursor() { disconnect(); }

template <class Work>
auto PostgresCursor::guarded(const char* what, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const LeaseLost&) {
    owned_ = false;
    throw;
  } catch (const std::exception& error) {
    disconnect();
    throw LogUnavailable("cursor '" + name_ + "' of the outbox '" + settings_.schema + "' cannot " + what + ": " +
                         error.what());
  }
}

void PostgresCursor::connect() {
  if (connection_) {
    return;
  }
  auto connection = postgres::connect(settings_.url, {.shared_by_pooler = !settings_.listen});
  if (settings_.listen) {
    listener_ = std::make_unique<Listener>(*connection, wake_channel(settings_.schema), [this] { hinted_ = true; });
  }
  reader_.use(*connection, !settings_.listen);
  connection_ = std::move(connection);
}

/// The connection, when nothing is read ahead on it any more; what was read stays for `read`.
pqxx::connection& PostgresCursor::idle_connection() const {
  if (ahead_.valid()) {
    ahead_.wait();
  }
  return *connection_;
}

WindowReader::Step PostgresCursor::step() {
  if (ahead_.valid()) {
    return ahead_.get();
  }
  reader_.recycle(std::exchange(recycled_, {}));
  return reader_.step(*connection_);
}

/// While the relay publishes what it has, the next rows are fetched and decoded. Small windows are read whole, and so is the
/// end of a large one, so that this is done only with a backlog.
void PostgresCursor::read_ahead() {
  if (ahead_.valid() || !reader_.in_window()) {
    return;
  }
  reader_.recycle(std::exchange(recycled_, {}));
  try {
    ahead_ = std::async(std::launch::async, [this] { return reader_.step(*connection_); });
  } catch (const std::system_error&) {  // no thread to be had: then it is read when it is asked for
  }
}

void PostgresCursor::disconnect() noexcept {
  if (ahead_.valid()) {
    ahead_.wait();
    ahead_ = {};
  }
  rise();
  settings_.watch->forget();
  owned_ = false;
  empty_at_.reset();
  listener_.reset();
  connection_.reset();
}

void PostgresCursor::require_lease() const {
  if (!owned_) {
    throw LeaseLost("cursor '" + name_ + "' is not held: acquire it");
  }
}

bool PostgresCursor::acquire() {
  return guarded("be acquired", [&] {
    connect();
    owned_ = false;
    if (waiting_ && settings_.watch->is_held(name_, state_.owner(), *connection_)) {
      return false;
    }
    recover_from_restore();
    const auto position = state_.take(idle_connection(), settings_.lease);
    waiting_ = !position;
    if (!position) {
      return false;
    }
    stored_ = *position;
    empty_at_.reset();
    reader_.seek(*position);
    ahead_ = {};
    chunk_ = {};
    handed_out_ = 0;
    tracker_.reset(*position);
    parked_.reset();
    settled_more_ = false;
    written_ = Steady::now();
    hinted_ = true;
    owned_ = true;
    return true;
  });
}

// Transaction ids mean nothing in another cluster: after dump and restore new rows may bear ids that the stored snapshots have
// seen, and would never be read. The canary rows of schema_version tell: their xmin is their txid unless they were loaded anew;
// and not all have the same, so that no transaction that loads them can have the number of each.
// (pg_upgrade and physical copies keep both, and the numbering.)
void PostgresCursor::recover_from_restore() {
  const std::string changed = in_schema(
      "SELECT FROM @schema@.schema_version WHERE xmin::text::numeric <> txid::text::numeric % 4294967296", settings_.schema);
  {
    pqxx::nontransaction tx{idle_connection()};
    if (run(tx, in_schema("SELECT FROM @schema@.schema_version LIMIT 1", settings_.schema)).empty()) {
      // A dump has its rows in the order of the tables' names: the places in the log come before, and mean nothing yet.
      throw std::runtime_error("schema_version is empty, as while a dump is being loaded");
    }
    if (run(tx, changed).empty()) {
      return;
    }
  }
  pqxx::work tx{idle_connection()};
  tx.exec("SET TRANSACTION ISOLATION LEVEL READ COMMITTED");
  tx.exec("SET LOCAL statement_timeout = 0");
  run(tx, "SELECT pg_advisory_xact_lock(hashtextextended('penstock.restore.' || $1, 0))", settings_.schema);
  if (run(tx, changed).empty()) {
    return;
  }
  const auto rows = run(tx, in_schema("UPDATE @schema@.outbox SET txid = '3'"
                                      " WHERE txid >= pg_snapshot_xmax(pg_current_snapshot())",
                                      settings_.schema));
  run(tx, in_schema("TRUNCATE @schema@.cursor_log", settings_.schema));
  run(tx, in_schema("UPDATE @schema@.cursors SET prev = '3:3:', cur = NULL, place = 0, floor = 0, token = token + 1,"
                    " lease_until = '-infinity', updated_at = clock_timestamp()",
                    settings_.schema));
  run(tx, in_schema("UPDATE @schema@.schema_version SET txid = pg_current_xact_id()", settings_.schema));
  const std::string last = in_schema(" WHERE version = (SELECT max(version) FROM @schema@.schema_version)", settings_.schema);
  tx.exec("SAVEPOINT penstock_canary");
  run(tx, in_schema("UPDATE @schema@.schema_version SET txid = txid", settings_.schema) + last);  // its xmin is another now
  run(tx, in_schema("UPDATE @schema@.schema_version SET txid = xmin::text::xid8", settings_.schema) + last);
  tx.exec("RELEASE SAVEPOINT penstock_canary");
  tx.commit();
  log(LogLevel::error, "the outbox '" + settings_.schema +
                           "' was restored into a database cluster with a transaction numbering of its own: every cursor "
                           "starts again at the beginning of the log, and what it holds is sent again with the same ids (" +
                           std::to_string(rows.affected_rows()) + " rows renumbered)");
}

std::vector<EventLog::Entry> PostgresCursor::read(std::size_t max) {
  return guarded("read", [&] {
    require_lease();
    const auto called = Steady::now();
    unsigned in_vain = 0;
    at_end_ = false;
    std::vector<EventLog::Entry> entries;
    // In turn with the log, so that neither keeps the other waiting.
    if (!std::exchange(gave_parked_, false) &&
        parked_.due(resting_ ? std::optional{settings_.watch->any_behind()} : std::nullopt)) {
      pqxx::nontransaction tx{idle_connection()};
      for (auto& [row, event, failures] : parked_.free(tx, max)) {
        entries.push_back(
            {.sequence = tracker_.delivered_beside(), .event = std::move(event), .returned = true, .failures = failures});
        parked_.handed_out(entries.back().sequence, row);
      }
      gave_parked_ = !entries.empty();
    }
    while (entries.empty() && max > 0) {
      if (handed_out_ == chunk_.rows.size()) {
        if (nothing_new()) {
          at_end_ = true;
          break;
        }
        if (in_vain >= kFewSteps && Steady::now() - called >= kLongestRead) {
          break;  // a great many events for others: whoever reads has other things to do, too
        }
        ++in_vain;
        rise();
        const auto began = Steady::now();
        if (began - written_ >= settings_.lease / 2) {
          write_alone(true);
        }
        const auto found = step();
        chunk_ = reader_.take();
        handed_out_ = 0;
        note_closed();
        empty_at_.reset();
        if (found == WindowReader::Step::end) {
          empty_at_ = began;
          at_end_ = true;
          break;
        }
        read_ahead();
      }
      const std::size_t end = std::min(chunk_.rows.size(), handed_out_ + max);
      entries.reserve(end - handed_out_);
      for (; handed_out_ < end; ++handed_out_) {
        LogRow& row = chunk_.rows[handed_out_];
        entries.push_back({.sequence = tracker_.delivered(row.id, chunk_.window),
                           .event = std::move(row.event),
                           .defect = std::move(row.defect)});
      }
      note_closed();
    }
    return entries;
  });
}

/// Whether the watch knows that a read would find nothing, so that it need not be done. Then the cursor may rest.
bool PostgresCursor::nothing_new() {
  if (!empty_at_ || Steady::now() - *empty_at_ < kOwnPace || !settings_.watch->nothing_since(*empty_at_, idle_connection())) {
    return false;
  }
  if (!resting_ && settings_.lease >= kRestFrom && !parked_.any_out()) {
    if (stored_ != tracker_.position()) {
      write_alone(true);
    }
    settings_.watch->rest(name_, {.owner = state_.owner(), .token = state_.token(), .lasts = settings_.lease});
    resting_ = true;
  }
  return true;
}

void PostgresCursor::rise() noexcept {
  if (std::exchange(resting_, false)) {
    settings_.watch->rise(name_);
  }
}

void PostgresCursor::note_closed() {
  if (ahead_.valid() || handed_out_ < chunk_.rows.size()) {
    return;
  }
  if (auto position = reader_.closed_at()) {
    tracker_.closed(std::move(*position));
  }
}

void PostgresCursor::checkpoint(std::uint64_t sequence) {
  guarded("be checkpointed", [&] {
    require_lease();
    const auto before = tracker_.settled();
    tracker_.settle(sequence);
    settled_more_ = settled_more_ || tracker_.settled() != before;
    if (resting_) {
      const auto renewed = settings_.watch->renewed(name_);
      if (!renewed) {
        rise();
        throw LeaseLost("cursor '" + name_ + "' was taken over by another relay");
      }
      written_ = std::max(written_, *renewed);
    }
    const auto age = Steady::now() - written_;
    // A place that moved only because other transactions came and went is not worth a write of its own: our own write would
    // move it again.
    if ((settled_more_ && age >= kCheckpointInterval) || age >= settings_.lease / (resting_ ? 2 : 3)) {
      write_alone(true);
    }
    if (settings_.segments && settings_.segments->due()) {
      settings_.segments->tend(idle_connection());
    }
  });
}

void PostgresCursor::write_alone(bool keep_lease) {
  const std::uint64_t settled = tracker_.settled();
  if (parked_.any_settled(settled)) {
    pqxx::work tx{idle_connection()};
    write(tx, keep_lease);
    parked_.erase_settled(tx, settled);
    tx.commit();
    parked_.forget_settled(settled);
    return;
  }
  pqxx::nontransaction tx{idle_connection()};
  write(tx, keep_lease);
}

void PostgresCursor::write(pqxx::transaction_base& tx, bool keep_lease) {
  rise();
  LogPosition position = tracker_.position();
  reader_.mark(state_.write(tx, position, keep_lease ? std::optional{settings_.lease} : std::nullopt));
  stored_ = std::move(position);
  written_ = Steady::now();
  settled_more_ = false;
}

void PostgresCursor::bury(const EventLog::Entry& entry, const std::string& channel, const std::string& error, int attempts,
                          bool holds) {
  guarded("record a dead letter", [&] {
    require_lease();
    const std::int64_t id = tracker_.id_of(entry.sequence);
    pqxx::work tx{idle_connection()};
    write(tx, true);
    if (parked_.is_out(entry.sequence)) {
      parked_.bury(tx, entry.sequence, error, attempts, holds);
    } else {
      const OutboxLetter letter{.event = &entry.event, .outbox_id = id, .error = error, .attempts = attempts, .holds = holds};
      insert_outbox_letters(tx, settings_.schema, name_, channel, {&letter, 1});
    }
    tx.commit();
    parked_.stays(entry.sequence);
  });
}

void PostgresCursor::park(std::span<const EventLog::Parking> entries, const std::string& channel) {
  guarded("park events", [&] {
    require_lease();
    pqxx::work tx{idle_connection()};
    write(tx, true);
    std::vector<OutboxLetter> letters;
    for (const EventLog::Parking& parking : entries) {
      if (!parked_.is_out(parking.entry->sequence)) {
        letters.push_back({.event = &parking.entry->event,
                           .outbox_id = tracker_.id_of(parking.entry->sequence),
                           .error = parking.error,
                           .attempts = parking.failures,
                           .dead = false,
                           .delay = parking.delay});
      } else if (parking.failures > 0) {
        parked_.try_again(tx, parking);
      }
    }
    if (!letters.empty()) {
      insert_outbox_letters(tx, settings_.schema, name_, channel, letters);
    }
    tx.commit();
    for (const EventLog::Parking& parking : entries) {
      parked_.stays(parking.entry->sequence);
    }
    parked_.parked();
  });
}

std::vector<EventLog::HeldKey> PostgresCursor::held_keys() {
  return guarded("say which keys are held", [&] {
    connect();
    pqxx::nontransaction tx{idle_connection()};
    return parked_.held_keys(tx);
  });
}

std::vector<std::string> PostgresCursor::siblings() {
  return guarded("name the cursors", [&] {
    connect();
    pqxx::nontransaction tx{idle_connection()};
    std::vector<std::string> names;
    for (const auto& row : run(tx, in_schema("SELECT name FROM @schema@.cursors", settings_.schema))) {
      names.emplace_back(row[0].c_str());
    }
    return names;
  });
}

EventLog::Backlog PostgresCursor::backlog() {
  return guarded("measure its backlog", [&] {
    connect();
    const LogPosition position = owned_ ? tracker_.position() : state_.read(idle_connection());
    pqxx::nontransaction tx{idle_connection()};
    return measure_backlog(tx, settings_.schema, position, reader_.patterns(), reader_.complement());
  });
}

void PostgresCursor::wait(std::chrono::milliseconds most, std::stop_token stop) {
  const std::stop_callback on_stop{stop, [waker = waker_] { waker->signal(); }};
  if (!connection_) {
    waker_->wait(-1, most);
    return;
  }
  guarded("wait", [&] {
    idle_connection().get_notifs();
    if (std::exchange(hinted_, false)) {
      empty_at_.reset();
      return;
    }
    most = std::min<std::chrono::milliseconds>(most, kLongestSleep);
    if (owned_ && listener_ && most >= kSleepFrom &&
        settings_.watch->announce_sleep(most, std::max(empty_at_.value_or(Steady::time_point::max()), answered_),
                                        idle_connection())) {
      answered_ = Steady::now();
      return;  // what was committed before the announcement was seen is found by looking once more
    }
    const auto woken = waker_->wait(idle_connection().sock(), most);
    if (woken.by_socket) {
      idle_connection().get_notifs();
    }
    if (woken.by_signal || std::exchange(hinted_, false)) {
      empty_at_.reset();
    }
  });
}

void PostgresCursor::release() noexcept {
  try {
    if (owned_ && connection_) {
      write_alone(false);
    }
  } catch (const LeaseLost&) {
    // Somebody else has it: nothing to give up.
  } catch (const std::exception& error) {
    log(LogLevel::warn, "cursor '" + name_ + "' could not be released, its lease will run out: " + error.what());
  }
  disconnect();
}

void PostgresCursor::log(LogLevel level, const std::string& message) const noexcept {
  try {
    if (settings_.logger) {
      settings_.logger->log(level, message);
    }
  } catch (...) {  // a logger's own failure is nobody's
  }
}

}  // namespace penstock::postgres
