// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "penstock/datastore.hpp"
#include "penstock/logger.hpp"

namespace penstock {

/// What to do with a message of an event so old that the inbox may have forgotten it (see `upkeep`).
enum class BeyondRetention : std::uint8_t {
  refuse,  ///< dead-letter it, error class "beyond retention"; whoever knows better replays it
  handle   ///< take it for new, and say so in the log
};

struct PostgresDatastoreOptions {
  std::string schema = "penstock";                      ///< made by `migrate`
  std::chrono::milliseconds statement_timeout{60'000};  ///< bound on every statement of a consumer's transaction; 0: none
  std::chrono::milliseconds connect_timeout{5'000};
  BeyondRetention beyond_retention = BeyondRetention::refuse;
  std::shared_ptr<Logger> logger{};
};

/// The Postgres in which consumers keep their inbox, checkpoints, parked messages, dead letters, audit trail and outbox, next
/// to the tables their handlers write. One connection a worker.
///
/// Thread safety: any thread. Lifetime: must outlive the consumers that use it.
class PENSTOCK_EXPORT PostgresDatastore final : public Datastore {
 public:
  /// Does not connect. `url` is a libpq connection string or URI. Throws std::invalid_argument for a bad schema name.
  explicit PostgresDatastore(std::string url, PostgresDatastoreOptions options = {});
  ~PostgresDatastore() override;
  PostgresDatastore(const PostgresDatastore&) = delete;
  PostgresDatastore& operator=(const PostgresDatastore&) = delete;

  std::unique_ptr<Session> session(const std::string& group) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
