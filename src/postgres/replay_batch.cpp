// SPDX-License-Identifier: Apache-2.0
#include "postgres/replay_batch.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "penstock/envelope.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/outbox_append.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/stored_wire.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {
namespace {

constexpr const char* kUnrouted = "penstock:unrouted";

std::string text_of(const pqxx::field& field) { return {field.c_str(), static_cast<std::size_t>(field.size())}; }

struct Job {
  std::int64_t id = 0;
  std::string target{};
  Parameters conditions{};
  std::string who{};
  std::string why{};
  double rate = 0;
  int most_replays = 0;
  int batch = 1;
  bool dry_run = false;
  std::int64_t last_id = 0;
  std::int64_t up_to = 0;
};

/// One dead letter as its row says, and what the group's inbox and the cursors say of it.
struct Letter {
  explicit Letter(const pqxx::row& row)
      : id{row["id"].as<std::int64_t>()},
        outbox{text_of(row["side"]) == "outbox"},
        group{text_of(row["consumer_group"])},
        backend{text_of(row["backend"])},
        channel{text_of(row["channel"])},
        is_event{!row["event_id"].is_null()},
        source{text_of(row["source"])},
        event_id{text_of(row["event_id"])},
        key{text_of(row["key"])},
        replays{row["replays"].as<int>()},
        mark{text_of(row["mark"])},
        earlier{row["earlier"].as<std::int64_t>(0)},
        served{row["served"].as<bool>()},
        wire{stored_wire(row)} {}

  [[nodiscard]] bool unrouted() const { return outbox && group == kUnrouted; }

  std::int64_t id;
  bool outbox;
  std::string group;
  std::string backend;
  std::string channel;
  bool is_event;
  std::string source;
  std::string event_id;
  std::string key;
  int replays;
  std::string mark;      ///< of the group's inbox; empty when it has none
  std::int64_t earlier;  ///< a dead letter of its cursor and key that comes before it and is not of this batch; 0: none
  bool served;           ///< there is a cursor for where it would go
  Wire wire;
};

/// The letters of one batch: judged one after the other, then sent together.
class Batch {
 public:
  Batch(pqxx::transaction_base& tx, const std::string& schema, const Job& job) : tx_{tx}, schema_{schema}, job_{job} {}

  /// Why it may not be replayed; empty when it may.
  std::string judge(const Letter& letter) {
    std::string reason = refusal(letter);
    if (reason.empty() && appended(letter)) {
      reason = read(letter);
    }
    if (!reason.empty()) {
      if (letter.outbox && !letter.key.empty()) {
        left_.emplace(letter.group, letter.channel, letter.key);
      }
      return reason;
    }
    all_ += (all_.empty() ? "" : ",") + std::to_string(letter.id);
    return {};
  }

  void send() {
    if (all_.empty()) {
      return;
    }
    if (job_.target == "group") {
      exec(kLockKeys);
      exec(
          "UPDATE @schema@.inbox i SET state = 'parked' FROM @schema@.dead_letters l WHERE l.id = ANY ($1::bigint[])"
          " AND l.side = 'consumer' AND i.consumer_group = l.consumer_group AND i.source = l.source AND i.id = l.event_id"
          " AND @schema@.inbox_day(i.id) = @schema@.inbox_day(l.event_id)");
      exec(
          "INSERT INTO @schema@.inbox(consumer_group, source, id, state)"
          " SELECT l.consumer_group, l.source, l.event_id, 'parked' FROM @schema@.dead_letters l"
          " WHERE l.id = ANY ($1::bigint[]) AND l.side = 'consumer' AND NOT EXISTS (SELECT FROM @schema@.inbox i"
          "  WHERE i.consumer_group = l.consumer_group AND i.source = l.source AND i.id = l.event_id"
          "   AND @schema@.inbox_day(i.id) = @schema@.inbox_day(l.event_id))");
      exec(kPark);
    } else if (job_.target == "channel") {
      // So that the group that failed does not take it for done.
      exec(
          "DELETE FROM @schema@.inbox i USING @schema@.dead_letters l WHERE l.id = ANY ($1::bigint[])"
          " AND l.side = 'consumer' AND i.consumer_group = l.consumer_group AND i.source = l.source AND i.id = l.event_id"
          " AND @schema@.inbox_day(i.id) = @schema@.inbox_day(l.event_id)");
    }
    std::vector<OutboxRow> rows;
    rows.reserve(events_.size());
    for (const Event& event : events_) {
      rows.push_back({.event = &event, .route = {}});
    }
    if (!rows.empty()) {
      append_rows(tx_, schema_, rows);
    }
    exec(std::string{"UPDATE @schema@.dead_letters SET state = "} +
         (job_.target == "discard" ? "'discarded'"
                                   : "CASE WHEN side = 'outbox' AND consumer_group <> 'penstock:unrouted' THEN 'behind'"
                                     " ELSE 'replayed' END, replays = replays + 1") +
         ", replayed_at = clock_timestamp(), job_id = " + std::to_string(job_.id) + " WHERE id = ANY ($1::bigint[])");
    audit_letters(tx_, schema_, '{' + all_ + '}', job_.target == "discard" ? "discarded" : "replayed", job_.who,
                  "replay " + std::to_string(job_.id) + ": " + job_.why);
  }

