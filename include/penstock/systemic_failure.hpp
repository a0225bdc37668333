// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace penstock {

/// When it is the system that fails and not the message: so many of the last ones, each counted once, were rejected by the
/// channel (Relay) or failed in the handler (Consumer). Nothing is dead-lettered then. With `rejected` of 0 it is never so.
struct SystemicFailure {
  std::size_t rejected = 20;
  std::size_t of = 50;   ///< a Relay takes a whole batch that is larger, in the same proportion
  std::size_t keys = 2;  ///< different ones among the rejected; a message without a key counts as one of its own
};

}  // namespace penstock
