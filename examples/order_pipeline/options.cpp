// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <vector>

namespace shop {
namespace {

const std::vector<std::string> all_roles{"api", "relay", "dispatcher", "worker", "notifier"};

std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool parse_options(int argc, char** argv, Options& options, int& exit_code) {
  CLI::App app{
      "Order fulfilment on penstock: orders-api -> relay -> Kafka -> dispatcher -> RabbitMQ -> workers -> Kafka and NATS -> "
      "notifier.\n"
      "Without --orders it serves until it is interrupted. With --orders it feeds them, waits until every one is settled, "
      "prints\n"
      "the account and exits 0 only if that balances."};
  std::vector<std::string> roles;
  app.add_option("--roles,--role", roles,
                 "what this process does: any of api, relay, dispatcher, worker, notifier, providers, or all, or none\n"
                 "(default: all). A worker serves a provider itself unless somebody else does, or its URL is given")
      ->delimiter(',');
  app.add_flag("--embedded", options.embedded, "use the memory broker; Postgres stays. All roles must be in this process");
  app.add_option("--postgres", options.postgres, "Postgres URL (default: $PENSTOCK_POSTGRES_URL)");
  app.add_option("--kafka", options.kafka, "Kafka bootstrap servers (default: $PENSTOCK_KAFKA)");
  app.add_option("--amqp", options.amqp, "RabbitMQ URL (default: $PENSTOCK_AMQP_URL)");
  app.add_option("--nats", options.nats, "NATS URL (default: $PENSTOCK_NATS_URL)");
  app.add_option("--host", options.host, "address the API listens on")->capture_default_str();
  app.add_option("--port", options.port, "port the API listens on")->capture_default_str()->check(CLI::Range(1, 65535));
  auto* payment_url = app.add_option("--payment-url", options.payment_url, "the payment provider")->capture_default_str();
  auto* stock_url = app.add_option("--stock-url", options.stock_url, "the stock service")->capture_default_str();
  app.add_option("--workers", options.workers, "most worker threads")->capture_default_str()->check(CLI::Range(1, 64));
  const auto share = CLI::Range(0.0, 1.0);
  app.add_option("--payment-failures", options.payment_failures, "share of payment calls that fail for now (0..1)")
      ->check(share);
  app.add_option("--stock-failures", options.stock_failures, "share of stock calls that fail for now (0..1)")->check(share);
  app.add_option("--payment-declines", options.payment_declines, "share of orders whose card is declined")->check(share);
  app.add_option("--payment-reviews", options.payment_reviews, "share of orders the payment provider cannot process")
      ->check(share);
  app.add_option("--stock-shortages", options.stock_shortages, "share of orders that cannot be filled")->check(share);
  app.add_option("--seed", options.seed, "of the providers' failures")->capture_default_str();
  app.add_option("--orders", options.orders,
                 "orders to feed: NDJSON, or CSV in the \"Online Retail\" format; - for standard input");
  app.add_option("--api-url", options.api_url, "where to feed the orders (default: http://HOST:PORT)");
  app.add_option("--rate", options.rate, "orders a second (0: as fast as they are taken)")->check(CLI::NonNegativeNumber);
  app.add_option("--limit", options.limit, "at most so many orders (0: all)");
  std::int64_t settle = options.settle.count();
  app.add_option("--settle", settle, "seconds without progress after which the account is drawn up anyway")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  app.add_flag("--account", options.account, "draw up the account of what is in Postgres, and exit");
  app.add_flag("--stay", options.stay, "go on serving after the orders are settled");
  app.add_flag("-v,--verbose", options.verbose, "log what penstock does");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : 2;
    return false;
  }
  exit_code = 2;
  if (roles.empty() || std::find(roles.begin(), roles.end(), "all") != roles.end())
    roles.insert(roles.end(), all_roles.begin(), all_roles.end());
  for (const auto& role : roles) {
    if (role == "all" || role == "none") continue;
    if (role != "providers" && std::find(all_roles.begin(), all_roles.end(), role) == all_roles.end()) {
      std::cerr << "--roles: there is no role '" << role
                << "'; the roles are api, relay, dispatcher, worker, notifier, providers\n";
      return false;
    }
    options.roles.insert(role);
  }
  if (options.account) options.roles.clear();
  const bool providers = options.roles.count("providers") != 0;
  const bool worker = options.roles.count("worker") != 0;
  options.serve_payment = providers || (worker && payment_url->count() == 0);
  options.serve_stock = providers || (worker && stock_url->count() == 0);
  if (options.embedded && !options.account &&
      !std::all_of(all_roles.begin(), all_roles.end(), [&](const auto& role) { return options.roles.count(role) != 0; })) {
    std::cerr << "--embedded: the memory broker is in this process alone, so all roles must be; leave --roles or --embedded "
                 "out\n";
    return false;
  }
  options.settle = std::chrono::seconds{settle};
  if (options.api_url.empty()) options.api_url = "http://" + options.host + ":" + std::to_string(options.port);

  struct Address {
    std::string& value;
    const char* variable;
    const char* option;
    bool needed;
  };
  const bool brokers = !options.embedded && std::any_of(options.roles.begin(), options.roles.end(),
                                                        [](const auto& role) { return role != "api" && role != "providers"; });
  for (const auto& address : {Address{options.postgres, "PENSTOCK_POSTGRES_URL", "--postgres", true},
                              Address{options.kafka, "PENSTOCK_KAFKA", "--kafka", brokers},
                              Address{options.amqp, "PENSTOCK_AMQP_URL", "--amqp", brokers},
                              Address{options.nats, "PENSTOCK_NATS_URL", "--nats", brokers}}) {
    if (address.value.empty()) address.value = from_environment(address.variable);
    if (address.value.empty() && address.needed) {
      std::cerr << address.option << " is missing: give it, or set " << address.variable
                << " (eval \"$(scripts/services start)\" starts private servers and sets all four)\n";
      return false;
    }
  }
  exit_code = 0;
  return true;
}

}  // namespace shop
