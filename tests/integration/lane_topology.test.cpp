// SPDX-License-Identifier: Apache-2.0
// Exchanges, routing keys, bindings and RabbitMQ's own dead letters, as they are declared and used.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "integration/lane_broker.hpp"
#include "penstock/lane.hpp"
#include "support/raw_amqp.hpp"
#include "support/services.hpp"
#include "support/tcp_proxy.hpp"

namespace penstock::lane_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Status = Outcome::Status;
using Exchange = QueueBinding::Kind;

class LaneTopology : public LaneTest {
 protected:
  ~LaneTopology() override {
    for (const std::string& exchange : exchanges_) {
      try {
        support::RawAmqp{url()}.remove_exchange(exchange);
      } catch (const std::exception&) {  // a test may have removed it
      }
    }
  }
  std::string fresh_exchange() { return clean_up_exchange("lane-test-exchange-" + uuid7()); }
  std::string clean_up_exchange(const std::string& exchange) { return exchanges_.emplace_back(exchange); }

  /// The types of the messages in a queue, in their order, which are taken out.
  static std::vector<std::string> types_in(const std::string& queue) {
    std::vector<std::string> types;
    support::RawAmqp stranger{url()};
    while (stranger.get(
        queue, [&](const amqp_message_t& message) { types.push_back(support::RawAmqp::text(message.properties.type)); })) {
    }
    return types;
  }
  static Event typed(const std::string& type) {
    Event made = event(1);
    made.type = type;
    return made;
  }
  static void publish(const Channel& channel, const std::vector<Event>& sent) {
    for (const Outcome& outcome : channel.publisher->publish(sent, patience)) ASSERT_TRUE(outcome.confirmed()) << outcome.error;
  }
  static std::string why_not(const std::function<void()>& declare) {
    try {
      declare();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    ADD_FAILURE() << "declared";
    return {};
  }

 private:
  std::vector<std::string> exchanges_;
};

// One channel for all events of the shop; each queue takes what its bindings fit, and each its own copy.
TEST_F(LaneTopology, ATopicExchangeRoutesByTheTypeOfEachEvent) {
  const auto shop = fresh_exchange();
  const auto orders = ready();
  const auto audit = ready();
  Lane lane{{.url = url()}};
  const std::vector<QueueSpec> queues{
      {.name = orders, .bindings = {{.exchange = shop, .routing_key = "shop.order.#"}}},
      {.name = audit,
       .bindings = {{.exchange = shop, .routing_key = "shop.*.cancelled"}, {.exchange = shop, .routing_key = "shop.#.v1"}}}};
  lane.declare(queues);

  const Channel events = lane.channel("shop-events", {.exchange = shop, .routing_key = "{type}"});
  EXPECT_EQ(events.name, "shop-events");
  publish(events, {typed("shop.order.placed.v1"), typed("shop.order.cancelled"), typed("shop.parcel.lost.v1")});
  EXPECT_THAT(types_in(orders), ElementsAre("shop.order.placed.v1", "shop.order.cancelled"));
  EXPECT_THAT(types_in(audit), ElementsAre("shop.order.placed.v1", "shop.order.cancelled", "shop.parcel.lost.v1"));
}

// By default both sides mean the same key: the channel's name, the queue's name.
TEST_F(LaneTopology, ADirectExchangeRoutesByTheNameUnlessToldOtherwise) {
  const auto work = fresh_exchange();
  const auto jobs = ready();
  const auto urgent = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = jobs, .bindings = {{.exchange = work, .kind = Exchange::direct}}});
  lane.declare({.name = urgent, .bindings = {{.exchange = work, .kind = Exchange::direct, .routing_key = "now"}}});
  publish(lane.channel(jobs, {.exchange = work}), {typed("later")});
  publish(lane.channel("whatever", {.exchange = work, .routing_key = "now"}), {typed("soon")});
  EXPECT_THAT(types_in(jobs), ElementsAre("later"));
  EXPECT_THAT(types_in(urgent), ElementsAre("soon"));
  // The queue's own name goes on to be a channel, too.
  publish(lane.channel(jobs), {typed("at once")});
  EXPECT_THAT(types_in(jobs), ElementsAre("at once"));
}

