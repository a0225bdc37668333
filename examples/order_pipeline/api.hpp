// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stop_token>

#include "options.hpp"

namespace penstock {
class Outbox;
}

namespace shop {

/// orders-api. Blocks until `stop`; requests that run are answered first. Throws std::runtime_error when the port is taken.
///
///   POST /orders        202 with the id and a Location, as soon as order and event have committed
///   GET  /orders/{id}   state, and the story: how it was placed, every consumer's attempts, dead letters
///   GET  /healthz       the process lives;   GET /readyz   and Postgres answers
void serve_api(const Options& options, penstock::Outbox& outbox, std::stop_token stop);

}  // namespace shop
