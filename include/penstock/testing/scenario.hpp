// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/testing/seeds.hpp"

namespace penstock::testing {

struct ScenarioOptions {
  std::uint64_t seed = 42;     ///< of the order among keys, and of jitter
  ConsumerOptions consumer{};  ///< group (default "scenario"), retry, workers and the like; clock and random are the scenario's
  Datastore* store = nullptr;  ///< for handlers with SQL: a PostgresDatastore; without it there is one in memory
};

/// A handler under test, with the semantics of the real thing and none of its waiting: broker and store in memory, and a clock
/// that moves when it is told to.
///
///     Scenario{fulfil, {.consumer = {.retry = RetryPolicy::fixed(30s).attempts(3)}}}
///         .given({.type = "shop.shipment.requested.v1", .key = "A-1"})
///         .when_run().expect_parked(1)                      // the provider was away
///         .advance(30s).expect_emitted("shop.order.shipped.v1", "A-1").expect_calls(2);
///
/// An expectation that is not met throws Unexpected with the story so far and the seed. In a Postgres store time is the
/// database's, so there `advance` moves no retry.
///
/// Thread safety: one thread; the handler runs on others. Lifetime: its destructor stops the consumer; a store that was given
/// must outlive it.
class PENSTOCK_EXPORT Scenario {
 public:
  explicit Scenario(Handler handler, ScenarioOptions options = {});
  ~Scenario();
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;

  /// Publishes an event. What is not set of id ("given-1", …), source ("/test"), time and content type is filled in.
  Scenario& given(Event event);
  /// Blocks until everything that can be done now is done. Throws Unexpected after 30 s of real time.
  Scenario& when_run();
  /// Lets time pass, and then what is due is done.
  Scenario& advance(std::chrono::milliseconds by);

  /// An event of this type was emitted; for a key, if one is given.
  Scenario& expect_emitted(std::string_view type, std::string_view key = {});
  Scenario& expect_nothing_emitted();
  Scenario& expect_parked(std::size_t messages);  ///< so many wait in the store of the scenario
  /// A message was dead-lettered for a reason that contains this.
  Scenario& expect_dead_letter(std::string_view reason);
  Scenario& expect_no_dead_letter();
  Scenario& expect_calls(std::size_t calls);  ///< of the handler
  /// Anything else: a row, a fake provider's effects.
  Scenario& expect_effect(std::string_view what, const std::function<bool()>& holds);

  /// Events and dead letters of the store in memory; both throw std::logic_error when another was given.
  [[nodiscard]] std::vector<Event> emitted() const;
  [[nodiscard]] std::vector<DeadLetter> dead_letters() const;
  /// Each call of the handler on a line: time, message, attempt and what came of it.
  [[nodiscard]] std::string story() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::testing