TEST_F(LaneTopology, AFanoutExchangeGivesEveryQueueACopy) {
  const auto all = fresh_exchange();
  const auto one = ready();
  const auto two = ready(QueueSpec::Kind::classic);
  Lane lane{{.url = url()}};
  lane.declare({.name = one, .bindings = {{.exchange = all, .kind = Exchange::fanout}}});
  lane.declare({.name = two, .kind = QueueSpec::Kind::classic, .bindings = {{.exchange = all, .kind = Exchange::fanout}}});
  publish(lane.channel("news", {.exchange = all}), {typed("news")});
  EXPECT_THAT(types_in(one), ElementsAre("news"));
  EXPECT_THAT(types_in(two), ElementsAre("news"));
}

TEST_F(LaneTopology, WhatNoQueueIsBoundForIsRejectedAndItsNeighboursConfirmed) {
  const auto shop = fresh_exchange();
  const auto orders = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = orders, .bindings = {{.exchange = shop, .routing_key = "shop.order.#"}}});
  const Channel events = lane.channel("events", {.exchange = shop, .routing_key = "{type}"});
  const auto outcomes = events.publisher->publish(
      std::vector<Event>{typed("shop.order.placed"), typed("shop.parcel.lost"), typed("shop.order.paid")}, patience);
  EXPECT_TRUE(outcomes[0].confirmed()) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_THAT(outcomes[1].error, AllOf(HasSubstr("312 NO_ROUTE"), HasSubstr(shop), HasSubstr("'shop.parcel.lost'"),
                                       HasSubstr("QueueBinding"), HasSubstr("LaneChannelOptions::routing_key")));
  EXPECT_TRUE(outcomes[2].confirmed()) << outcomes[2].error;
  EXPECT_THAT(types_in(orders), ElementsAre("shop.order.placed", "shop.order.paid"));
}

// The key of one event takes nobody else down either.
TEST_F(LaneTopology, AKeyThatIsTooLongIsRejected) {
  const auto shop = fresh_exchange();
  const auto orders = ready();
  Lane lane{{.url = url()}};
  lane.declare({.name = orders, .bindings = {{.exchange = shop, .routing_key = "#"}}});
  const Channel events = lane.channel("events", {.exchange = shop, .routing_key = "eu.{subject}.{key}"});
  auto sent = lane_test::events(3);
  sent[1].subject = std::string(250, 's');
  const auto outcomes = events.publisher->publish(sent, patience);
  EXPECT_TRUE(outcomes[0].confirmed()) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected);
  EXPECT_THAT(outcomes[1].error, AllOf(HasSubstr("eu.sss"), HasSubstr("259 bytes"), HasSubstr("255")));
  EXPECT_TRUE(outcomes[2].confirmed()) << outcomes[2].error;
  EXPECT_THAT(types_in(orders), ElementsAre("lane.tested.v1", "lane.tested.v1"));
}

// Not one is `unknown`: nothing is sent while the exchange is not there. It may come later, from whoever makes it.
TEST_F(LaneTopology, AnExchangeThatIsNotThereIsRejectedUntilItIs) {
  const auto shop = fresh_exchange();
  const auto orders = ready();
  Lane lane{{.url = url()}};
  const Channel events = lane.channel("orders", {.exchange = shop});
  for (int round = 0; round < 2; ++round) {
    for (const Outcome& outcome : events.publisher->publish(lane_test::events(50), patience)) {
      ASSERT_EQ(outcome.status, Status::rejected) << outcome.error;
      EXPECT_THAT(outcome.error, AllOf(HasSubstr("no exchange"), HasSubstr(shop), HasSubstr("QueueBinding")));
    }
  }
  Lane{{.url = url()}}.declare({.name = orders, .bindings = {{.exchange = shop, .routing_key = "orders"}}});
  publish(events, {typed("now")});
  support::RawAmqp{url()}.remove_exchange(shop);
  // Under way when RabbitMQ closes the channel over it: not stored, but that is not for us to know of all of them.
  EXPECT_TRUE(eventually([&] {
    const Outcome outcome = events.publisher->publish(event(1), patience);
    EXPECT_FALSE(outcome.confirmed());
    return outcome.status == Status::rejected && outcome.error.find("no exchange") != std::string::npos;
  }));
  EXPECT_THAT(types_in(orders), ElementsAre("now"));
}

