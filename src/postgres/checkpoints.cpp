// SPDX-License-Identifier: Apache-2.0
#include "penstock/checkpoints.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "postgres/connection.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/schema_name.hpp"

namespace penstock {
namespace {

using postgres::in_schema;
using postgres::run;

constexpr std::chrono::milliseconds kStatementTimeout{10'000};

std::string place_of(const SeekRequest& request) {
  return "group '" + request.group + "' on partition " + std::to_string(request.partition) + " of '" + request.channel + "'";
}

/// Locks the rows of a checkpoint; at work is who has one locked.
pqxx::result lock_rows(pqxx::transaction_base& tx, const std::string& schema, const SeekRequest& request) {
  try {
    return run(tx,
               in_schema("SELECT position, settled, extract(epoch FROM clock_timestamp() - updated_at) * 1000 AS idle"
                         " FROM @schema@.checkpoints WHERE consumer_group = $1 AND channel = $2 AND partition = $3"
                         " FOR UPDATE NOWAIT",
                         schema),
               request.group, request.channel, request.partition);
  } catch (const pqxx::sql_error& error) {
    if (postgres::sqlstate(error) == "55P03") {
      throw std::runtime_error("seek: " + place_of(request) +
                               " is settling a message at this moment: stop its consumers first");
    }
    throw;
  }
}

}  // namespace

Checkpoints::Checkpoints(std::string url, std::string schema) : url_{std::move(url)}, schema_{std::move(schema)} {
  postgres::check_schema_name(schema_);
}

std::vector<Checkpoint> Checkpoints::list() const {
  const auto connection = postgres::connect(url_, {.statement_timeout = kStatementTimeout});
  pqxx::nontransaction tx{*connection};
  std::vector<Checkpoint> all;
  for (const auto& row : tx.exec(in_schema("SELECT *, to_json(updated_at)#>>'{}' AS at FROM @schema@.checkpoint_status"
                                           " ORDER BY consumer_group, channel, partition",
                                           schema_))) {
    all.push_back({.group = row["consumer_group"].as<std::string>(),
                   .channel = row["channel"].as<std::string>(),
                   .partition = row["partition"].as<std::int32_t>(),
                   .position = row["position"].as<std::int64_t>(),
                   .settled = row["settled"].as<std::int64_t>(),
                   .updated_at = row["at"].as<std::string>()});
  }
  return all;
}

std::int64_t Checkpoints::seek(const SeekRequest& request) const {
  if (request.who.empty() || request.why.empty()) {
    throw std::invalid_argument(std::string{"SeekRequest."} + (request.who.empty() ? "who" : "why") +
                                " is empty: say who does this and why; both are kept in the audit trail");
  }
  if (request.position < -1) {
    throw std::invalid_argument("SeekRequest.position is " + std::to_string(request.position) +
                                ": give the position that counts as settled, or -1 for none");
  }
  const auto connection = postgres::connect(url_, {.statement_timeout = kStatementTimeout});
  pqxx::work tx{*connection};
  const auto rows = lock_rows(tx, schema_, request);
  if (rows.empty()) {
    throw std::invalid_argument("seek: " + place_of(request) +
                                " has no checkpoint: see Checkpoints::list() for those there are");
  }
  std::int64_t from = -1;
  std::int64_t settled = 0;
  for (const auto& row : rows) {
    from = std::max(from, row["position"].as<std::int64_t>());
    settled += row["settled"].as<std::int64_t>();
    if (row["idle"].as<double>() < static_cast<double>(request.quiet.count())) {
      throw std::runtime_error("seek: " + place_of(request) + " settled a message less than " +
                               std::to_string(request.quiet.count()) + " ms ago: stop its consumers and wait as long");
    }
  }
  run(tx, in_schema("DELETE FROM @schema@.checkpoints WHERE consumer_group = $1 AND channel = $2 AND partition = $3", schema_),
      request.group, request.channel, request.partition);
  run(tx,
      in_schema("INSERT INTO @schema@.checkpoints(consumer_group, channel, partition, member, position, settled)"
                " VALUES ($1, $2, $3, '1', $4, $5)",
                schema_),
      request.group, request.channel, request.partition, request.position, settled);
  run(tx,
      in_schema("INSERT INTO @schema@.audit(consumer_group, backend, channel, partition, position, outcome, actor, note)"
                " VALUES ($1, '', $2, $3, $4, 'seek', $5, $6)",
                schema_),
      request.group, request.channel, request.partition, request.position, request.who,
      "from " + std::to_string(from) + ": " + request.why);
  tx.commit();
  return from;
}

}  // namespace penstock
