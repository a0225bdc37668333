// SPDX-License-Identifier: Apache-2.0
#include "penstock/shared_limits.hpp"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include "core/limits.hpp"
#include "penstock/call_refused.hpp"
#include "penstock/random.hpp"
#include "postgres/connection.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/schema_name.hpp"

namespace penstock {

using std::chrono::milliseconds;

/// A connection that is made when it is needed, and again after it broke.
class SharedLimits::Link {
 public:
  Link(std::string url, SharedLimitsOptions options) : url_{std::move(url)}, options_{std::move(options)} {}

  [[nodiscard]] std::shared_ptr<Link> another() const { return std::make_shared<Link>(url_, options_); }
  [[nodiscard]] std::string in_schema(std::string_view sql) const { return postgres::in_schema(sql, options_.schema); }
  [[nodiscard]] const std::string& schema() const { return options_.schema; }

  /// Runs one statement in a transaction of its own. Throws CallRefused when Postgres does not answer, and
  /// std::runtime_error when the schema or the role lacks what is needed.
  template <class... Args>
  pqxx::result run(const std::string& limit, const std::string& sql, const Args&... args) {
    try {
      if (!connection_) {
        connection_ = postgres::connect(
            url_, {.connect_timeout = options_.statement_timeout, .statement_timeout = options_.statement_timeout});
      }
      pqxx::nontransaction tx{*connection_};
      return postgres::run(tx, sql, args...);
    } catch (const pqxx::sql_error& error) {
      // What the schema or the role lacks does not come by waiting.
      if (error.sqlstate().rfind("42", 0) == 0 || error.sqlstate() == "3F000") {
        throw std::runtime_error{limit + " is shared, and the schema '" + options_.schema +
                                 "' has no such limits for this role: " + error.what() +
                                 "; run penstock::migrate, and grant what docs/postgres.md names"};
      }
      refuse(limit, error);
    } catch (const std::exception& error) {
      refuse(limit, error);
    }
  }
  [[nodiscard]] bool connected() const { return connection_ != nullptr; }

  std::mutex mutex;  ///< held by who uses the connection

 private:
  [[noreturn]] void refuse(const std::string& limit, const std::exception& error) {
    connection_.reset();
    constexpr milliseconds again{1'000};
    throw CallRefused{
        limit + " is shared, and Postgres does not answer for it: " + postgres::without_secrets(error.what(), url_), again};
  }

  const std::string url_;
  const SharedLimitsOptions options_;
  std::unique_ptr<pqxx::connection> connection_;
};

namespace {

/// The row of that name; see `take_turn`.
template <class Link>
class SharedTurns final : public limits::Turns {
 public:
  SharedTurns(std::shared_ptr<Link> link, RateLimitOptions options)
      : link_{std::move(link)},
        options_{std::move(options)},
        statement_{link_->in_schema("SELECT wait, refused FROM @schema@.take_turn($1, $2, $3, $4)")} {}

  Clock::Duration turn() override {
    const std::lock_guard guard{link_->mutex};
    const auto row =
        link_->run("the rate limit of " + options_.name, statement_, options_.name, 1 / options_.per_second,
                   (options_.burst - 1) / options_.per_second, std::chrono::duration<double>{options_.patience}.count())[0];
    const std::chrono::duration<double> wait{row[0].template as<double>()};
    if (row[1].template as<bool>()) {
      const auto until = std::chrono::ceil<milliseconds>(wait);
      throw CallRefused{"the rate limit of " + options_.name + " is used up; again in " + std::to_string(until.count()) + " ms",
                        until};
    }
    return std::chrono::duration_cast<Clock::Duration>(wait);
  }