TEST_F(LaneTopology, AnExchangeOfAnotherTypeIsAnErrorThatShowsBoth) {
  const auto shop = fresh_exchange();
  support::RawAmqp{url()}.declare_exchange(shop, "direct");
  const auto orders = ready();
  Lane lane{{.url = url()}};
  EXPECT_THAT(why_not([&] { lane.declare({.name = orders, .bindings = {{.exchange = shop}}}); }),
              AllOf(HasSubstr(orders), HasSubstr("a durable topic exchange '" + shop + "'"), HasSubstr("PRECONDITION_FAILED"),
                    HasSubstr("current is 'direct'"), HasSubstr("QueueBinding")));
  EXPECT_NO_THROW(lane.declare({.name = orders, .bindings = {{.exchange = shop, .kind = Exchange::direct}}}));
}

// What is too old goes to a queue of its own, with the event as it was. Beside it stands why.
TEST_F(LaneTopology, RabbitmqMovesWhatIsTooOldToTheQueueOfDeadLetters) {
  for (const auto kind : {QueueSpec::Kind::quorum, QueueSpec::Kind::classic}) {
    const auto offers = fresh("offers");
    clean_up(offers + ".dead");
    Lane lane{{.url = url()}};
    lane.declare({.name = offers, .kind = kind, .dead_letters = QueueDeadLetters{.older_than = 200ms}});
    const Event sent = event(1);
    publish(lane.channel(offers), {sent});
    const auto dead = lane.source(offers + ".dead");
    dead->open("undertaker", nullptr);
    const Message message = take(*dead, 1).front();
    EXPECT_EQ(message.event.id, sent.id);
    EXPECT_EQ(message.event.data, sent.data);
    std::string death;
    for (const Header& header : message.event.headers) {
      if (header.name == "x-death") death = header.value.value_or("");
    }
    EXPECT_THAT(death, AllOf(HasSubstr("expired"), HasSubstr(offers)));
    dead->ack(message);
    dead->close(5s);
    EXPECT_THAT(types_in(offers), IsEmpty());
    // Again, with all of it there, and it is found to be the same.
    EXPECT_NO_THROW(lane.declare({.name = offers, .kind = kind, .dead_letters = QueueDeadLetters{.older_than = 200ms}}));
  }
}

TEST_F(LaneTopology, RabbitmqMovesTheOldestOfTooMany) {
  const auto frames = fresh("frames");
  clean_up(frames + ".dead");
  Lane lane{{.url = url()}};
  lane.declare({.name = frames, .dead_letters = QueueDeadLetters{.more_than = 2}});
  for (const char* type : {"a", "b", "c", "d"}) publish(lane.channel(frames), {typed(type)});
  std::vector<std::string> moved;
  EXPECT_TRUE(eventually([&] {
    for (const std::string& type : types_in(frames + ".dead")) moved.push_back(type);
    return moved.size() == 2;
  }));
  EXPECT_THAT(moved, ElementsAre("a", "b"));
  EXPECT_THAT(types_in(frames), ElementsAre("c", "d"));
}

// It is part of what was declared, though nobody named it; and one that was there before is taken as it is.
TEST_F(LaneTopology, TheQueueOfDeadLettersIsMadeAgainByItsOwnSource) {
  const auto offers = fresh("offers");
  clean_up(offers + ".dead");
  support::RawAmqp{url()}.declare(offers + ".dead");  // a classic one
  const auto log = std::make_shared<Memo>();
  Lane lane{{.url = url(), .logger = log}};
  lane.declare({.name = offers, .dead_letters = QueueDeadLetters{.older_than = 1ms}});
  const auto dead = lane.source(offers + ".dead");
  dead->open("undertaker", nullptr);
  publish(lane.channel(offers), {typed("one")});
  const Message first = take(*dead, 1).at(0);
  EXPECT_EQ(first.event.type, "one");
  dead->ack(first);
  EXPECT_THAT(log->text(), ::testing::Not(HasSubstr("PRECONDITION_FAILED")));
  support::RawAmqp{url()}.remove(offers + ".dead");
  ASSERT_TRUE(eventually([&] {
    try {
      support::RawAmqp{url()}.purge(offers + ".dead");
      return true;
    } catch (const std::exception&) {
      return false;
    }
  })) << "it is not made again";
  publish(lane.channel(offers), {typed("two")});
  EXPECT_EQ(take(*dead, 1).at(0).event.type, "two");
  dead->close(5s);
}

