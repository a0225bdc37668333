// SPDX-License-Identifier: Apache-2.0
#include "penstock/replay.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "penstock/envelope.hpp"
#include "postgres/connection.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/payload_diff.hpp"
#include "postgres/replay_batch.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/stored_wire.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using postgres::in_schema;

constexpr int kTriesWithoutDatabase = 6;
constexpr auto kLongestSleep = 500ms;  // a cancelled job is noticed that soon

void require_actor(const std::string& call, const std::string& who, const std::string& why) {
  if (who.empty() || why.empty()) {
    throw std::invalid_argument(call + ": " + (who.empty() ? "who" : "why") +
                                " is empty: say who does this and why; both are kept in the audit trail");
  }
}

void check_time(const std::string& field, const std::string& time) {
  try {
    validate(Event{.id = "-", .source = "/", .type = "-", .time = time});
  } catch (const InvalidEvent&) {
    throw std::invalid_argument("LetterFilter." + field + " is '" + time +
                                "', which is no RFC 3339 time: write it as 2026-11-22T08:30:00Z");
  }
}

void check(const ReplayRequest& request, bool to_run) {
  const auto& filter = request.filter;
  if (!filter.side.empty() && filter.side != "consumer" && filter.side != "outbox") {
    throw std::invalid_argument("LetterFilter.side is '" + filter.side + "': give consumer, outbox, or nothing for both");
  }
  check_time("from", filter.from);
  check_time("until", filter.until);
  if (!to_run) {
    return;
  }
  require_actor("ReplayRequest", request.who, request.why);
  if (!(request.rate >= 0 && request.rate <= 1e9)) {
    throw std::invalid_argument("ReplayRequest.rate is " + std::to_string(request.rate) +
                                ": give letters a second, or 0 for no bound");
  }
  if (request.batch < 1 || request.batch > 10'000) {
    throw std::invalid_argument("ReplayRequest.batch is " + std::to_string(request.batch) + ": give 1 to 10000");
  }
  if (request.most_replays < 1) {
    throw std::invalid_argument("ReplayRequest.most_replays is " + std::to_string(request.most_replays) + ": give at least 1");
  }
}

const char* name_of(ReplayTarget target) {
  switch (target) {
    case ReplayTarget::group: return "group";
    case ReplayTarget::channel: return "channel";
    case ReplayTarget::discard: return "discard";
  }
  throw std::invalid_argument("ReplayRequest.target is none of group, channel and discard");
}

/// The data of a letter are at fault, not the moment: it would fail again.
bool is_data_error(std::string_view state) {
  constexpr std::array<std::string_view, 5> classes{"21", "22", "23", "54", "P0"};
  return std::find(classes.begin(), classes.end(), state.substr(0, 2)) != classes.end();
}

/// Worth another try, over a new connection.
bool is_passing(std::string_view state) {
  constexpr std::array<std::string_view, 5> classes{"08", "40", "53", "55", "57"};
  return state.empty() || std::find(classes.begin(), classes.end(), state.substr(0, 2)) != classes.end();
}

ReplayJob job_of(const pqxx::row& row) {
  return {.id = row["id"].as<std::int64_t>(),
          .state = row["state"].as<std::string>(),
          .planned = row["planned"].as<std::int64_t>(),
          .sent = row["sent"].as<std::int64_t>(),
          .failed = row["failed"].as<std::int64_t>(),
          .rate = row["rate"].as<double>(),
          .dry_run = row["dry_run"].as<bool>(),
          .who = row["actor"].as<std::string>(),
          .why = row["note"].as<std::string>(),
          .last_error = row["last_error"].as<std::string>("")};
}

}  // namespace

class Replays::Impl {
 public:
  Impl(std::string url, ReplaysOptions options) : url_{std::move(url)}, options_{std::move(options)} {
    postgres::check_schema_name(options_.schema);
    if (options_.statement_timeout < 0ms) {
      throw std::invalid_argument("ReplaysOptions.statement_timeout is negative; 0 means none");
    }
  }

  [[nodiscard]] std::unique_ptr<pqxx::connection> connect(int times = 1) const {
    return postgres::connect(url_, {.statement_timeout = options_.statement_timeout * times});
  }
  [[nodiscard]] std::string sql(std::string_view text) const { return in_schema(text, options_.schema); }
  [[nodiscard]] const ReplaysOptions& options() const { return options_; }

