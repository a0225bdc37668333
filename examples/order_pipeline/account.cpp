// SPDX-License-Identifier: Apache-2.0
#include "account.hpp"

#include <chrono>
#include <iomanip>
#include <iostream>
#include <optional>
#include <thread>

#include "progress.hpp"
#include "sql.hpp"

namespace shop {
namespace {

using namespace std::chrono_literals;

std::int64_t number(pqxx::transaction_base& tx, const std::string& sql) { return tx.exec(sql)[0][0].as<std::int64_t>(0); }

// An order that is not settled and whose message is a dead letter, on either side.
constexpr const char* open_orders =
    "(SELECT o.id, EXISTS (SELECT 1 FROM penstock.dead_letters d WHERE d.key = o.id AND d.state = 'dead') AS dead, "
    " EXISTS (SELECT 1 FROM penstock.parked p WHERE p.key = o.id) AS parked "
    " FROM shop.orders o WHERE o.settled_at IS NULL)";

}  // namespace

bool Account::balances() const {
  return placed == fulfilled + cancelled + rejected + dead_lettered && in_flight == 0 && lost == 0 && double_charged == 0 &&
         wrongly_charged == 0 && double_effects == 0 && out_of_order == 0 && unannounced == 0;
}

Account draw_up(const std::string& postgres, const Fed* fed) {
  pqxx::connection connection{postgres};
  pqxx::transaction<pqxx::isolation_level::repeatable_read> tx{connection};
  Account account;
  for (const auto& row : tx.exec("SELECT state, count(*) FROM shop.orders GROUP BY state")) {
    const auto count = row[1].as<std::int64_t>();
    const std::string state = row[0].c_str();
    account.placed += count;
    if (state == "fulfilled") account.fulfilled = count;
    if (state == "cancelled") account.cancelled = count;
    if (state == "rejected") account.rejected = count;
  }
  for (const auto& row : tx.exec("SELECT reason, count(*) FROM shop.orders WHERE state = 'rejected' GROUP BY reason")) {
    account.reasons[row[0].c_str()] = row[1].as<std::int64_t>();
  }
  const auto open = tx.exec(std::string{"SELECT count(*) FILTER (WHERE dead), count(*) FILTER (WHERE NOT dead), "
                                        "count(*) FILTER (WHERE NOT dead AND parked) FROM "} +
                            open_orders + " o");
  account.dead_lettered = open[0][0].as<std::int64_t>();
  account.in_flight = open[0][1].as<std::int64_t>();
  account.parked = open[0][2].as<std::int64_t>();
  for (const auto& row : tx.exec("SELECT reason, count(*) FROM penstock.dead_letters GROUP BY reason")) {
    account.dead_reasons[row[0].c_str()] = row[1].as<std::int64_t>();
  }
  account.double_charged =
      number(tx, "SELECT count(*) FROM (SELECT 1 FROM payment.ledger GROUP BY order_id, kind HAVING count(*) > 1) x");
  account.wrongly_charged = number(tx,
                                   "SELECT count(*) FROM shop.orders o LEFT JOIN (SELECT DISTINCT order_id, kind FROM "
                                   "payment.ledger) l ON l.order_id = o.id "
                                   "WHERE o.settled_at IS NOT NULL AND l.kind IS DISTINCT FROM "
                                   "CASE o.state WHEN 'fulfilled' THEN 'charge' WHEN 'cancelled' THEN 'refund' END");
  account.double_effects =
      number(tx,
             "SELECT count(*) FROM (SELECT order_id FROM shop.fulfilments GROUP BY order_id HAVING count(*) > 1 "
             "UNION SELECT order_id FROM shop.notifications GROUP BY order_id HAVING count(*) > 1 "
             "UNION SELECT order_id FROM shop.topic_log GROUP BY order_id, event_id HAVING count(*) > 1) x");
  account.out_of_order = number(tx,
                                "SELECT count(DISTINCT order_id) FROM (SELECT order_id, type, "
                                "row_number() OVER (PARTITION BY order_id ORDER BY id) AS handled, "
                                "row_number() OVER (PARTITION BY order_id ORDER BY position) AS stands FROM shop.topic_log) x "
                                "WHERE (type = 'shop.order.placed.v1') <> (handled = 1) OR handled <> stands");
  account.unannounced = number(tx,
                               "SELECT count(*) FROM shop.orders o WHERE o.settled_at IS NOT NULL AND ("
                               "NOT EXISTS (SELECT 1 FROM shop.notifications n WHERE n.order_id = o.id) OR "
                               "(SELECT count(*) FROM shop.topic_log t WHERE t.order_id = o.id) < 2)");
  const auto audit = tx.exec(
      "SELECT count(*) FILTER (WHERE attempt > 0), count(*) FILTER (WHERE outcome = 'parked'), coalesce(max(id), 0) FROM "
      "penstock.audit");
  account.attempts = audit[0][0].as<std::int64_t>();
  account.retries = audit[0][1].as<std::int64_t>();
  account.progress = audit[0][2].as<std::int64_t>() + account.placed;
  const auto latency = tx.exec(
      "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) FROM "
      "(SELECT extract(epoch FROM settled_at - placed_at) * 1000 AS ms FROM shop.orders WHERE state = 'fulfilled') x");
  account.p50 = latency[0][0].as<double>(0);
  account.p99 = latency[0][1].as<double>(0);
  if (fed != nullptr) {
    account.refused = fed->refused;
    for (const auto& id : fed->accepted) {
      if (run(tx, "SELECT 1 FROM shop.orders WHERE id = $1", id).empty()) ++account.lost;
    }
  }
  return account;
}

Account wait_for_account(const Options& options, const Fed& fed, std::stop_token stop) {
  Account account;
  std::int64_t progress = -1;
  auto since = std::chrono::steady_clock::now();
  std::optional<Progress> bar;
  while (true) {
    try {
      account = draw_up(options.postgres);
      if (!bar) bar.emplace("orders settled", static_cast<std::size_t>(account.placed));
      const auto done = static_cast<std::size_t>(account.placed - account.in_flight);
      if (account.settled()) {
        bar->finish(done);
        return draw_up(options.postgres, &fed);
      }
      bar->show(done);
      if (account.progress != progress) {
        progress = account.progress;
        since = std::chrono::steady_clock::now();
      }
    } catch (const pqxx::failure& error) {
      if (!is_away(error)) throw;
      // Postgres is away; it is waited for like everything else.
    }
    if (stop.stop_requested() || std::chrono::steady_clock::now() - since > options.settle) break;
    std::this_thread::sleep_for(200ms);
  }
  account = draw_up(options.postgres, &fed);
  if (!stop.stop_requested()) {
    account.lost += account.in_flight - account.parked;
    account.in_flight = account.parked;
  }
  return account;
}

void print(const Account& account, std::ostream& out) {
  const auto row = [&](const std::string& name, std::int64_t value, const char* note = "") {
    out << "  " << std::left << std::setw(34) << name << std::right << std::setw(10) << value << "  " << note << "\n";
  };
  out << "account\n";
  row("placed", account.placed);
  row("fulfilled", account.fulfilled);
  row("cancelled", account.cancelled);
  row("rejected", account.rejected);
  for (const auto& [reason, count] : account.reasons) row("  " + reason, count);
  row("dead-lettered", account.dead_lettered);
  for (const auto& [reason, count] : account.dead_reasons) row("  " + reason, count);
  if (!account.refused.empty()) {
    std::int64_t refused = 0;
    for (const auto& entry : account.refused) refused += entry.second;
    row("refused by the API, not placed", refused);
    for (const auto& [reason, count] : account.refused) row("  " + reason, count);
  }
  row("in flight", account.in_flight);
  row("lost", account.lost, "must be 0");
  row("double-charged", account.double_charged, "must be 0");
  row("charged wrongly", account.wrongly_charged, "must be 0");
  row("settled or notified twice", account.double_effects, "must be 0");
  row("out of order", account.out_of_order, "must be 0");
  row("settled, not announced yet", account.unannounced, "must be 0");
  row("attempts", account.attempts);
  row("attempts that were parked", account.retries);
  out << std::fixed << std::setprecision(1);
  out << "  commit to fulfilled: p50 " << account.p50 << " ms, p99 " << account.p99 << " ms\n";
  out << (account.balances() ? "the account balances\n" : "THE ACCOUNT DOES NOT BALANCE\n") << std::flush;
}

}  // namespace shop