 private:
  // As a consumer's session locks a key before it looks whether something of it is parked; in one order, for those that do too.
  static constexpr const char* kLockKeys =
      "SELECT pg_advisory_xact_lock(k.lock) FROM (SELECT DISTINCT hashtextextended($2::text || '.parked.' || consumer_group ||"
      " '.' || key, 0) AS lock FROM @schema@.dead_letters WHERE id = ANY ($1::bigint[]) AND side = 'consumer'"
      " AND key IS NOT NULL ORDER BY 1) k";
  // What is first of its key is due now, the others wait behind it.
  static constexpr const char* kPark =
      "INSERT INTO @schema@.parked(consumer_group, key, behind, next_attempt_at, attempt, attempts, source, event_id, type,"
      " backend, channel, partition, position, redelivered, wire_key, headers, payload)"
      " SELECT l.consumer_group, l.key, l.key IS NOT NULL AND"
      "  (row_number() OVER (PARTITION BY l.consumer_group, l.key ORDER BY l.id) > 1 OR EXISTS (SELECT FROM @schema@.parked p"
      "   WHERE p.consumer_group = l.consumer_group AND p.key = l.key)),"
      "  clock_timestamp(), 1, l.attempts, l.source, l.event_id, l.type, l.backend, l.channel, l.partition, l.position, true,"
      "  l.wire_key, l.headers, coalesce(l.edited, l.payload)"
      " FROM @schema@.dead_letters l WHERE l.id = ANY ($1::bigint[]) AND l.side = 'consumer' ORDER BY l.id";

  [[nodiscard]] std::string refusal(const Letter& letter) {
    if (job_.target == "discard") {
      return {};
    }
    if (!letter.is_event) {
      return "it is no event, so no handler can be given it: publish a correct one, and discard this";
    }
    if (letter.replays >= job_.most_replays) {
      return "it was replayed " + std::to_string(letter.replays) + " times and died again, and most_replays is " +
             std::to_string(job_.most_replays) + ": mend what makes it fail, then give more, or discard it";
    }
    if (letter.outbox) {
      return outbox_refusal(letter);
    }
    if (letter.mark == "done" || letter.mark == "parked") {
      return "its group has it meanwhile: the inbox says '" + letter.mark + "'; discard it";
    }
    if (!seen_.emplace(letter.group, letter.source, letter.event_id).second) {
      return "there is an earlier letter of the same event and group in this replay; discard it";
    }
    if (job_.target == "channel" && !letter.served) {
      return "no relay of this database carries events to '" + letter.backend + ":" + letter.channel +
             "': replay it to its group, or from the database whose outbox it came from";
    }
    return {};
  }

  [[nodiscard]] std::string outbox_refusal(const Letter& letter) const {
    if (letter.unrouted()) {
      return {};
    }
    if (!letter.served) {
      return "no relay serves '" + letter.group + "' any more: discard it, or run a relay with that channel";
    }
    if (letter.earlier != 0) {
      return "dead letter " + std::to_string(letter.earlier) +
             " is of the same key and comes before it: replay both, or discard that";
    }
    if (!letter.key.empty() && left_.count({letter.group, letter.channel, letter.key}) != 0) {
      return "an earlier dead letter of its key was refused, and comes before it";
    }
    return {};
  }

  [[nodiscard]] bool appended(const Letter& letter) const {
    return job_.target != "discard" && (letter.unrouted() || (!letter.outbox && job_.target == "channel"));
  }

  /// Takes the event to append; gives the reason why it is none.
  std::string read(const Letter& letter) {
    try {
      Event event = decode(letter.wire, letter.outbox ? Binding::kafka : binding_of(letter.backend));
      if (event.key.empty()) {
        event.key = letter.key;
      }
      validate(event);
      events_.push_back(std::move(event));
      return {};
    } catch (const MalformedMessage& error) {
      return std::string{"its bytes are no event: "} + error.what();
    } catch (const InvalidEvent& error) {
      return std::string{"its event cannot be appended: "} + error.what();
    }
  }

