// SPDX-License-Identifier: Apache-2.0
#include "postgres/watch.hpp"

#include <algorithm>
#include <utility>

#include "postgres/fill_in.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"
#include "postgres/window_sql.hpp"

namespace penstock::postgres {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookEvery = 950ms;  // a little less than the second in which cursors ask
constexpr auto kHeldFor = 100ms;
constexpr auto kAnnouncement = 10s;  // how long an announced sleep is believed, unless it is longer

}  // namespace

Watch::Watch(const std::string& schema, std::shared_ptr<WakeHub> hub, bool shared_by_pooler)
    : schema_{schema}, look_sql_{(shared_by_pooler ? reader_settings() : "") + look_sql(schema)}, hub_{std::move(hub)} {}

bool Watch::nothing_since(Steady::time_point since, pqxx::connection& connection) {
  const std::lock_guard lock{mutex_};
  if (!seen_ || Steady::now() - last_look_ >= kLookEvery || last_look_ < announced_) {
    look(connection);
  }
  // A look that was over before the read began has shown nothing that the read has not seen.
  return first_look_ <= since && found_ <= since;
}

void Watch::look(pqxx::connection& connection) {
  const auto begin = Steady::now();
  ArrayLiteral names;
  ArrayLiteral owners;
  ArrayLiteral tokens;
  ArrayLiteral leases;
  for (const auto& [name, resting] : resting_) {
    if (!resting.lost && begin - resting.seen < resting.lease.lasts) {
      names.add(name);
      owners.add(resting.lease.owner);
      tokens.add(std::to_string(resting.lease.token));
      leases.add(std::to_string(resting.lease.lasts.count()));
    }
  }
  pqxx::nontransaction tx{connection};
  const Snapshot before = seen_.value_or(Snapshot{});
  const auto found = tx.exec(reader_settings() +
                             filled_in(tx, look_sql_,
                                       {seen_ ? std::optional{std::to_string(before.xmax)} : std::nullopt,
                                        array_of(before.in_flight), names.take().value_or("{}"), owners.take().value_or("{}"),
                                        tokens.take().value_or("{}"), leases.take().value_or("{}")}));
  const auto end = Steady::now();
  // The first row is the answer, the others name the leases that were renewed.
  for (auto& [name, resting] : resting_) {
    resting.lost = resting.lost || begin - resting.seen < resting.lease.lasts;
  }
  for (pqxx::result::size_type i = 1; i < found.size(); ++i) {
    if (const auto resting = resting_.find(found[i]["renewed"].c_str()); resting != resting_.end()) {
      resting->second.lost = false;
      resting->second.renewed = begin;
    }
  }
  Snapshot now = Snapshot::parse(found[0]["cur"].c_str());
  if (!seen_) {
    first_look_ = end;
  } else if (found[0]["news"].as<bool>() || now.xmax < seen_->xmax) {  // or a pooler has led us to another server
    found_ = end;
    hub_->signal();
  }
  seen_ = std::move(now);
  behind_ = found[0]["behind"].as<bool>();
  last_look_ = begin;
}

bool Watch::any_behind() {
  const std::lock_guard lock{mutex_};
  return behind_;
}

void Watch::forget() noexcept {
  const std::lock_guard lock{mutex_};
  seen_.reset();
  held_asked_ = {};
}

void Watch::rest(const std::string& cursor, const Lease& lease) {
  const std::lock_guard lock{mutex_};
  const auto now = Steady::now();
  resting_.insert_or_assign(cursor, Resting{.lease = lease, .renewed = {}, .seen = now});
}

std::optional<Watch::Steady::time_point> Watch::renewed(const std::string& cursor) {
  const std::lock_guard lock{mutex_};
  const auto resting = resting_.find(cursor);
  if (resting == resting_.end() || resting->second.lost) {
    return std::nullopt;
  }
  resting->second.seen = Steady::now();
  return resting->second.renewed;
}

void Watch::rise(const std::string& cursor) noexcept {
  const std::lock_guard lock{mutex_};
  resting_.erase(cursor);
}

bool Watch::is_held(const std::string& cursor, const std::string& owner, pqxx::connection& connection) {
  const std::lock_guard lock{mutex_};
  if (const auto now = Steady::now(); now - held_asked_ >= kHeldFor) {
    pqxx::nontransaction tx{connection};
    held_.clear();
    for (const auto& row :
         run(tx, in_schema("SELECT name, owner FROM @schema@.cursor_status WHERE lease_until > clock_timestamp()", schema_))) {
      held_.emplace(row[0].c_str(), row[1].c_str());
    }
    held_asked_ = now;
  }
  const auto held = held_.find(cursor);
  return held != held_.end() && held->second != owner;
}

/// Nothing is taken back when the sleep ends: soon enough, the announcement does.
bool Watch::announce_sleep(std::chrono::milliseconds most, Steady::time_point since, pqxx::connection& connection) {
  const std::lock_guard lock{mutex_};
  const auto now = Steady::now();
  if (now + most <= announced_until_) {
    return announced_ > since && announced_ > last_look_;
  }
  const auto lasts = std::max<std::chrono::milliseconds>(kAnnouncement, most);
  pqxx::nontransaction tx{connection};
  run(tx,
      in_schema("SELECT setval('@schema@.asleep_until', greatest(pg_sequence_last_value('@schema@.asleep_until'::regclass),"
                " (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1::bigint))",
                schema_),
      static_cast<std::int64_t>(lasts.count()));
  announced_ = Steady::now();
  announced_until_ = now + lasts;
  return true;
}

}  // namespace penstock::postgres