 private:
  const std::shared_ptr<Link> link_;
  const RateLimitOptions options_;
  const std::string statement_;
};

/// Each place is an advisory lock. A session can take its own again, so what this process has is known here as well.
template <class Link>
class SharedPlaces final : public limits::Places {
 public:
  SharedPlaces(std::shared_ptr<Link> link, BulkheadOptions options)
      : link_{std::move(link)}, options_{std::move(options)}, lock_{link_->schema() + ".bulkhead." + options_.name} {}

  void enter(const std::stop_token& stop) override {
    const Clock::TimePoint until = options_.clock->now() + options_.patience;
    for (milliseconds pause{10};; pause = std::min(pause * 2, longest_pause)) {
      if (stop.stop_requested()) {
        throw CallRefused{"stopped while waiting for a place at " + options_.name, milliseconds{0}};
      }
      if (take()) {
        return;
      }
      const auto now = options_.clock->now();
      if (now >= until) {
        throw CallRefused{
            options_.name + " has " + std::to_string(options_.calls) + " calls at once, of all processes, and takes no more",
            options_.patience};
      }
      // Not all at the same time, and not later than the patience.
      const auto jittered =
          pause / 2 +
          milliseconds{static_cast<milliseconds::rep>(Random::system().unit() * static_cast<double>(pause.count()))};
      options_.clock->sleep_for(std::min<Clock::Duration>(jittered, until - now), stop);
    }
  }

  void leave() override {
    const std::lock_guard guard{link_->mutex};
    // What broke with the session is free already.
    if (held_.empty()) {
      return;
    }
    const std::int64_t place = *held_.begin();
    held_.erase(held_.begin());
    try {
      link_->run(options_.name, "SELECT pg_advisory_unlock(hashtextextended($1, $2))", lock_, place);
    } catch (const CallRefused&) {
      held_.clear();  // with the session, all of them
    }
  }

 private:
  static constexpr milliseconds longest_pause{200};

  bool take() {
    const std::lock_guard guard{link_->mutex};
    if (!link_->connected()) {
      held_.clear();
    }
    std::string others;
    for (const std::int64_t place : held_) {
      others += (others.empty() ? "" : ",") + std::to_string(place);
    }
    try {
      // OFFSET 0: so that no more locks are tried than the first that is to be had.
      const auto rows =
          link_->run("the bulkhead of " + options_.name,
                     "SELECT place FROM (SELECT place FROM generate_series(1, $2::bigint) place WHERE place <> ALL "
                     "($3::bigint[]) OFFSET 0) free WHERE pg_try_advisory_lock(hashtextextended($1, place)) LIMIT 1",
                     lock_, static_cast<std::int64_t>(options_.calls), "{" + others + "}");
      if (rows.empty()) {
        return false;
      }
      held_.insert(rows[0][0].template as<std::int64_t>());
      return true;
    } catch (const CallRefused&) {
      held_.clear();
      throw;
    }
  }

  const std::shared_ptr<Link> link_;
  const BulkheadOptions options_;
  const std::string lock_;
  std::set<std::int64_t> held_;  ///< places, under the link's mutex
};

}  // namespace

SharedLimits::SharedLimits(std::string url, SharedLimitsOptions options) {
  postgres::check_schema_name(options.schema);
  link_ = std::make_shared<Link>(std::move(url), std::move(options));
}
SharedLimits::~SharedLimits() = default;
SharedLimits::SharedLimits(SharedLimits&&) noexcept = default;
SharedLimits& SharedLimits::operator=(SharedLimits&&) noexcept = default;

RateLimit SharedLimits::rate_limit(RateLimitOptions options) {
  static_cast<void>(RateLimit{options});  // says what is wrong with them
  auto turns = std::make_shared<SharedTurns<Link>>(link_, options);
  return RateLimit{std::move(options), std::move(turns)};
}

Bulkhead SharedLimits::bulkhead(BulkheadOptions options) {
  static_cast<void>(Bulkhead{options});
  return Bulkhead{std::make_shared<SharedPlaces<Link>>(link_->another(), std::move(options))};
}

}  // namespace penstock
