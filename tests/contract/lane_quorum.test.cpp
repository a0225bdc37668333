// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>

#include "contract/contract.hpp"
#include "contract/lane_backend.hpp"

namespace penstock::contract {
namespace {

std::unique_ptr<Backend> make() { return std::make_unique<LaneBackend<QueueSpec::Kind::quorum>>(); }

PENSTOCK_CONTRACT(LaneQuorum, kLaneQuorum, make);

}  // namespace
}  // namespace penstock::contract
