// SPDX-License-Identifier: Apache-2.0
#include "lane/publisher.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "lane/message.hpp"

namespace penstock::lane {

LanePublisher::LanePublisher(const Settings& settings, Target target)
    : key_{std::move(target.key)}, sender_{settings, std::move(target.exchange), std::move(target.queue)} {}

std::future<Outcomes> LanePublisher::submit(std::span<const Event> events, std::chrono::milliseconds timeout) {
  constexpr std::chrono::hours longest{24 * 365};  // what is longer would overflow the clock
  const SteadyTime deadline = std::chrono::steady_clock::now() + std::min<std::chrono::milliseconds>(timeout, longest);
  Parcels parcels = sender_.parcels(events.size());
  std::string room;
  for (std::size_t i = 0; i < events.size(); ++i) {
    *parcels[i] = pack(events[i], key_.of(events[i], room), std::move(*parcels[i]));
  }
  auto promise = std::make_shared<std::promise<Outcomes>>();
  auto future = promise->get_future();
  sender_.send(std::move(parcels), deadline, [promise](Outcomes outcomes) { promise->set_value(std::move(outcomes)); });
  return future;
}

}  // namespace penstock::lane