  [[nodiscard]] ReplayJob job(std::int64_t id) const {
    const auto connection = connect();
    pqxx::nontransaction tx{*connection};
    const auto rows = postgres::run(tx, sql("SELECT * FROM @schema@.replay_jobs WHERE id = $1"), id);
    if (rows.empty()) {
      throw std::invalid_argument("there is no replay job " + std::to_string(id) + " in this database: start one");
    }
    return job_of(rows[0]);
  }

  /// Steps until the job has ended or may not go on.
  void work_off(std::int64_t id, const std::stop_token& stop) const {
    std::unique_ptr<pqxx::connection> connection;
    std::size_t most = std::numeric_limits<std::size_t>::max();
    std::string refusal;
    for (int failures = 0; !stop.stop_requested();) {
      try {
        if (!connection) {
          connection = connect();
          postgres::never_reconnect(*connection);
        }
        const auto step = postgres::replay_step(*connection, options_.schema, id, most, refusal);
        if (step.ended) {
          return;
        }
        failures = 0;
        most = std::numeric_limits<std::size_t>::max();
        refusal.clear();
        if (step.wait > 0ms) {
          options_.clock->sleep_for(std::min<std::chrono::milliseconds>(step.wait, kLongestSleep), stop);
        }
      } catch (const pqxx::failure& error) {
        const std::string state = postgres::sqlstate(error);
        if (is_data_error(state)) {
          // Which letter of the batch it is, shows when they come one by one.
          refusal = most == 1 ? error.what() : "";
          most = 1;
          continue;
        }
        connection.reset();
        if (!is_passing(state) || ++failures == kTriesWithoutDatabase) {
          throw;
        }
        log(LogLevel::warn, "replay " + std::to_string(id) + " will be tried again: " + error.what());
        options_.clock->sleep_for(100ms * (1 << failures), stop);
      }
    }
  }

  void log(LogLevel level, const std::string& message) const noexcept {
    try {
      if (options_.logger) {
        options_.logger->log(level, message);
      }
    } catch (...) {  // NOLINT(bugprone-empty-catch): a logger's own failure is nobody's
    }
  }

 private:
  std::string url_;
  ReplaysOptions options_;
};

Replays::Replays(std::string url, ReplaysOptions options) : impl_{std::make_unique<Impl>(std::move(url), std::move(options))} {}
Replays::~Replays() = default;

ReplayPlan Replays::plan(const ReplayRequest& request) const {
  check(request, false);
  const auto connection = impl_->connect(10);
  pqxx::nontransaction tx{*connection};
  const auto rows = tx.exec(
      postgres::filled_in(tx,
                          impl_->sql("SELECT l.error_class, count(*) AS letters, to_json(min(l.created_at))#>>'{}' AS oldest,"
                                     " to_json(max(l.created_at))#>>'{}' AS newest,"
                                     " coalesce((array_agg(l.last_error ORDER BY l.id DESC))[1], '') AS example"
                                     " FROM @schema@.dead_letters l WHERE l.state = 'dead'" +
                                     std::string{postgres::letter_conditions} + " GROUP BY l.error_class ORDER BY 2 DESC, 1"),
                          postgres::condition_values(request.filter)));
  ReplayPlan plan;
  for (const auto& row : rows) {
    plan.classes.push_back({.error_class = row["error_class"].as<std::string>(),
                            .letters = row["letters"].as<std::int64_t>(),
                            .oldest = row["oldest"].as<std::string>(),
                            .newest = row["newest"].as<std::string>(),
                            .example = row["example"].as<std::string>()});
    plan.letters += plan.classes.back().letters;
  }
  return plan;
}

std::int64_t Replays::start(const ReplayRequest& request) {
  check(request, true);
  const auto connection = impl_->connect(10);
  pqxx::nontransaction tx{*connection};
  postgres::Parameters values = postgres::condition_values(request.filter);
  values.insert(values.end(), {name_of(request.target), request.who, request.why, std::to_string(request.rate),
                               std::to_string(request.most_replays), std::to_string(request.batch),
                               std::string{request.dry_run ? "true" : "false"}});
  const auto rows = tx.exec(postgres::filled_in(
      tx,
      impl_->sql("INSERT INTO @schema@.replay_jobs(side, consumer_group, channel, type, key, error_class, since, until, target,"
                 " actor, note, rate, most_replays, batch, dry_run, planned, up_to)"
                 " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
                 " (SELECT count(*) FROM @schema@.dead_letters l WHERE l.state = 'dead'" +
                 std::string{postgres::letter_conditions} +
                 "), (SELECT coalesce(max(id), 0) FROM @schema@.dead_letters) RETURNING id"),
      values));
  const auto id = rows[0][0].as<std::int64_t>();
  impl_->log(LogLevel::info, "replay " + std::to_string(id) + " was made by " + request.who + ": " + request.why);
  return id;
}

