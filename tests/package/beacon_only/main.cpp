// SPDX-License-Identifier: Apache-2.0
#include <penstock/beacon.hpp>

#include <chrono>

int main() {
  using namespace std::chrono_literals;
  // Nobody listens there: the outcome says that nothing was stored.
  penstock::Beacon beacon{{.url = "nats://127.0.0.1:1"}};
  const auto outcome = beacon.channel("orders").publisher->publish({.id = "1", .source = "/user", .type = "t"}, 500ms);
  return outcome.status == penstock::Outcome::Status::retryable ? 0 : 1;
}
