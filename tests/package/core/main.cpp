// SPDX-License-Identifier: Apache-2.0
#include <penstock/consumer.hpp>
#include <penstock/envelope.hpp>
#include <penstock/relay.hpp>
#include <penstock/testing/memory_broker.hpp>
#include <penstock/uuid.hpp>

#include <chrono>
#include <iostream>
#include <string>

int main() {
  using namespace std::chrono_literals;
  penstock::testing::MemoryBroker broker{{.seed = 42}};
  broker.declare("orders", 2);
  const penstock::Event event{
      .id = penstock::uuid7(), .source = "/user", .type = "user.order.placed.v1", .key = "7", .data = "{}"};
  const auto outcome = broker.channel("orders").publisher->publish(event, 1s);
  const auto stored = broker.published("orders");
  const auto copy = penstock::decode(penstock::encode(event, penstock::Binding::kafka), penstock::Binding::kafka);
  const bool good = outcome.confirmed() && stored.size() == 1 && stored.front() == event && copy == event;
  std::cout << (good ? "stored" : "lost") << '\n';
  return good ? 0 : 1;
}