// A graveyard for many queues: an exchange that has to be there, as RabbitMQ would drop what finds none.
TEST_F(LaneTopology, DeadLettersMayGoThroughAnExchange) {
  const auto graveyard = fresh_exchange();
  const auto jobs = fresh("jobs");
  const auto dead = ready();
  Lane lane{{.url = url()}};
  const QueueSpec spec{.name = jobs,
                       .dead_letters = QueueDeadLetters{.older_than = 1ms, .exchange = graveyard, .routing_key = "jobs.old"}};
  EXPECT_THAT(why_not([&] { lane.declare(spec); }),
              AllOf(HasSubstr(jobs), HasSubstr(graveyard), HasSubstr("QueueDeadLetters::exchange"), HasSubstr("first")));
  lane.declare({.name = dead, .bindings = {{.exchange = graveyard, .routing_key = "*.old"}}});
  lane.declare(spec);
  publish(lane.channel(jobs), {typed("old")});
  std::vector<std::string> moved;
  EXPECT_TRUE(eventually([&] {
    moved = types_in(dead);
    return !moved.empty();
  }));
  EXPECT_THAT(moved, ElementsAre("old"));
}

TEST_F(LaneTopology, AQueueThatHasOtherDeadLettersIsAnErrorThatShowsBoth) {
  const auto jobs = ready();
  clean_up(jobs + ".dead");
  Lane lane{{.url = url()}};
  EXPECT_THAT(why_not([&] { lane.declare({.name = jobs, .dead_letters = QueueDeadLetters{.older_than = 1h}}); }),
              AllOf(HasSubstr("dead letters to queue '" + jobs + ".dead' when older than 3600000 ms"),
                    HasSubstr("PRECONDITION_FAILED"), HasSubstr("current is none"), HasSubstr("QueueSpec")));
}

TEST_F(LaneTopology, EnvironmentsShareAnExchangesNameAndDoNotMeet) {
  const std::string shop = "shop-" + uuid7();
  const std::string orders = "orders-" + uuid7();
  for (const char* prefix : {"staging.", "live."}) {
    clean_up_exchange(prefix + shop);
    clean_up(prefix + orders);
    support::RawAmqp{url()}.declare_as_lane(prefix + orders, true);
    Lane lane{{.url = url(), .prefix = prefix}};
    lane.declare({.name = orders, .bindings = {{.exchange = shop}}});
    publish(lane.channel(orders, {.exchange = shop}), {typed(prefix)});
  }
  EXPECT_THAT(types_in("staging." + orders), ElementsAre("staging."));
  EXPECT_THAT(types_in("live." + orders), ElementsAre("live."));
}

