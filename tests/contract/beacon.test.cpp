// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "contract/beacon_backend.hpp"
#include "contract/contract.hpp"

namespace penstock::contract {
namespace {

std::unique_ptr<Backend> make() { return std::make_unique<BeaconBackend<false>>(); }

PENSTOCK_CONTRACT(Beacon, kBeacon, make);

}  // namespace
}  // namespace penstock::contract