  void exec(const std::string& sql) {
    // Not all of them use $2.
    tx_.exec(filled_in(tx_, in_schema(sql, schema_), {'{' + all_ + '}', schema_}));
  }

  pqxx::transaction_base& tx_;
  const std::string& schema_;
  const Job& job_;
  std::string all_{};  // ids, separated by commas
  std::vector<Event> events_{};
  std::set<std::tuple<std::string, std::string, std::string>> seen_{};  // group, source, id
  std::set<std::tuple<std::string, std::string, std::string>> left_{};  // cursor, channel, key
};

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

pqxx::row lock_job(pqxx::transaction_base& tx, const std::string& schema, std::int64_t id) {
  const auto rows = run(tx,
                        in_schema("SELECT *, greatest(0, ceil(extract(epoch FROM next_at - clock_timestamp()) * 1000))::bigint"
                                  " AS wait FROM @schema@.replay_jobs WHERE id = $1 FOR UPDATE",
                                  schema),
                        id);
  if (rows.empty()) {
    throw std::invalid_argument("there is no replay job " + std::to_string(id) + " in this database: start one");
  }
  return rows[0];
}

Job job_of(const pqxx::row& row) {
  Job job{.id = row["id"].as<std::int64_t>(),
          .target = text_of(row["target"]),
          .who = text_of(row["actor"]),
          .why = text_of(row["note"]),
          .rate = row["rate"].as<double>(),
          .most_replays = row["most_replays"].as<int>(),
          .batch = row["batch"].as<int>(),
          .dry_run = row["dry_run"].as<bool>(),
          .last_id = row["last_id"].as<std::int64_t>(),
          .up_to = row["up_to"].as<std::int64_t>()};
  for (const char* column : {"side", "consumer_group", "channel", "type", "key", "error_class", "since", "until"}) {
    job.conditions.push_back(row[column].is_null() ? std::nullopt : std::optional{text_of(row[column])});
  }
  return job;
}

pqxx::result next_letters(pqxx::transaction_base& tx, const std::string& schema, const Job& job, std::size_t most) {
  std::string sql = in_schema(
      "WITH l AS MATERIALIZED (SELECT * FROM @schema@.dead_letters l WHERE l.state = 'dead' AND l.id > $9::bigint"
      " AND l.id <= $10::bigint",
      schema);
  sql += letter_conditions;
  // Bytes are only sent where an event is to be made of them.
  sql += in_schema(
      " ORDER BY l.id LIMIT $11::bigint FOR UPDATE)"
      " SELECT l.id, l.side, l.consumer_group, l.backend, l.channel, l.source, l.event_id, l.key, l.replays,"
      "  (SELECT i.state FROM @schema@.inbox i WHERE l.side = 'consumer' AND i.consumer_group = l.consumer_group"
      "    AND i.source = l.source AND i.id = l.event_id"
      "    AND @schema@.inbox_day(i.id) = @schema@.inbox_day(l.event_id)) AS mark,"
      "  (SELECT d.id FROM @schema@.dead_letters d WHERE l.side = 'outbox' AND d.side = 'outbox' AND d.state = 'dead'"
      "    AND d.consumer_group = l.consumer_group AND d.channel = l.channel AND d.key = l.key AND d.id < l.id"
      "    AND hashtextextended(d.key, 0) = hashtextextended(l.key, 0)"
      "    AND d.id NOT IN (SELECT o.id FROM l o) LIMIT 1) AS earlier,"
      "  EXISTS (SELECT FROM @schema@.cursors c WHERE c.name = CASE l.side WHEN 'outbox' THEN l.consumer_group"
      "    ELSE l.backend || ':' || l.channel END) AS served,"
      "  w.wire_key, w.headers, w.payload"
      " FROM l LEFT JOIN LATERAL (SELECT l.wire_key, l.headers, coalesce(l.edited, l.payload) AS payload"
      "  WHERE $12::text = 'channel' OR l.consumer_group = 'penstock:unrouted') w ON true ORDER BY l.id",
      schema);
  Parameters values = job.conditions;
  values.insert(values.end(), {std::to_string(job.last_id), std::to_string(job.up_to), std::to_string(most), job.target});
  return tx.exec(filled_in(tx, sql, values));
}

void move_on(pqxx::transaction_base& tx, const std::string& schema, const Job& job, std::int64_t last_id, std::size_t sent,
             std::size_t failed, const std::string& last_error, bool ended) {
  const double pause = job.rate > 0 ? static_cast<double>(sent) / job.rate : 0;
  run(tx,
      in_schema("UPDATE @schema@.replay_jobs SET state = $2, last_id = $3, sent = sent + $4, failed = failed + $5,"
                " last_error = coalesce(nullif($6, ''), last_error), updated_at = clock_timestamp(),"
                " next_at = greatest(next_at, clock_timestamp()) + $7::float8 * interval '1 second',"
                " ended_at = CASE WHEN $2 = 'done' THEN clock_timestamp() END WHERE id = $1",
                schema),
      job.id, std::string{ended ? "done" : "running"}, last_id, static_cast<std::int64_t>(sent),
      static_cast<std::int64_t>(failed), last_error, pause);
}

}  // namespace

