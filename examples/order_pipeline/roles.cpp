// SPDX-License-Identifier: Apache-2.0
#include "roles.hpp"

#include <exception>
#include <nlohmann/json.hpp>
#include <thread>

#include "order.hpp"
#include "penstock/clock.hpp"
#include "penstock/consumer.hpp"
#include "penstock/dead_letter.hpp"
#include "penstock/relay.hpp"
#include "penstock/upkeep.hpp"
#include "providers.hpp"
#include "sql.hpp"

namespace shop {
namespace {

using namespace std::chrono_literals;
using penstock::Context;
using penstock::Message;
using penstock::Verdict;

penstock::ConsumerOptions options_for(const Pipeline& pipeline, const std::string& group, int most_workers) {
  penstock::ConsumerOptions options;
  options.group = group;
  options.source = "/shop/" + group;
  options.workers = {.min = 1, .max = most_workers};
  options.crashes =
      10;  // processes are killed from outside here, which the messages that they have in work are not to blame for
  options.logger = pipeline.logger;
  return options;
}

Verdict dispatch(const Message& message, Context& ctx) {
  if (message.type().rfind("shop.order.", 0) != 0) return Verdict::reject("no event of an order: " + message.type());
  run(ctx.tx(), "INSERT INTO shop.topic_log (order_id, event_id, type, partition, position) VALUES ($1, $2, $3, $4, $5)",
      message.key(), message.id(), message.type(), message.origin.partition, message.origin.position);
  if (message.type() != "shop.order.placed.v1") return Verdict::done();
  run(ctx.tx(), "UPDATE shop.orders SET state = 'dispatched' WHERE id = $1 AND state = 'placed'", message.key());
  ctx.emit({.type = "shop.shipment.requested.v1",
            .subject = message.event.subject,
            .key = message.key(),
            .data = message.event.data});
  return Verdict::done();
}

/// The order's final state, its one effect and its one event, all in the message's transaction.
Verdict settle(const Message& job, Context& ctx, const std::string& state, const std::string& reason) {
  const auto settled = run(ctx.tx(),
                           "UPDATE shop.orders SET state = $2, reason = NULLIF($3, ''), settled_at = clock_timestamp() "
                           "WHERE id = $1 AND settled_at IS NULL",
                           job.key(), state, reason);
  if (settled.affected_rows() != 1) return Verdict::reject("order " + job.key() + " is unknown or settled already");
  run(ctx.tx(), "INSERT INTO shop.fulfilments (order_id, outcome) VALUES ($1, $2)", job.key(), state);
  nlohmann::json body{{"order", job.key()}, {"reference", job.event.subject}, {"state", state}};
  if (!reason.empty()) body["reason"] = reason;
  ctx.emit({.type = "shop.order." + state + ".v1", .subject = job.event.subject, .key = job.key(), .data = body.dump()});
  return Verdict::done();
}

/// Verdict of an answer that is not `ok`, when it has no meaning of its own.
Verdict failed(const Answer& answer) {
  return answer.kind == Answer::Kind::unavailable ? Verdict::retry(answer.detail) : Verdict::reject(answer.detail);
}

Verdict fulfil(const Providers& providers, const Message& job, Context& ctx) {
  Order order;
  try {
    order = parse_order(job.data());
  } catch (const InvalidOrder& error) {
    return Verdict::reject(std::string{"the job holds no order: "} + error.what());
  }
  const auto decision = decide(order);
  if (decision.kind == Decision::Kind::reject) return settle(job, ctx, "rejected", decision.reason);
  const auto& key = ctx.idempotency_key();
  if (decision.kind == Decision::Kind::refund) {
    const auto refund = providers.refund(key, job.key(), -order.total());
    return refund.kind == Answer::Kind::ok ? settle(job, ctx, "cancelled", {}) : failed(refund);
  }
  const auto reserved = providers.reserve(key, job.key(), order);
  if (reserved.kind == Answer::Kind::refused) return settle(job, ctx, "rejected", reserved.detail);
  if (reserved.kind != Answer::Kind::ok) return failed(reserved);
  const auto charged = providers.charge(key, job.key(), order.total());
  if (charged.kind == Answer::Kind::refused) {
    const auto released = providers.release(key, job.key());
    return released.kind == Answer::Kind::ok ? settle(job, ctx, "rejected", charged.detail) : failed(released);
  }
  return charged.kind == Answer::Kind::ok ? settle(job, ctx, "fulfilled", {}) : failed(charged);
}

Verdict notify(const Message& message, Context& ctx) {
  run(ctx.tx(), "INSERT INTO shop.notifications (order_id, text) VALUES ($1, $2)", message.key(),
      "Your order " + message.event.subject + ": " + message.type());
  return Verdict::done();
}

/// Partitions of the inbox and of the audit trail, made ahead and dropped in time: every hour, or in a minute when another
/// process is at it.
void keep_up(const Pipeline& pipeline, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    bool again = true;
    try {
      again = penstock::upkeep(pipeline.options.postgres).busy;
    } catch (const std::exception& error) {
      if (pipeline.logger) pipeline.logger->log(penstock::LogLevel::warn, std::string{"upkeep: "} + error.what());
    }
    penstock::Clock::system().sleep_for(again ? penstock::Clock::Duration{1min} : penstock::Clock::Duration{1h}, stop);
  }
}

}  // namespace

bool run_relay(const Pipeline& pipeline, std::stop_token stop) {
  const std::jthread upkeep{[&](const std::stop_token& ended) { keep_up(pipeline, ended); }};
  auto& brokers = pipeline.brokers;
  penstock::RelayOptions options;
  options.logger = pipeline.logger;
  penstock::Relay relay{pipeline.outbox,
                        {{"shop.order.*", brokers.channel("order-events")},
                         {"shop.shipment.requested.*", brokers.channel("fulfillment-jobs")},
                         {"shop.order.fulfilled.*", brokers.channel("notifications")},
                         {"shop.order.cancelled.*", brokers.channel("notifications")},
                         {"shop.order.rejected.*", brokers.channel("notifications")},
                         {penstock::dead_letters_of("order-events"), brokers.channel("order-events.dead")},
                         {penstock::dead_letters_of("fulfillment-jobs"), brokers.channel("fulfillment-jobs.dead")},
                         {penstock::dead_letters_of("notifications"), brokers.channel("notifications.dead")}},
                        options};
  return relay.run(stop);
}

bool run_dispatcher(const Pipeline& pipeline, std::stop_token stop) {
  penstock::Consumer dispatcher{pipeline.brokers.source("order-events"), pipeline.datastore,
                                options_for(pipeline, "dispatcher", 4), dispatch};
  return dispatcher.run(stop);
}

bool run_worker(const Pipeline& pipeline, std::stop_token stop) {
  const Providers providers{pipeline.options};
  penstock::Consumer worker{pipeline.brokers.source("fulfillment-jobs"), pipeline.datastore,
                            options_for(pipeline, "fulfillment", pipeline.options.workers),
                            [&](const Message& job, Context& ctx) { return fulfil(providers, job, ctx); }};
  return worker.run(stop);
}

bool run_notifier(const Pipeline& pipeline, std::stop_token stop) {
  penstock::Consumer notifier{pipeline.brokers.source("notifications"), pipeline.datastore,
                              options_for(pipeline, "notifier", 2), notify};
  return notifier.run(stop);
}

}  // namespace shop
