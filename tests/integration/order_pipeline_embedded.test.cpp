// SPDX-License-Identifier: Apache-2.0
// The example as a user starts it: the program, a file of orders, one process, Postgres and the memory broker.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/ports.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"

namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using penstock::test::eventually;
using testing::ContainsRegex;
using testing::HasSubstr;

/// A database of one run, so that its account speaks of that run's orders alone.
class OrderPipeline : public testing::Test {
 protected:
  OrderPipeline() { on_server("CREATE DATABASE " + name_); }
  ~OrderPipeline() override { on_server("DROP DATABASE " + name_ + " WITH (FORCE)"); }

  std::string url() const {
    const auto server = penstock::test::postgres_url();
    return server.substr(0, server.rfind('/') + 1) + name_;
  }
  pqxx::result sql(const std::string& statement) const {
    pqxx::connection connection{url()};
    pqxx::nontransaction tx{connection};
    return tx.exec(statement);
  }
  std::string file_of(const std::string& content) {
    orders_.write(content);
    return orders_.name();
  }

  /// The program with these words, writing to `output_`.
  penstock::test::Process start(std::vector<std::string> words) {
    words.insert(words.begin(), {ORDER_PIPELINE, "--embedded", "--roles", "all,providers", "--postgres", url(), "--port",
                                 std::to_string(port_), "--payment-url", local(), "--stock-url", local()});
    const std::string output = output_.name();
    return penstock::test::Process{[&] {
      if (std::freopen(output.c_str(), "a", stdout) == nullptr || ::dup2(STDOUT_FILENO, STDERR_FILENO) < 0) ::_exit(126);
      std::vector<char*> argv;
      for (auto& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(ORDER_PIPELINE, argv.data());
      ::_exit(127);
    }};
  }
  int run(std::vector<std::string> words) {
    const int status = start(std::move(words)).wait();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string output() const {
    std::stringstream text;
    text << std::ifstream{output_.name()}.rdbuf();
    return text.str();
  }

  int port_ = penstock::test::free_port();
  penstock::test::Journal output_;

 private:
  void on_server(const std::string& statement) {
    pqxx::connection connection{penstock::test::postgres_url()};
    pqxx::nontransaction tx{connection};
    tx.exec(statement);
  }
  static std::string local() { return "http://127.0.0.1:" + std::to_string(penstock::test::free_port()); }

  std::string name_ = penstock::test::unique_name("order_pipeline");
  penstock::test::Journal orders_;
};

constexpr const char* samples = PENSTOCK_SOURCE_DIR "/examples/order_pipeline/orders.ndjson";
constexpr const char* header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

TEST_F(OrderPipeline, TheSampleOrdersEndInAnAccountThatBalances) {
  EXPECT_EQ(run({"--orders", samples, "--payment-failures", "0.1"}), 0) << output();
  EXPECT_THAT(output(), ContainsRegex("\n  placed +120 "));
  EXPECT_THAT(output(), ContainsRegex("\n  lost +0 "));
  EXPECT_THAT(output(), HasSubstr("\nthe account balances\n"));
}

TEST_F(OrderPipeline, ADayOfTheRetailerHasEveryEndAndARefusalIsStated) {
  const auto day = file_of(std::string{header} +
                           "536365,85123A,WHITE HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
                           "536365,71053,\"LANTERN, WHITE\",6,12/1/2010 8:26,3.39,17850,United Kingdom\n"
                           "536414,22139,,56,12/1/2010 11:52,4.25,,United Kingdom\n"
                           "C536379,D,Discount,-1,12/1/2010 9:41,27.5,14527,United Kingdom\n"
                           "536589,21777,stock check,-10,12/1/2010 16:50,0,,United Kingdom\n"
                           "536590,21777,nothing of it,0,12/1/2010 16:51,1,,United Kingdom\n");
  EXPECT_EQ(run({"--orders", day}), 0) << output();
  EXPECT_THAT(output(), ContainsRegex("\n  placed +4 "));
  EXPECT_THAT(output(), ContainsRegex("\n  fulfilled +2 "));
  EXPECT_THAT(output(), ContainsRegex("\n  cancelled +1 "));
  EXPECT_THAT(output(), ContainsRegex("\n  rejected +1 "));
  EXPECT_THAT(output(), ContainsRegex("\n    negative quantity: a stock correction +1 "));
  EXPECT_THAT(output(), ContainsRegex("\n  refused by the API, not placed +1 "));
  EXPECT_THAT(output(), ContainsRegex("\n    400 /lines/0/quantity +1 "));
  const auto guests = sql("SELECT reference, total, state FROM shop.orders WHERE customer IS NULL ORDER BY reference");
  ASSERT_EQ(guests.size(), 2U);
  EXPECT_STREQ(guests[0]["reference"].c_str(), "536414");
  EXPECT_STREQ(guests[0]["total"].c_str(), "238.000");
  EXPECT_STREQ(guests[0]["state"].c_str(), "fulfilled");
}

TEST_F(OrderPipeline, FeedsNoMoreAndNoFasterThanItIsTold) {
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(run({"--orders", samples, "--limit", "9", "--rate", "2"}), 0) << output();
  EXPECT_GE(std::chrono::steady_clock::now() - began, 4s);
  EXPECT_THAT(output(), ContainsRegex("\n  placed +9 "));
}

TEST_F(OrderPipeline, ABadLineEndsItWithFileLineFieldAndRemedy) {
  const auto day = file_of(std::string{header} + "536365,85123A,HOLDER,6,1st of December,2.55,17850,Norway\n");
  EXPECT_EQ(run({"--orders", day}), 1);
  EXPECT_THAT(output(), HasSubstr(day + ": line 2: InvoiceDate is '1st of December'; give it as 12/1/2010 8:26"));
}

TEST_F(OrderPipeline, AnOrderTellsItsStoryAndThatItIsADeadLetter) {
  const auto day = file_of(std::string{header} + "1,21777,stock check,-10,12/1/2010 16:50,0,,Norway\n" +
                           "2,85123A,HOLDER,6,12/1/2010 8:26,2.55,17850,Norway\n");
  auto process = start({"--orders", day, "--payment-reviews", "1", "--stay"});
  ASSERT_TRUE(eventually([&] { return output().find("the account balances") != std::string::npos; }, 60s)) << output();
  httplib::Client client{"127.0.0.1", port_};
  const auto order = [&](const std::string& reference) {
    const std::string id = sql("SELECT id FROM shop.orders WHERE reference = '" + reference + "'")[0][0].c_str();
    return json::parse(client.Get("/orders/" + id)->body);
  };

  const auto rejected = order("1");
  EXPECT_EQ(rejected.at("state"), "rejected");
  EXPECT_EQ(rejected.at("reason"), "negative quantity: a stock correction");
  const auto& story = rejected.at("story");
  std::vector<std::string> hops;
  for (std::size_t i = 0; i < story.size(); ++i) {
    const auto& hop = story[i];
    EXPECT_TRUE(i == 0 || hop.at("at") >= story[i - 1].at("at")) << story.dump(1);
    hops.push_back(hop.at("by").get<std::string>() + " " + hop.at("event").get<std::string>() + " " +
                   hop.at("outcome").get<std::string>());
    if (i > 0) {
      EXPECT_EQ(hop.at("attempt"), 1);
      EXPECT_GE(hop.at("position"), 0);
    }
  }
  EXPECT_THAT(hops,
              testing::UnorderedElementsAre("orders-api shop.order.placed.v1 committed", "dispatcher shop.order.placed.v1 done",
                                            "fulfillment shop.shipment.requested.v1 done",
                                            "dispatcher shop.order.rejected.v1 done", "notifier shop.order.rejected.v1 done"));
  ASSERT_EQ(story.size(), 5U) << story.dump(1);
  EXPECT_EQ(hops[0], "orders-api shop.order.placed.v1 committed");
  EXPECT_EQ(story[0].at("event_id"), story[1].at("event_id"));
  EXPECT_EQ(story[2].at("caused_by"), story[1].at("event_id"));
  EXPECT_EQ(story[3].at("caused_by"), story[2].at("event_id"));
  EXPECT_EQ(story[4].at("event_id"), story[3].at("event_id"));
  EXPECT_EQ(story[2].at("channel"), "fulfillment-jobs");

  const auto dead = order("2");
  EXPECT_EQ(dead.at("state"), "dead-lettered");
  EXPECT_THAT(dead.at("reason").get<std::string>(), HasSubstr("account under review"));
  EXPECT_EQ(dead.at("story").back().at("outcome"), "dead");
  EXPECT_THAT(dead.at("story").back().at("error").get<std::string>(), HasSubstr("account under review"));
  sql("UPDATE penstock.dead_letters SET state = 'discarded'");
  EXPECT_EQ(order("2").at("state"), "dispatched");

  process.signal(SIGTERM);
  EXPECT_EQ(process.wait(), 0) << output();
}

}  // namespace
