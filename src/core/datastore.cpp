// SPDX-License-Identifier: Apache-2.0
#include "penstock/datastore.hpp"

#include <stdexcept>

namespace penstock {

void Datastore::Session::schedule(std::span<const ScheduledEvent> /*events*/) {
  throw std::logic_error{"this Datastore cannot keep an event until its time; emit it without a delay"};
}

}  // namespace penstock
