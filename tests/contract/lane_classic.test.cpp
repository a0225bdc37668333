// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>

#include "contract/contract.hpp"
#include "contract/lane_backend.hpp"

namespace penstock::contract {
namespace {

std::unique_ptr<Backend> make() { return std::make_unique<LaneBackend<QueueSpec::Kind::classic>>(); }

PENSTOCK_CONTRACT(LaneClassic, kLaneClassic, make);

}  // namespace
}  // namespace penstock::contract
