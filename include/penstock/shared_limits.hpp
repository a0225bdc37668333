// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "penstock/bulkhead.hpp"
#include "penstock/export.hpp"
#include "penstock/rate_limit.hpp"

namespace penstock {

struct SharedLimitsOptions {
  std::string schema = "penstock";                     ///< made by `migrate`
  std::chrono::milliseconds statement_timeout{2'000};  ///< longest wait for Postgres; then the call is refused
};

/// Rate limits and bulkheads that all processes of a database share, by their names: ten processes with `.per_second = 5` make
/// five calls a second together.
///
///     SharedLimits shared{url};
///     RateLimit geocoding = shared.rate_limit({.name = "geocoding", .per_second = 50, .burst = 10});
///     Bulkhead printing = shared.bulkhead({.name = "printing", .calls = 2});
///
/// A turn costs a statement, by the database's clock. One name, one setting: processes that give different ones each go by
/// their own. When Postgres is away, calls are refused and come again in a second; no attempt is counted.
///
/// A rate limit is one row; after a crash of Postgres the turns of its last moments may be given twice
/// (`synchronous_commit` is off for them). A place of a bulkhead is an advisory lock of the process's session, so that it is
/// free at once when the process dies, and also when its connection breaks: the calls that run then are not counted any more.
/// Sessions are needed: give the address of the server, not of a pooler in transaction mode.
///
/// Blocks only in the limits' own calls: nothing is connected before. Thread safety: any thread. Lifetime: the limits may
/// outlive it; each bulkhead keeps a connection, the rate limits share one.
class PENSTOCK_EXPORT SharedLimits {
 public:
  /// Throws std::invalid_argument for a name that no schema can have.
  explicit SharedLimits(std::string url, SharedLimitsOptions options = {});
  ~SharedLimits();
  SharedLimits(SharedLimits&&) noexcept;
  SharedLimits& operator=(SharedLimits&&) noexcept;

  /// Both throw std::invalid_argument, naming the option, the value and the remedy.
  [[nodiscard]] RateLimit rate_limit(RateLimitOptions options);
  [[nodiscard]] Bulkhead bulkhead(BulkheadOptions options);

 private:
  class Link;
  std::shared_ptr<Link> link_;
};

}  // namespace penstock
