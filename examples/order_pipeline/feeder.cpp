// SPDX-License-Identifier: Apache-2.0
#include "feeder.hpp"

#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "order_files.hpp"
#include "progress.hpp"

namespace shop {
namespace {

using namespace std::chrono_literals;
using Time = std::chrono::steady_clock;

constexpr int clients = 4;
constexpr auto give_up_after = 120s;  // without any answer for one order

/// What a problem is about.
std::string field_of(const std::string& problem) {
  const auto body = nlohmann::json::parse(problem, nullptr, false);
  return body.is_object() ? body.value("field", body.value("title", "")) : "";
}

class Feeder {
 public:
  Feeder(const Options& options, std::vector<Order> orders, std::stop_token stop)
      : options_{options}, orders_{std::move(orders)}, stop_{std::move(stop)}, started_{Time::now()} {}

  Fed run() {
    Progress progress{"orders sent", orders_.size()};
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < clients; ++i) threads.emplace_back([this] { send_some(); });
      while (answered_ < orders_.size() && running_ > 0) {
        progress.show(answered_);
        std::this_thread::sleep_for(50ms);
      }
    }
    progress.finish(answered_);
    fed_.unsent = orders_.size() - answered_;
    return fed_;
  }

 private:
  void send_some() {
    httplib::Client client{options_.api_url};
    client.set_connection_timeout(2s);
    client.set_read_timeout(10s);
    client.set_keep_alive(true);
    for (std::size_t i = next_++; i < orders_.size() && !stop_.stop_requested(); i = next_++) {
      if (options_.rate > 0) {
        const auto due = started_ + std::chrono::duration_cast<Time::duration>(
                                        std::chrono::duration<double>(static_cast<double>(i) / options_.rate));
        while (Time::now() < due && !stop_.stop_requested())
          std::this_thread::sleep_for(std::min<Time::duration>(due - Time::now(), 50ms));
      }
      if (!send(client, orders_[i])) break;
    }
    --running_;
  }

  bool send(httplib::Client& client, const Order& order) {
    const auto body = to_json(order);
    const httplib::Headers headers{{"Idempotency-Key", "\"" + order.reference + "\""}};
    auto pause = 50ms;
    for (const auto since = Time::now(); Time::now() - since < give_up_after && !stop_.stop_requested();) {
      const auto result = client.Post("/orders", headers, body, "application/json");
      if (result && result->status == 202) {
        const std::lock_guard lock{mutex_};
        fed_.accepted.insert(nlohmann::json::parse(result->body).at("id").get<std::string>());
        ++answered_;
        return true;
      }
      if (result && result->status >= 400 && result->status < 500) {
        const std::lock_guard lock{mutex_};
        std::cerr << "order " << order.reference << ": " << result->status << " " << result->body << "\n";
        ++fed_.refused[std::to_string(result->status) + " " + field_of(result->body)];
        ++answered_;
        return true;
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, std::chrono::milliseconds{1'000});
    }
    return false;
  }

  const Options& options_;
  std::vector<Order> orders_;
  std::stop_token stop_;
  Time::time_point started_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> answered_{0};
  std::atomic<int> running_{clients};
  std::mutex mutex_;
  Fed fed_;
};

}  // namespace

Fed feed_orders(const Options& options, std::stop_token stop) {
  std::vector<Order> orders;
  if (options.orders == "-") {
    orders = read_orders(std::cin, "standard input");
  } else {
    std::ifstream file{options.orders, std::ios::binary};
    if (!file) throw std::runtime_error{"--orders: cannot open '" + options.orders + "'"};
    orders = read_orders(file, options.orders);
  }
  if (options.limit != 0 && orders.size() > options.limit) orders.resize(options.limit);
  return Feeder{options, std::move(orders), std::move(stop)}.run();
}

}  // namespace shop
