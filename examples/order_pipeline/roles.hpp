// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <stop_token>

#include "brokers.hpp"
#include "options.hpp"
#include "penstock/datastore.hpp"
#include "penstock/outbox.hpp"

namespace shop {

/// What the roles share. Everything in it outlives them.
struct Pipeline {
  const Options& options;
  penstock::Outbox& outbox;
  penstock::Datastore& datastore;
  Brokers& brokers;
  std::shared_ptr<penstock::Logger> logger;
};

// Each role blocks until `stop` and drains; true when that took no longer than its deadline.

/// Carries committed events: shop.order.* to Kafka, shipment requests to RabbitMQ, outcomes to NATS, dead letters to theirs.
bool run_relay(const Pipeline& pipeline, std::stop_token stop);
/// Kafka `order-events` -> a job for each placed order, in the same transaction as the order's new state.
bool run_dispatcher(const Pipeline& pipeline, std::stop_token stop);
/// RabbitMQ `fulfillment-jobs` -> stock, payment, the order's final state and its event.
bool run_worker(const Pipeline& pipeline, std::stop_token stop);
/// NATS `notifications` -> one notification an order.
bool run_notifier(const Pipeline& pipeline, std::stop_token stop);

}  // namespace shop
