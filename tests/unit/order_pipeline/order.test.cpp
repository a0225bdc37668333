// SPDX-License-Identifier: Apache-2.0
#include "order.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "order_files.hpp"

namespace {

using shop::Decision;
using shop::InvalidOrder;
using shop::parse_order;

std::string order_with(const std::string& line) { return R"({"reference": "R-1", "lines": [)" + line + "]}"; }
constexpr const char* cup = R"({"sku": "CUP", "quantity": 2, "unit_price": "2.55"})";

std::string refused_field(const std::string& json) {
  try {
    parse_order(json);
  } catch (const InvalidOrder& error) {
    EXPECT_STRNE(error.what(), "");
    return error.field;
  }
  return "accepted";
}

TEST(Money, IsExactToTheThousandth) {
  EXPECT_EQ(shop::parse_money("2.55"), 2'550);
  EXPECT_EQ(shop::parse_money("0.001"), 1);
  EXPECT_EQ(shop::parse_money("-11062.06"), -11'062'060);
  EXPECT_EQ(shop::parse_money("27.5"), 27'500);
  EXPECT_EQ(shop::parse_money("7.0000"), 7'000);
  for (const char* text : {"", "-", ".", "1.", "1.2345", "1e3", "0x1", "1,5", " 1", "9999999999999"}) {
    EXPECT_THROW(shop::parse_money(text), std::invalid_argument) << text;
  }
  for (const char* text : {"2.55", "0.001", "-11062.06", "0.00", "31.995"})
    EXPECT_EQ(shop::format_money(shop::parse_money(text)), text);
}

TEST(Order, SurvivesItsOwnJson) {
  const auto order = parse_order(
      R"({"reference":"C536379","kind":"cancellation","customer":"14527","country":"EIRE","placed_at":"2010-12-01T09:41:00Z",
          "lines":[{"sku":"D","description":"Discount \u00a3","quantity":-1,"unit_price":27.5}]})");
  EXPECT_TRUE(order.cancellation);
  EXPECT_EQ(order.total(), -27'500);
  EXPECT_EQ(shop::to_json(parse_order(shop::to_json(order))), shop::to_json(order));
}

TEST(Order, ErrorsNameTheField) {
  EXPECT_EQ(refused_field("["), "");
  EXPECT_EQ(refused_field("[]"), "");
  EXPECT_EQ(refused_field(R"({"lines": []})"), "/reference");
  EXPECT_EQ(refused_field(R"({"reference": 7})"), "/reference");
  for (const char* text : {"\x1f", "\x7f", "\xc2\x80", "\xc2\x9f", "\xef\xbf\xbe", "\xef\xb7\x90", "\xf0\x9f\xbf\xbf"}) {
    EXPECT_EQ(refused_field(std::string{R"({"reference": "R)"} + text + "\"}"), *text == '\x1f' ? "" : "/reference") << text;
    EXPECT_EQ(refused_field(std::string{R"({"reference": "R", "customer": ")"} + text + "\"}"),
              *text == '\x1f' ? "" : "/customer");
  }
  EXPECT_EQ(refused_field(R"({"reference": "\u0000"})"), "/reference");
  EXPECT_EQ(refused_field(R"({"reference": "R", "kind": "gift"})"), "/kind");
  EXPECT_EQ(refused_field(R"({"reference": "R", "customer": 5})"), "/customer");
  EXPECT_EQ(refused_field(R"({"reference": "R", "placed_at": "yesterday"})"), "/placed_at");
  EXPECT_EQ(refused_field(R"({"reference": "R"})"), "/lines");
  EXPECT_EQ(refused_field(R"({"reference": "R", "lines": []})"), "/lines");
  EXPECT_EQ(refused_field(order_with("5")), "/lines/0");
  EXPECT_EQ(refused_field(order_with(R"({"quantity": 1, "unit_price": 1})")), "/lines/0/sku");
  EXPECT_EQ(refused_field(order_with(R"({"sku": "A", "quantity": 1.5, "unit_price": 1})")), "/lines/0/quantity");
  EXPECT_EQ(refused_field(order_with(R"({"sku": "A", "quantity": 0, "unit_price": 1})")), "/lines/0/quantity");
  EXPECT_EQ(refused_field(order_with(R"({"sku": "A", "quantity": 18446744073709551615, "unit_price": 1})")),
            "/lines/0/quantity");
  EXPECT_EQ(refused_field(order_with(R"({"sku": "A", "quantity": 1})")), "/lines/0/unit_price");
  EXPECT_EQ(refused_field(order_with(R"({"sku": "A", "quantity": 1, "unit_price": "1.2345"})")), "/lines/0/unit_price");
  EXPECT_EQ(refused_field(order_with(std::string{cup} + R"(, {"sku": "B", "quantity": 1, "unit_price": true})")),
            "/lines/1/unit_price");
  EXPECT_EQ(refused_field(order_with(cup)), "accepted");
}

TEST(Order, ATotalThatIsTooLargeNamesTheLineThatMakesItSo) {
  const std::string largest = R"({"sku":"A","quantity":1000000,"unit_price":"1000000"})";
  EXPECT_EQ(refused_field(order_with(largest)), "accepted");
  EXPECT_EQ(refused_field(order_with(R"({"sku":"A","quantity":10000000,"unit_price":"1000000"})")), "/lines/0");
  EXPECT_EQ(refused_field(order_with(R"({"sku":"A","quantity":-10000000,"unit_price":"1000000"})")), "/lines/0");
  EXPECT_EQ(refused_field(order_with(largest + "," + cup)), "/lines/1");
}

TEST(Order, EachKindHasItsEnd) {
  const auto decision = [](const std::string& json) { return shop::decide(parse_order(json)); };
  EXPECT_EQ(decision(order_with(cup)).kind, Decision::Kind::fulfil);
  EXPECT_EQ(decision(order_with(std::string{cup} + R"(,{"sku":"FREE","quantity":1,"unit_price":"0"})")).kind,
            Decision::Kind::fulfil);
  EXPECT_EQ(decision(order_with(R"({"sku":"A","quantity":-98,"unit_price":"0"})")).reason,
            "negative quantity: a stock correction");
  EXPECT_EQ(decision(order_with(R"({"sku":"A","quantity":33,"unit_price":"0"})")).reason, "zero price: nothing to pay");
  EXPECT_EQ(decision(order_with(R"({"sku":"B","quantity":1,"unit_price":"-11062.06"})")).reason,
            "negative price: a booking correction");
  const std::string cancelled = R"({"reference":"C1","kind":"cancellation","lines":[{"sku":"A","quantity":)";
  EXPECT_EQ(decision(cancelled + R"(-1,"unit_price":"4.65"}]})").kind, Decision::Kind::refund);
  EXPECT_EQ(decision(cancelled + R"(1,"unit_price":"4.65"}]})").kind, Decision::Kind::reject);
  EXPECT_EQ(decision(cancelled + R"(-1,"unit_price":"0"}]})").kind, Decision::Kind::reject);
}

TEST(Order, PostageIsNoGoods) {
  EXPECT_FALSE(shop::is_goods({.sku = "POST", .description = {}, .quantity = 1, .unit_price = 1}));
  EXPECT_FALSE(shop::is_goods({.sku = "BANK CHARGES", .description = {}, .quantity = 1, .unit_price = 1}));
  EXPECT_TRUE(shop::is_goods({.sku = "85123A", .description = {}, .quantity = 1, .unit_price = 1}));
}

constexpr const char* header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n";

TEST(OrderFiles, LinesOfAnInvoiceAreOneOrderAdjacentOrNot) {
  std::istringstream file{std::string{header} +
                          "1,A,\"MUG, \"\"BIG\"\"\",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\r\n"
                          "C2,D,Discount,-1,2010-12-01 08:27:00,27.5,,EIRE\r\n"
                          "1,A,\"two\nlines\",1,2010-12-01 08:26:00,0.001,17850.0,United Kingdom"};
  const auto orders = shop::read_orders(file, "test");
  ASSERT_EQ(orders.size(), 2U);
  EXPECT_EQ(orders[0].reference, "1");
  EXPECT_EQ(orders[0].customer, "17850");
  EXPECT_EQ(orders[0].placed_at, "2010-12-01T08:26:00Z");
  ASSERT_EQ(orders[0].lines.size(), 2U);
  EXPECT_EQ(orders[0].lines[0].description, "MUG, \"BIG\"");
  EXPECT_EQ(orders[0].lines[1].unit_price, 1);
  EXPECT_TRUE(orders[1].cancellation);
  EXPECT_EQ(orders[1].customer, "");
}

TEST(OrderFiles, DatesComeAsTheDataSetIsHandedRound) {
  for (const auto& [given, read] : {std::pair{"12/1/2010 8:26", "2010-12-01T08:26:00Z"},
                                    {"9/30/2011 17:05", "2011-09-30T17:05:00Z"},
                                    {"1/2/2011 03:04:05", "2011-01-02T03:04:05Z"},
                                    {"2010-12-01 08:26:00", "2010-12-01T08:26:00Z"},
                                    {"2010-12-01T08:26:00+01:00", "2010-12-01T08:26:00+01:00"}}) {
    std::istringstream file{std::string{header} + "1,A,x,6," + given + ",2.55,,UK\n"};
    EXPECT_EQ(shop::read_orders(file, "test").at(0).placed_at, read) << given;
  }
}

std::string complaint(const std::string& content) {
  std::istringstream file{content};
  try {
    shop::read_orders(file, "days.csv");
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(OrderFiles, ErrorsNameTheLineTheValueAndTheRemedy) {
  EXPECT_EQ(complaint(""), "days.csv: it is empty");
  EXPECT_EQ(complaint("a,b\n"), "days.csv: line 1: there is no column InvoiceNo in the header; add it");
  EXPECT_EQ(complaint(std::string{header} + "1,A\n"),
            "days.csv: line 2: 2 fields where the header has 8; quote a field that holds a comma");
  EXPECT_EQ(complaint(std::string{header} + "1,A,x,6x,2010-12-01 08:26:00,2.55,,UK\n"),
            "days.csv: line 2: Quantity is '6x'; it must be a whole number");
  EXPECT_EQ(complaint(std::string{header} + "1,A,x,6,2010-12-01 08:26:00,free,,UK\n"),
            "days.csv: line 2: UnitPrice is 'free'; it must be a decimal with at most three decimals");
  for (const char* date : {"13/1/2010 8:26", "2/30/2011 8:26", "1.12.2010 8:26", "12/1/10 8:26", "12/1/2010"}) {
    EXPECT_EQ(complaint(std::string{header} + "1,A,\"two\nlines\",6,12/1/2010 8:26,2,,UK\n1,A,x,6," + date + ",2,,UK\n"),
              "days.csv: line 4: InvoiceDate is '" + std::string{date} +
                  "'; give it as 12/1/2010 8:26 (month/day/year) or 2010-12-01 08:26:00");
  }
  EXPECT_EQ(complaint(std::string{header} + ",A,x,6,12/1/2010 8:26,2,,UK\n"),
            "days.csv: line 2: InvoiceNo is empty; give the number of the line's invoice");
  EXPECT_EQ(complaint(std::string{header} + "1,A,\"x,6,12/1/2010 8:26,2,,UK\n\n"),
            "days.csv: line 2: a quoted field has no closing quote; add it");
  EXPECT_EQ(complaint("{\"reference\": \"R\", \"lines\": []}\n"), "days.csv: line 1: /lines is []; give at least one line");
}

/// What the command line comes to; nothing when it is refused.
std::optional<shop::Options> options(std::vector<std::string> words) {
  words.insert(words.begin(), {"order_pipeline", "--postgres", "p", "--kafka", "k", "--amqp", "a", "--nats", "n"});
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  shop::Options options;
  int exit_code = 0;
  if (!shop::parse_options(static_cast<int>(argv.size()), argv.data(), options, exit_code)) {
    EXPECT_EQ(exit_code, 2);
    return std::nullopt;
  }
  return options;
}

TEST(CommandLine, AWorkerServesTheProvidersWhoseUrlsAreNotGiven) {
  const auto served = [](std::vector<std::string> words) {
    const auto read = options(std::move(words)).value();
    return std::pair{read.serve_payment, read.serve_stock};
  };
  EXPECT_EQ(served({}), (std::pair{true, true}));
  EXPECT_EQ(served({"--payment-url", "http://h:1"}), (std::pair{false, true}));
  EXPECT_EQ(served({"--stock-url", "http://h:1"}), (std::pair{true, false}));
  EXPECT_EQ(served({"--stock-url", "http://h:1", "--payment-url", "http://h:1"}), (std::pair{false, false}));
  EXPECT_EQ(served({"--roles", "all,providers", "--stock-url", "http://h:1"}), (std::pair{true, true}));
  EXPECT_EQ(served({"--roles", "api,relay"}), (std::pair{false, false}));
}

TEST(CommandLine, TheMemoryBrokerNeedsAllRolesInOneProcess) {
  EXPECT_TRUE(options({"--embedded"}));
  EXPECT_TRUE(options({"--embedded", "--roles", "all,providers"}));
  EXPECT_TRUE(options({"--embedded", "--account"}));
  testing::internal::CaptureStderr();
  EXPECT_FALSE(options({"--embedded", "--roles", "api,relay"}));
  EXPECT_FALSE(options({"--embedded", "--roles", "none"}));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::StartsWith("--embedded: "));
  EXPECT_FALSE(options({"--roles", "cook"}));
}

}  // namespace
