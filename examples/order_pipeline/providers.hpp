// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stop_token>
#include <string>

#include "options.hpp"
#include "order.hpp"

namespace shop {

/// The payment provider and the stock service: two small HTTP services on the ports of their URLs, each with a ledger of its
/// own, keyed by Idempotency-Key, and failing as often as the options say. Each blocks until `stop`. Where a port is already
/// served, by another process, it stands by and takes over when that one is gone.
void serve_payment(const Options& options, std::stop_token stop);
void serve_stock(const Options& options, std::stop_token stop);

/// What a provider says.
struct Answer {
  enum class Kind {
    ok,
    refused,        ///< it will not, for a business reason
    unprocessable,  ///< it cannot, and nobody knows why: a case for a person
    unavailable     ///< it failed or did not answer: ask again
  } kind = Kind::unavailable;
  std::string detail;
};

/// The worker's side of both services: every call has a timeout and carries an idempotency key.
class Providers {
 public:
  explicit Providers(const Options& options) : payment_url_{options.payment_url}, stock_url_{options.stock_url} {}

  Answer charge(const std::string& key, const std::string& order_id, Mills amount) const;
  Answer refund(const std::string& key, const std::string& order_id, Mills amount) const;
  Answer reserve(const std::string& key, const std::string& order_id, const Order& order) const;
  Answer release(const std::string& key, const std::string& order_id) const;

 private:
  std::string payment_url_;
  std::string stock_url_;
};

}  // namespace shop
