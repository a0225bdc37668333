// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>

namespace shop {

/// Everything the command line says.
struct Options {
  std::set<std::string> roles;  ///< of: api relay dispatcher worker notifier providers
  bool serve_payment = false;   ///< whether this process plays the payment provider,
  bool serve_stock = false;     ///< and the stock service
  bool embedded = false;        ///< memory broker in place of Kafka, RabbitMQ and NATS

  std::string postgres, kafka, amqp, nats;  ///< addresses

  std::string host = "127.0.0.1";
  int port = 3000;
  std::string payment_url = "http://127.0.0.1:3001";
  std::string stock_url = "http://127.0.0.1:3002";

  int workers = 8;
  double payment_failures = 0;  ///< share of calls answered 503, half of them after the money has moved
  double stock_failures = 0;    ///< as above
  double payment_declines = 0;  ///< share of orders whose card is declined: rejected
  double payment_reviews = 0;   ///< share of orders the provider cannot process: dead-lettered
  double stock_shortages = 0;   ///< share of orders that cannot be filled: rejected
  std::uint64_t seed = 1;

  std::string orders;   ///< file to feed; empty: none
  std::string api_url;  ///< where to feed it; default: this process, or port 3000
  double rate = 0;      ///< orders a second; 0: as fast as they are taken
  std::uint64_t limit = 0;
  std::chrono::seconds settle{60};  ///< how long to wait without any progress before the account is drawn up
  bool account = false;             ///< draw up the account and exit
  bool stay = false;                ///< go on serving after the orders have been fed and settled
  bool verbose = false;
};

/// Reads the command line and the environment. Returns false when the process is to end with `exit_code` (help, or a mistake
/// that has been explained).
bool parse_options(int argc, char** argv, Options& options, int& exit_code);

}  // namespace shop
