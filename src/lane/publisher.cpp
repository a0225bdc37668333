// SPDX-License-Identifier: Apache-2.0
#include "lane/publisher.hpp"

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lane/message.hpp"

namespace penstock::lane {

LanePublisher::LanePublisher(const Settings& settings, const std::string& queue)
    : queue_{queue}, sender_{settings, queue, "penstock publisher of " + queue} {}

std::future<Outcomes> LanePublisher::submit(std::span<const Event> events, std::chrono::milliseconds timeout) {
  constexpr std::chrono::hours longest{24 * 365};  // what is longer would overflow the clock
  const SteadyTime deadline = std::chrono::steady_clock::now() + std::min<std::chrono::milliseconds>(timeout, longest);
  std::vector<Parcel> parcels;
  parcels.reserve(events.size());
  for (const Event& event : events) parcels.push_back(pack(event, queue_));
  auto promise = std::make_shared<std::promise<Outcomes>>();
  auto future = promise->get_future();
  sender_.send(std::move(parcels), deadline, [promise](Outcomes outcomes) { promise->set_value(std::move(outcomes)); });
  return future;
}

}  // namespace penstock::lane
