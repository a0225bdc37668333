// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <stop_token>
#include <string>

#include "feeder.hpp"
#include "options.hpp"

namespace shop {

/// What became of every order, read from Postgres and the providers' ledgers. Nothing here is remembered by the program itself
/// but which orders the API accepted.
struct Account {
  std::int64_t placed = 0, fulfilled = 0, cancelled = 0, rejected = 0, dead_lettered = 0, in_flight = 0, parked = 0;
  std::map<std::string, std::int64_t> reasons;  ///< of rejections
  std::map<std::string, std::int64_t> dead_reasons;
  std::map<std::string, std::int64_t> refused;  ///< of the orders fed, by status and field: never placed, so part of no sum
  std::int64_t lost = 0;                        ///< accepted and unknown; or, after the wait for them, open and nowhere
  std::int64_t double_charged = 0;              ///< orders with two charges, or two refunds, in the payment ledger
  std::int64_t wrongly_charged = 0;             ///< charged and not fulfilled, or fulfilled and not charged
  std::int64_t double_effects = 0;              ///< orders settled, or notified, more than once
  std::int64_t out_of_order =
      0;  ///< orders whose events stand on the topic, or were handled, in another order than they happened
  std::int64_t unannounced = 0;  ///< settled orders whose notification or topic entry is still missing
  std::int64_t attempts = 0, retries = 0;
  double p50 = 0, p99 = 0;    ///< milliseconds from the order's commit to its fulfilment
  std::int64_t progress = 0;  ///< changes whenever anything has happened

  [[nodiscard]] bool settled() const { return in_flight == 0 && unannounced == 0; }
  [[nodiscard]] bool balances() const;
};

Account draw_up(const std::string& postgres, const Fed* fed = nullptr);

/// Waits until every order is settled, or nothing has happened for `options.settle`; what is then still open and not parked is
/// lost.
Account wait_for_account(const Options& options, const Fed& fed, std::stop_token stop);

void print(const Account& account, std::ostream& out);

}  // namespace shop
