// SPDX-License-Identifier: Apache-2.0
#include "api.hpp"

#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "penstock/outbox.hpp"
#include "penstock/uuid.hpp"
#include "sql.hpp"
#include "tables.hpp"

namespace {

using nlohmann::json;
using namespace std::chrono_literals;

/// A port that nobody listens on.
int free_port() {
  const int probe = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);  // NOLINT: the sockets API
  const bool bound = ::bind(probe, any, size) == 0 && ::getsockname(probe, any, &size) == 0;
  ::close(probe);
  if (!bound) throw std::runtime_error{"no free port"};
  return ntohs(address.sin_port);
}

/// The API in this process, on a port of its own.
class Api {
 public:
  explicit Api(const std::string& postgres) : outbox_{postgres, {.source = "/shop/orders-api"}} {
    options_.postgres = postgres;
    options_.port = free_port();
    thread_ = std::jthread{[this](std::stop_token stop) { shop::serve_api(options_, outbox_, std::move(stop)); }};
    httplib::Client client{"127.0.0.1", options_.port};
    while (!client.Get("/healthz")) std::this_thread::yield();
  }
  httplib::Client client() const { return httplib::Client{"127.0.0.1", options_.port}; }

 private:
  shop::Options options_;
  penstock::Outbox outbox_;
  std::jthread thread_;
};

std::string postgres() {
  const char* url = std::getenv("PENSTOCK_POSTGRES_URL");
  if (url == nullptr) throw std::runtime_error{"PENSTOCK_POSTGRES_URL is not set"};
  return url;
}

class OrdersApi : public testing::Test {
 protected:
  static void SetUpTestSuite() { shop::create_tables(postgres()); }

  httplib::Result post(const std::string& body, const std::string& key) {
    return client_.Post("/orders", {{"Idempotency-Key", key}}, body, "application/json");
  }
  static std::int64_t count(const std::string& sql) {
    pqxx::connection connection{postgres()};
    pqxx::nontransaction tx{connection};
    return tx.exec(sql)[0][0].as<std::int64_t>();
  }
  static void expect_problem(const httplib::Result& result, int status, const std::string& field) {
    ASSERT_TRUE(result) << httplib::to_string(result.error());
    EXPECT_EQ(result->status, status) << result->body;
    EXPECT_EQ(result->get_header_value("Content-Type"), "application/problem+json");
    const auto problem = json::parse(result->body);
    EXPECT_EQ(problem.at("status"), status);
    EXPECT_FALSE(problem.at("title").get<std::string>().empty());
    EXPECT_FALSE(problem.at("detail").get<std::string>().empty());
    if (!field.empty()) {
      EXPECT_EQ(problem.at("field"), field);
    }
  }

  Api api_{postgres()};
  httplib::Client client_ = api_.client();
  std::string key_ = penstock::uuid7();
  std::string body_ = R"({"reference":"API-1","customer":null,"lines":[{"sku":"CUP","quantity":2,"unit_price":"2.55"}]})";
};

TEST_F(OrdersApi, OrderAndEventCommitTogetherAndA202TellsSo) {
  const auto placed = post(body_, key_);
  ASSERT_TRUE(placed);
  ASSERT_EQ(placed->status, 202) << placed->body;
  const auto id = json::parse(placed->body).at("id").get<std::string>();
  EXPECT_EQ(placed->get_header_value("Location"), "/orders/" + id);
  EXPECT_EQ(count("SELECT count(*) FROM shop.orders WHERE id = '" + id + "'"), 1);
  EXPECT_EQ(count("SELECT count(*) FROM penstock.outbox WHERE key = '" + id + "' AND type = 'shop.order.placed.v1'"), 1);

  const auto shown = client_.Get("/orders/" + id);
  ASSERT_TRUE(shown);
  const auto order = json::parse(shown->body);
  EXPECT_EQ(order.at("state"), "placed");
  EXPECT_EQ(order.at("story").at(0).at("event"), "shop.order.placed.v1");
}

TEST_F(OrdersApi, AKeyPlacesOneOrderHoweverOftenAndInWhateverQuotes) {
  const auto first = post(body_, key_);
  const auto again = post(body_, "\"" + key_ + "\"");
  ASSERT_TRUE(first && again);
  EXPECT_EQ(again->status, 202);
  EXPECT_EQ(json::parse(first->body).at("id"), json::parse(again->body).at("id"));
  EXPECT_EQ(count("SELECT count(*) FROM shop.orders WHERE idempotency_key = '" + key_ + "'"), 1);
  EXPECT_EQ(
      count("SELECT count(*) FROM penstock.outbox WHERE key = '" + json::parse(first->body).at("id").get<std::string>() + "'"),
      1);
}

TEST_F(OrdersApi, AKeyReusedForAnotherBodyIsAConflict) {
  ASSERT_EQ(post(body_, key_)->status, 202);
  expect_problem(post(R"({"reference":"API-2","lines":[{"sku":"CUP","quantity":2,"unit_price":"2.55"}]})", key_), 409,
                 "Idempotency-Key");
}

TEST_F(OrdersApi, BadRequestsNameTheField) {
  expect_problem(client_.Post("/orders", body_, "application/json"), 400, "Idempotency-Key");
  expect_problem(post("{", key_), 400, "/");
  expect_problem(post(R"({"reference":"R","lines":[{"sku":"CUP","quantity":0,"unit_price":"2.55"}]})", key_), 400,
                 "/lines/0/quantity");
  expect_problem(post(std::string(1'100'000, ' '), key_), 413, "");
  expect_problem(client_.Get("/orders/none"), 404, "id");
  expect_problem(client_.Get("/nothing"), 404, "");
  EXPECT_EQ(count("SELECT count(*) FROM shop.orders WHERE idempotency_key = '" + key_ + "'"), 0);
}

TEST_F(OrdersApi, ADatabaseThatIsAwayIsA503WithRetryAfter) {
  const Api cut_off{"postgresql://postgres@127.0.0.1:" + std::to_string(free_port()) + "/penstock?connect_timeout=2"};
  auto client = cut_off.client();
  const auto refused = client.Post("/orders", {{"Idempotency-Key", key_}}, body_, "application/json");
  expect_problem(refused, 503, "");
  ASSERT_TRUE(refused);
  EXPECT_FALSE(refused->get_header_value("Retry-After").empty());
  expect_problem(client.Get("/readyz"), 503, "");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client_.Get("/readyz")->status, 200);
}

}  // namespace
