// SPDX-License-Identifier: Apache-2.0
#include <penstock/beacon.hpp>
#include <penstock/testing/manual_clock.hpp>
#include <penstock/testing/memory_broker.hpp>

#include <chrono>
#include <iostream>
#include <stdexcept>

int main() {
  using namespace std::chrono_literals;
  const penstock::Event event{.id = "1", .source = "/user", .type = "user.order.placed.v1", .data = "{}"};
  penstock::testing::MemoryBroker broker;
  broker.declare("orders");
  const bool memory = broker.channel("orders").publisher->publish(event, 1s).confirmed();

  // Nobody listens there: the outcome says that nothing was stored.
  penstock::Beacon beacon{{.url = "nats://127.0.0.1:1"}};
  const auto outcome = beacon.channel("orders").publisher->publish(event, 500ms);
  bool refused = false;
  try {
    penstock::Beacon nowhere{{.url = ""}};
  } catch (const std::invalid_argument&) {  // thrown by one library, caught in another
    refused = true;
  }
  std::cout << to_string(outcome.status) << ": " << outcome.error << '\n';
  return memory && refused && outcome.status == penstock::Outcome::Status::retryable ? 0 : 1;
}
