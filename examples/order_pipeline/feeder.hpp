// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stop_token>
#include <string>

#include "options.hpp"

namespace shop {

/// What became of the orders that were sent.
struct Fed {
  std::set<std::string> accepted;               ///< ids answered with 202
  std::map<std::string, std::int64_t> refused;  ///< answered 4xx, by status and field; each is explained on standard error
  std::size_t unsent = 0;                       ///< never answered before the deadline or the stop
};

/// Sends the file's orders to the API over HTTP, several at a time, retrying with the same Idempotency-Key for as long as the
/// API is away. Shows its progress. Throws std::runtime_error for a file that cannot be read.
Fed feed_orders(const Options& options, std::stop_token stop);

}  // namespace shop