ReplayJob Replays::run(std::int64_t job, std::stop_token stop) {
  impl_->work_off(job, stop);
  ReplayJob now = impl_->job(job);
  impl_->log(now.failed > 0 ? LogLevel::warn : LogLevel::info,
             "replay " + std::to_string(job) + " is " + now.state + ": " + std::to_string(now.sent) + " of " +
                 std::to_string(now.planned) + " letters sent, " + std::to_string(now.failed) + " refused" +
                 (now.last_error.empty() ? "" : "; the last: " + now.last_error));
  return now;
}

bool Replays::cancel(std::int64_t job, const std::string& who, const std::string& why) {
  require_actor("Replays::cancel", who, why);
  const auto connection = impl_->connect();
  pqxx::nontransaction tx{*connection};
  return !postgres::run(tx,
                        impl_->sql("UPDATE @schema@.replay_jobs SET state = 'cancelled', ended_at = clock_timestamp(),"
                                   " updated_at = clock_timestamp(), ended_by = $2, ended_note = $3"
                                   " WHERE id = $1 AND state IN ('planned', 'running') RETURNING id"),
                        job, who, why)
              .empty();
}

ReplayJob Replays::job(std::int64_t job) const { return impl_->job(job); }

std::string Replays::edit(std::int64_t letter, const std::string& payload, const std::string& who, const std::string& why) {
  require_actor("Replays::edit", who, why);
  const std::string name = "dead letter " + std::to_string(letter);
  const auto connection = impl_->connect();
  pqxx::work tx{*connection};
  const auto rows = postgres::run(tx,
                                  impl_->sql("SELECT side, state, backend, source, event_id, wire_key, headers,"
                                             " coalesce(edited, payload) AS payload FROM @schema@.dead_letters WHERE id = $1"
                                             " FOR UPDATE"),
                                  letter);
  if (rows.empty() || rows[0]["state"].as<std::string>() != "dead") {
    throw std::invalid_argument(name + (rows.empty() ? " does not exist" : " is '" + rows[0]["state"].as<std::string>() + "'") +
                                ": only one in state 'dead' can be edited");
  }
  const auto row = rows[0];
  if (row["event_id"].is_null()) {
    throw std::invalid_argument(name + " is no event, and its payload is not why: publish a correct one, and discard this");
  }
  Wire wire = postgres::stored_wire(row);
  const std::string before = wire.payload.value_or("");
  wire.payload = payload;
  const bool outbox = row["side"].as<std::string>() == "outbox";
  try {
    const Event event = decode(wire, outbox ? Binding::kafka : postgres::binding_of(row["backend"].as<std::string>()));
    if (event.id != row["event_id"].as<std::string>() || event.source != row["source"].as<std::string>()) {
      throw std::invalid_argument(name + " would be another event (" + event.source + ", " + event.id +
                                  "): leave source and id as they are");
    }
  } catch (const MalformedMessage& error) {
    throw std::invalid_argument(name + " would be no event with that payload: " + error.what());
  }
  std::string diff = postgres::payload_diff(before, payload);
  postgres::run(tx, impl_->sql("UPDATE @schema@.dead_letters SET edited = $2 WHERE id = $1"), letter,
                postgres::Binary{payload});
  postgres::run(tx,
                impl_->sql("INSERT INTO @schema@.letter_edits(letter_id, actor, note, before, after, diff)"
                           " VALUES ($1, $2, $3, $4, $5, $6::jsonb)"),
                letter, who, why, postgres::Binary{before}, postgres::Binary{payload}, diff);
  postgres::audit_letters(tx, impl_->options().schema, "{" + std::to_string(letter) + "}", "edited", who, why);
  tx.commit();
  return diff;
}

}  // namespace penstock
