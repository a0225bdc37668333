// SPDX-License-Identifier: Apache-2.0
#include "api.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "penstock/outbox.hpp"
#include "penstock/uuid.hpp"
#include "sql.hpp"
#include "support/ports.hpp"
#include "support/private_postgres.hpp"
#include "tables.hpp"

namespace {

using nlohmann::json;
using namespace std::chrono_literals;

/// The API in this process, on a port of its own.
class Api {
 public:
  explicit Api(const std::string& postgres) : outbox_{postgres, {.source = "/shop/orders-api"}} {
    options_.postgres = postgres;
    options_.port = penstock::test::free_port();
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
  const auto line = [](const std::string& rest) { return R"({"reference":"R","lines":[{"sku":"CUP",)" + rest + "}]}"; };
  expect_problem(post(line(R"("quantity":10000000,"unit_price":"1000000")"), key_), 400, "/lines/0");
  std::string many = R"({"reference":"R","lines":[)";
  for (int i = 0; i < 5'000; ++i) many += R"({"sku":"CUP","quantity":10000000,"unit_price":"1000000"},)";
  many.back() = ']';
  expect_problem(post(many + "}", key_), 400, "/lines/0");
  for (const std::string text :
       {R"(\u007f)", R"(\u0080)", R"(\u009f)", R"(\ufdd0)", R"(\uffff)", R"(\ud83f\udfff)", R"(\u0000)"}) {
    expect_problem(post(R"({"reference":"R)" + text + R"(","lines":[{"sku":"C","quantity":1,"unit_price":"1"}]})", key_), 400,
                   "/reference");
  }
  for (const std::string key : {"caf\xe9", "\xff", "\xed\xa0\x80", "k\xc2\x80"}) {
    expect_problem(post(body_, key), 400, "Idempotency-Key");
  }
  expect_problem(client_.Get("/orders/none"), 404, "id");
  expect_problem(client_.Get("/orders/%FF"), 404, "id");
  expect_problem(client_.Get("/orders/none%00"), 404, "id");
  expect_problem(client_.Get("/nothing"), 404, "");
  EXPECT_EQ(count("SELECT count(*) FROM shop.orders WHERE idempotency_key = '" + key_ + "'"), 0);
}

TEST_F(OrdersApi, ABodyIsTakenUpToOneMebibyteWhateverItsType) {
  const auto sized = [this](std::size_t size) { return body_ + std::string(size - body_.size(), ' '); };
  for (const char* type : {"application/json", "application/x-www-form-urlencoded", "text/plain"}) {
    const auto largest = client_.Post("/orders", {{"Idempotency-Key", key_ + type}}, sized(1'048'576), type);
    ASSERT_TRUE(largest);
    EXPECT_EQ(largest->status, 202) << type << ": " << largest->body;
    const auto larger = client_.Post("/orders", {{"Idempotency-Key", key_}}, sized(1'048'577), type);
    expect_problem(larger, 413, "");
    EXPECT_THAT(larger->body, testing::HasSubstr("larger than 1048576 bytes"));
  }
  const auto in_chunks = [this](std::size_t size) {
    return client_.Post(
        "/orders", {{"Idempotency-Key", key_ + "chunks"}},
        [=, this](std::size_t offset, httplib::DataSink& sink) {
          const auto piece = offset == 0 ? body_ : std::string(std::min<std::size_t>(65'536, size - offset), ' ');
          sink.write(piece.data(), piece.size());
          if (offset + piece.size() == size) sink.done();
          return true;
        },
        "application/json");
  };
  EXPECT_EQ(in_chunks(1'048'576)->status, 202);
  expect_problem(in_chunks(1'048'577), 413, "");
  expect_problem(client_.Post("/orders", {{"Idempotency-Key", key_}}, httplib::MultipartFormDataItems{{"o", body_, "", ""}}),
                 415, "Content-Type");
  EXPECT_EQ(client_.Get("/readyz")->status, 200);
}

TEST_F(OrdersApi, ADatabaseThatIsAwayIsA503WithRetryAfter) {
  const Api cut_off{"postgresql://postgres@127.0.0.1:" + std::to_string(penstock::test::free_port()) +
                    "/penstock?connect_timeout=2"};
  auto client = cut_off.client();
  const auto refused = client.Post("/orders", {{"Idempotency-Key", key_}}, body_, "application/json");
  expect_problem(refused, 503, "");
  ASSERT_TRUE(refused);
  EXPECT_FALSE(refused->get_header_value("Retry-After").empty());
  expect_problem(client.Get("/readyz"), 503, "");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client_.Get("/readyz")->status, 200);
}

/// Asks until it is answered otherwise than with 503.
httplib::Result once_back(const std::function<httplib::Result()>& ask) {
  for (auto result = ask();; result = ask()) {
    if (!result || result->status != 503) return result;
  }
}

TEST_F(OrdersApi, ADatabaseThatIsKilledRestartedOrPausedIsA503AndThenItIsNot) {
  const penstock::test::PrivatePostgres server;
  const auto url = server.url() + "?connect_timeout=2";
  shop::create_tables(url);
  const Api cut_off{url};
  auto client = cut_off.client();
  client.set_read_timeout(30s);
  const auto place = [&](const std::string& key) {
    return client.Post("/orders", {{"Idempotency-Key", key}}, body_, "application/json");
  };
  const auto expect_away = [&](const httplib::Result& result) {
    expect_problem(result, 503, "");
    ASSERT_TRUE(result);
    EXPECT_FALSE(result->get_header_value("Retry-After").empty());
  };
  ASSERT_EQ(place("before")->status, 202);

  // The connection that waits in the pool broke meanwhile, which no request is to notice.
  server.tell("restart");
  const auto restarted = place("restarted");
  ASSERT_TRUE(restarted);
  EXPECT_EQ(restarted->status, 202) << restarted->body;

  server.tell("kill");
  expect_away(place("killed"));
  expect_away(client.Get("/readyz"));
  expect_away(client.Get("/orders/some"));
  server.tell("restart");
  EXPECT_EQ(place("killed")->status, 202);

  // It is there and says nothing, to the connection in the pool as to a new one.
  server.tell("pause");
  const auto began = std::chrono::steady_clock::now();
  expect_away(place("paused"));
  expect_away(place("paused"));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 20s);
  server.tell("resume");
  EXPECT_EQ(once_back([&] { return place("paused"); })->status, 202);

  // In the middle of a statement: the server is told to end the session, and then the statement takes too long.
  pqxx::connection other{url};
  {
    pqxx::work lock{other};
    lock.exec("LOCK TABLE shop.orders");
    auto waiting = std::async(std::launch::async, [&] { return place("in flight"); });
    pqxx::connection third{url};
    pqxx::nontransaction tx{third};
    while (tx.exec("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")[0][0]
               .as<int>() == 0) {
      std::this_thread::yield();
    }
    expect_away(waiting.get());
    expect_away(place("in flight"));
  }
  EXPECT_EQ(place("in flight")->status, 202);

  pqxx::nontransaction tx{other};
  EXPECT_EQ(tx.exec("SELECT string_agg(idempotency_key, ', ' ORDER BY placed_at) FROM shop.orders")[0][0].c_str(),
            std::string{"before, restarted, killed, paused, in flight"});
  EXPECT_EQ(tx.exec("SELECT count(*) FROM penstock.outbox")[0][0].as<int>(), 5);
}

}  // namespace
