// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "contract/beacon_backend.hpp"
#include "contract/contract.hpp"

namespace penstock::contract {
namespace {

std::unique_ptr<Backend> make() { return std::make_unique<BeaconBackend<true>>(); }

PENSTOCK_CONTRACT(BeaconPartitions, kBeaconKeys, make);

}  // namespace
}  // namespace penstock::contract