const char* const letter_conditions =
    " AND ($1::text IS NULL OR l.side = $1::text) AND ($2::text IS NULL OR l.consumer_group = $2::text)"
    " AND ($3::text IS NULL OR l.channel = $3::text) AND ($4::text IS NULL OR l.type LIKE $4::text)"
    " AND ($5::text IS NULL OR coalesce(l.key, '') = $5::text) AND ($6::text IS NULL OR l.error_class = $6::text)"
    " AND ($7::timestamptz IS NULL OR l.created_at >= $7::timestamptz)"
    " AND ($8::timestamptz IS NULL OR l.created_at < $8::timestamptz)";

std::vector<std::optional<std::string>> condition_values(const LetterFilter& filter) {
  const auto unless_empty = [](const std::string& text) { return text.empty() ? std::nullopt : std::optional{text}; };
  return {unless_empty(filter.side),
          unless_empty(filter.group),
          unless_empty(filter.channel),
          filter.type.empty() ? std::nullopt : std::optional{like_pattern(filter.type)},
          filter.key,
          unless_empty(filter.error_class),
          unless_empty(filter.from),
          unless_empty(filter.until)};
}

void audit_letters(pqxx::transaction_base& tx, const std::string& schema, const std::string& ids, const std::string& outcome,
                   const std::string& who, const std::string& why) {
  run(tx,
      in_schema("INSERT INTO @schema@.audit(consumer_group, backend, channel, partition, position, source, event_id, type, key,"
                " outcome, attempt, host, actor, note) SELECT consumer_group, backend, channel, partition, position, source,"
                " event_id, type, key, $2, replays, $3, $4, $5 FROM @schema@.dead_letters WHERE id = ANY ($1::bigint[])"
                " ORDER BY id",
                schema),
      ids, outcome, host_name(), who, why);
}

ReplayStep replay_step(pqxx::connection& connection, const std::string& schema, std::int64_t id, std::size_t most,
                       const std::string& refusal) {
  pqxx::work tx{connection};
  tx.exec("SET TRANSACTION ISOLATION LEVEL READ COMMITTED");
  const pqxx::row row = lock_job(tx, schema, id);
  const std::string state = text_of(row["state"]);
  if (state == "done" || state == "cancelled") {
    return {.ended = true};
  }
  if (const auto wait = row["wait"].as<std::int64_t>(); wait > 0) {
    return {.wait = std::chrono::milliseconds{wait}};
  }
  const Job job = job_of(row);
  most = std::min(most, static_cast<std::size_t>(job.batch));
  if (job.rate > 0) {  // no more than a quarter of a second is good for
    most = std::min(most, static_cast<std::size_t>(std::clamp(std::ceil(job.rate / 4), 1.0, 1e6)));
  }
  auto letters = next_letters(tx, schema, job, most);
  if (letters.empty()) {  // or another job has just taken those that were found
    letters = next_letters(tx, schema, job, most);
  }
  Batch batch{tx, schema, job};
  std::size_t failed = 0;
  std::string last_error;
  for (const auto& one : letters) {
    const Letter letter{one};
    const std::string reason = refusal.empty() ? batch.judge(letter) : refusal;
    if (reason.empty()) {
      continue;
    }
    ++failed;
    last_error = "letter " + std::to_string(letter.id) + ": " + reason;
    run(tx, in_schema("INSERT INTO @schema@.replay_failures(job_id, letter_id, reason) VALUES ($1, $2, $3)", schema), id,
        letter.id, reason);
  }
  if (job.dry_run) {
    tx.exec("SAVEPOINT penstock_dry_run");
  }
  batch.send();
  if (job.dry_run) {
    tx.exec("ROLLBACK TO SAVEPOINT penstock_dry_run");
  }
  const bool ended = letters.empty();
  move_on(tx, schema, job, letters.empty() ? job.last_id : letters[letters.size() - 1]["id"].as<std::int64_t>(),
          static_cast<std::size_t>(letters.size()) - failed, failed, last_error, ended);
  tx.commit();
  return {.ended = ended};
}

}  // namespace penstock::postgres
