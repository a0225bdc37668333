// SPDX-License-Identifier: Apache-2.0
#include "providers.hpp"

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string_view>

#include "serve.hpp"
#include "sql.hpp"

namespace shop {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

/// A number in [0, 1) that is always the same for the same order: what a card or a shelf says does not change with a retry.
double fate(const std::string& order_id, std::uint64_t seed, const char* what) {
  std::uint64_t hash = 14695981039346656037ULL ^ seed;
  for (const char c : order_id + what) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  std::mt19937_64 engine{hash};
  return std::uniform_real_distribution<double>{}(engine);
}

/// One provider: asks for the ledger entry under the key, makes it once, and fails at its rate before or after.
class Service {
 public:
  Service(const Options& options, double failures, std::uint64_t salt)
      : options_{options}, failures_{failures}, chance_{options.seed + salt}, connections_{options.postgres} {}
  virtual ~Service() = default;
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  void run_until(const std::string& url, const std::stop_token& stop) {
    const auto colon = url.rfind(':');
    const auto host = url.substr(url.find("//") + 2, colon - url.find("//") - 2);
    const int port = std::stoi(url.substr(colon + 1));
    while (!stop.stop_requested()) {
      httplib::Server server;
      server.new_task_queue = [] { return new httplib::ThreadPool(8); };
      own_the_port(server);
      add_routes(server);
      if (server.bind_to_port(host, port)) serve_until(server, stop);
      for (int i = 0; i < 10 && !stop.stop_requested(); ++i) std::this_thread::sleep_for(50ms);
    }
  }

 protected:
  using Entry = std::function<void(pqxx::work&, const std::string& key, const json& body, httplib::Response&)>;

  void add(httplib::Server& server, const std::string& path, Entry entry) {
    server.Post(path, [this, entry](const httplib::Request& request, httplib::Response& response) {
      answer(entry, request, response);
    });
  }
  virtual void add_routes(httplib::Server& server) = 0;

  const Options& options_;

 private:
  void answer(const Entry& entry, const httplib::Request& request, httplib::Response& response) {
    const double luck = chance();
    if (luck < failures_ / 2) return say(response, 503, "out of order");
    try {
      const auto body = json::parse(request.body);
      connections_.with([&](pqxx::connection& connection) {
        pqxx::work tx{connection};
        entry(tx, request.get_header_value("Idempotency-Key"), body, response);
        tx.commit();
        return 0;
      });
    } catch (const json::exception& error) {
      return say(response, 400, error.what());
    } catch (const std::exception& error) {
      return say(response, 503, error.what());
    }
    // The nasty half: it is done, and the caller does not learn of it.
    if (luck < failures_) say(response, 503, "out of order, after the fact");
  }

 protected:
  static void say(httplib::Response& response, int status, const std::string& detail) {
    response.status = status;
    response.set_content(json{{"detail", detail}}.dump(-1, ' ', false, json::error_handler_t::replace), "application/json");
  }

 private:
  double chance() {
    const std::lock_guard lock{mutex_};
    return std::uniform_real_distribution<double>{}(chance_);
  }

  double failures_;
  std::mutex mutex_;
  std::mt19937_64 chance_;
  Connections connections_;
};

class Payment final : public Service {
 public:
  explicit Payment(const Options& options) : Service{options, options.payment_failures, 1} {}

 private:
  void add_routes(httplib::Server& server) override {
    for (const char* kind : {"charge", "refund"}) {
      add(server, "/" + std::string{kind} + "s",
          [this, kind](pqxx::work& tx, const std::string& key, const json& body, httplib::Response& response) {
            const auto order = body.at("order_id").get<std::string>();
            if (fate(order, options_.seed, "review") < options_.payment_reviews)
              return say(response, 422, "account under review, code 7");
            if (kind == std::string_view{"charge"} && fate(order, options_.seed, "decline") < options_.payment_declines)
              return say(response, 402, "card declined");
            run(tx,
                "INSERT INTO payment.ledger (idempotency_key, order_id, kind, amount) VALUES ($1, $2, $3, $4::numeric) "
                "ON CONFLICT (idempotency_key) DO NOTHING",
                key, order, kind, body.at("amount").get<std::string>());
            say(response, 200, "paid");
          });
    }
  }
};

class Stock final : public Service {
 public:
  explicit Stock(const Options& options) : Service{options, options.stock_failures, 2} {}

 private:
  void add_routes(httplib::Server& server) override {
    add(server, "/reservations", [this](pqxx::work& tx, const std::string& key, const json& body, httplib::Response& response) {
      const auto order = body.at("order_id").get<std::string>();
      if (fate(order, options_.seed, "shortage") < options_.stock_shortages) return say(response, 409, "out of stock");
      run(tx,
          "INSERT INTO stock.ledger (idempotency_key, order_id, pieces) VALUES ($1, $2, $3) ON CONFLICT (idempotency_key) DO "
          "NOTHING",
          key, order, body.at("pieces").get<std::int64_t>());
      say(response, 200, "reserved");
    });
    add(server, "/releases", [](pqxx::work& tx, const std::string& key, const json&, httplib::Response& response) {
      run(tx, "UPDATE stock.ledger SET released_at = clock_timestamp() WHERE idempotency_key = $1 AND released_at IS NULL",
          key);
      say(response, 200, "released");
    });
  }
};

Answer ask(const std::string& url, const std::string& path, const std::string& key, const json& body) {
  httplib::Client client{url};
  client.set_connection_timeout(1s);
  client.set_read_timeout(3s);
  client.set_write_timeout(3s);
  const auto result = client.Post(path, {{"Idempotency-Key", key}}, body.dump(), "application/json");
  if (!result) return {Answer::Kind::unavailable, url + path + ": " + httplib::to_string(result.error())};
  const auto said = json::parse(result->body, nullptr, false);
  const auto detail = said.is_object() ? said.value("detail", "") : std::string{};
  switch (result->status) {
    case 200: return {Answer::Kind::ok, detail};
    case 402:
    case 409: return {Answer::Kind::refused, detail};
    case 422: return {Answer::Kind::unprocessable, detail};
    default: return {Answer::Kind::unavailable, path + " answered " + std::to_string(result->status) + ": " + detail};
  }
}

}  // namespace

void serve_payment(const Options& options, std::stop_token stop) { Payment{options}.run_until(options.payment_url, stop); }
void serve_stock(const Options& options, std::stop_token stop) { Stock{options}.run_until(options.stock_url, stop); }

Answer Providers::charge(const std::string& key, const std::string& order_id, Mills amount) const {
  return ask(payment_url_, "/charges", key, {{"order_id", order_id}, {"amount", format_money(amount)}});
}
Answer Providers::refund(const std::string& key, const std::string& order_id, Mills amount) const {
  return ask(payment_url_, "/refunds", key, {{"order_id", order_id}, {"amount", format_money(amount)}});
}
Answer Providers::reserve(const std::string& key, const std::string& order_id, const Order& order) const {
  std::int64_t pieces = 0;
  for (const auto& line : order.lines) {
    if (is_goods(line)) pieces += line.quantity;
  }
  if (pieces == 0) return {Answer::Kind::ok, "no goods"};
  return ask(stock_url_, "/reservations", key, {{"order_id", order_id}, {"pieces", pieces}});
}
Answer Providers::release(const std::string& key, const std::string& order_id) const {
  return ask(stock_url_, "/releases", key, {{"order_id", order_id}});
}

}  // namespace shop