// Whoever connects first makes all of it again: here the publisher, of an exchange and both its queues.
TEST_F(LaneTopology, WhatWasLostIsDeclaredAgainByWhoeverConnects) {
  const auto shop = fresh_exchange();
  const auto one = ready();
  const auto two = ready();
  support::TcpProxy wire{port()};
  Lane lane{{.url = url_by(wire.port())}};
  const std::vector<QueueSpec> queues{{.name = one, .bindings = {{.exchange = shop, .routing_key = "#"}}},
                                      {.name = two, .bindings = {{.exchange = shop, .routing_key = "#"}}}};
  lane.declare(queues);
  const Channel events = lane.channel("events", {.exchange = shop});
  publish(events, {typed("before")});
  for (const auto& queue : {one, two}) support::RawAmqp{url()}.remove(queue);
  support::RawAmqp{url()}.remove_exchange(shop);
  wire.cut();
  const auto start = SteadyClock::now();
  ASSERT_TRUE(eventually([&] { return events.publisher->publish(typed("after"), patience).confirmed(); }));
  EXPECT_GE(SteadyClock::now() - start, 2s) << "new queues are not on disk yet";
  EXPECT_THAT(types_in(one), ::testing::Contains("after"));
  EXPECT_THAT(types_in(two), ::testing::Contains("after"));

  // And here a source.
  auto source = lane.source(one);
  source->open("group", nullptr);
  support::RawAmqp{url()}.remove_exchange(shop);
  support::RawAmqp{url()}.remove(one);
  ASSERT_TRUE(eventually([&] {
    try {
      support::RawAmqp{url()}.bind(two, shop, "x");  // throws while there is no exchange
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }));
  ASSERT_TRUE(eventually([&] { return events.publisher->publish(typed("to both"), patience).confirmed(); }));
  EXPECT_EQ(take(*source, 1).front().event.type, "to both");
  source->close(5s);
}

// Of a queue that was there before, a binding is on RabbitMQ's disk when `declare` returns: no need to wait for that.
TEST_F(LaneTopology, ABindingOutlivesACrashFromTheFirstMoment) {
  const auto shop = fresh_exchange();
  const auto orders = fresh("orders");
  Lane{{.url = url()}}.declare({.name = orders});
  Lane{{.url = url()}}.declare({.name = orders, .bindings = {{.exchange = shop, .routing_key = "orders"}}});
  support::services("kill", "rabbitmq");
  support::services("restart", "rabbitmq");
  Lane stranger{{.url = url()}};  // was asked to declare nothing
  const Channel events = stranger.channel("orders", {.exchange = shop});
  EXPECT_TRUE(eventually([&] {
    const Outcome outcome = events.publisher->publish(typed("after"), patience);
    EXPECT_NE(outcome.status, Status::rejected) << outcome.error;
    return outcome.confirmed() || outcome.status == Status::rejected;
  }));
  EXPECT_THAT(types_in(orders), ::testing::Contains("after"));
}

// A queue that another program makes and binds after messages had found none may be lost by a crash with what it confirms.
TEST_F(LaneTopology, WhatAQueueConfirmsThatIsNewlyBoundCountsWhenItWouldSurviveACrash) {
  const auto shop = fresh_exchange();
  const auto known = ready();
  const auto late = fresh("late");
  Lane lane{{.url = url()}};
  lane.declare({.name = known, .bindings = {{.exchange = shop, .routing_key = "known"}}});
  const Channel events = lane.channel("events", {.exchange = shop, .routing_key = "{type}"});
  EXPECT_EQ(events.publisher->publish(typed("late"), patience).status, Status::rejected);
  support::RawAmqp stranger{url()};
  stranger.declare_as_lane(late, true);
  stranger.bind(late, shop, "late");
  const auto start = SteadyClock::now();
  publish(events, {typed("known")});
  EXPECT_LT(SteadyClock::now() - start, 3s) << "a key that never was returned waits for nobody";
  publish(events, {typed("late")});
  EXPECT_GE(SteadyClock::now() - start, 3s);
  const auto settled = SteadyClock::now();
  publish(events, {typed("late"), typed("known")});
  EXPECT_LT(SteadyClock::now() - settled, 3s) << "once";
}

// A retry is the matter of one queue; the others of the exchange have had their copy.
TEST_F(LaneTopology, ARetryGoesBackToItsQueueOnly) {
  const auto shop = fresh_exchange();
  const auto one = ready();
  const auto two = ready();
  Lane lane{{.url = url()}};
  for (const auto& queue : {one, two})
    lane.declare({.name = queue, .bindings = {{.exchange = shop, .kind = Exchange::fanout}}});
  publish(lane.channel("news", {.exchange = shop}), {typed("news")});
  auto source = lane.source(one);
  source->open("group", nullptr);
  clean_up(one + ".retry.50");
  source->retry(take(*source, 1).front(), 50ms);
  const Message again = take(*source, 1).front();
  EXPECT_EQ(again.event.type, "news");
  EXPECT_EQ(again.origin.deliveries, 2U);
  source->ack(again);
  source->close(5s);
  EXPECT_THAT(types_in(two), ElementsAre("news"));
}

TEST_F(LaneTopology, ChannelsThatRouteDifferentlyAreDifferent) {
  Lane lane{{.url = url()}};
  const Channel one = lane.channel("a", {.exchange = "x"});
  EXPECT_EQ(one.publisher, lane.channel("a", {.exchange = "x"}).publisher);
  EXPECT_NE(one.publisher, lane.channel("a").publisher);
  EXPECT_NE(one.publisher, lane.channel("a", {.exchange = "y"}).publisher);
  EXPECT_NE(one.publisher, lane.channel("a", {.exchange = "x", .routing_key = "k"}).publisher);
}

}  // namespace
}  // namespace penstock::lane_test
