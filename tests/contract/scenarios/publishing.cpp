// SPDX-License-Identifier: Apache-2.0
// What a publisher promises: one true outcome per event, in time.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/event.hpp"

namespace penstock::contract {
namespace {

using Status = Outcome::Status;

TEST_P(Contract, Rule9_PublishGivesOneOutcomePerEventAndWhatIsConfirmedIsThere) {
  const auto channel = declare();
  const auto sent = events(500, 20);
  store(channel, sent);

  const auto source = join(channel, fresh("group"));
  const auto messages = consume(*source, sent.size());
  expect_key_order(sent, messages);
  EXPECT_EQ(leftovers(*source), Ids{}) << "a message that was never sent, or twice";
}

TEST_P(Contract, PublishOfNothingGivesNothing) {
  const auto channel = declare();
  EXPECT_TRUE(publisher(channel)->publish(std::span<const Event>{}, timeout).empty());
}

TEST_P(Contract, Rule19_EveryPartOfAnEventSurvives) {
  const auto channel = declare(1);
  Event full = event("order/ 4711 é", 1);
  full.subject = "orders/4711";
  full.data_schema = "https://schemas.example.com/order/v1";
  full.correlation_id = "story-1";
  full.causation_id = "cause-1";
  full.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  full.tracestate = "vendor=value,other=1";
  full.extensions = {{"tenant", ExtensionValue{"größe \"ünd\" 100 %"}},
                     {"urgent", ExtensionValue{true}},
                     {"weight", ExtensionValue{-17}},
                     {"digest", ExtensionValue::binary(std::string{"\0\xff", 2})}};
  full.data = std::string{"\0\x01\xff not text \xfe\r\n", 16};
  full.content_type = "application/octet-stream";
  full.headers = {{"x-request", "abc"}, {"x-empty", ""}};
  Event minimal;
  minimal.id = fresh("id");
  minimal.source = "/contract";
  minimal.type = "penstock.contract.minimal.v1";
  minimal.key = full.key;
  minimal.data = "x";
  store(channel, {full, minimal});

  const auto source = join(channel, fresh("group"));
  auto messages = consume(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  if (!traits().header_order) {
    for (Headers* headers : {&messages[0].event.headers, &full.headers}) {
      std::stable_sort(headers->begin(), headers->end(), [](const Header& a, const Header& b) { return a.name < b.name; });
    }
  }
  EXPECT_EQ(messages[0].event, full);
  EXPECT_EQ(messages[1].event, minimal);
  EXPECT_EQ(messages[0].wire.payload, full.data) << "the payload is opaque: byte for byte, also in Message::wire";
  EXPECT_EQ(messages[0].defect, "");
}

TEST_P(Contract, Rule19_PayloadsOfEverySizeArriveByteForByte) {
  const auto channel = declare(1);
  std::vector<Event> events;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65'535}, std::size_t{65'536}, backend().fits()}) {
    Event sized = event("key", static_cast<int>(events.size()));
    std::string data(size, '\0');
    for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>((i * 2'654'435'761U) >> 13U);
    sized.data = std::move(data);
    events.push_back(std::move(sized));
  }
  store(channel, events);
  const auto source = join(channel, fresh("group"));
  const auto messages = consume(*source, events.size());
  ASSERT_EQ(messages.size(), events.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    EXPECT_TRUE(messages[i].event.data == events[i].data) << events[i].data->size() << " bytes";
  }
}

TEST_P(Contract, NullAndEmptyPayloadsAreToldApart) {
  const auto channel = declare(1);
  auto null = event("key", 1);
  null.data.reset();
  auto empty = event("key", 2);
  empty.data = "";
  store(channel, {null, empty});

  const auto source = join(channel, fresh("group"));
  const auto messages = consume(*source, 2);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0].event.data, std::nullopt);
  EXPECT_EQ(messages[1].event.data, "");
}

TEST_P(Contract, EventsWithoutKeyArriveToo) {
  const auto channel = declare();
  const auto sent = std::vector<Event>{event("", 1), event("", 2), event("", 3), event("", 4)};
  store(channel, sent);
  const auto source = join(channel, fresh("group"));
  consume_ids(*source, ids_of(sent));
}

TEST_P(Contract, OrderOfCallsFromOneThreadIsOrderPerKey) {
  const auto channel = declare();
  const auto sent = events(600, 7);
  const auto to = publisher(channel);
  std::vector<std::future<Outcomes>> calls;
  for (std::size_t i = 0; i < sent.size(); i += 10) calls.push_back(to->submit(std::span{sent}.subspan(i, 10), timeout));
  for (auto& call : calls) {
    for (const Outcome& outcome : call.get()) ASSERT_TRUE(outcome.confirmed()) << outcome.error;
  }
  const auto source = join(channel, fresh("group"));
  expect_key_order(sent, consume(*source, sent.size()));
}

TEST_P(Contract, SeveralThreadsPublishAtOnce) {
  const auto channel = declare();
  const auto to = publisher(channel);
  std::vector<std::vector<Event>> sent(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < sent.size(); ++t) {
    for (int i = 0; i < 200; ++i) sent[t].push_back(event("thread-" + std::to_string(t), i));
    threads.emplace_back([&to, &mine = sent[t]] {
      for (std::size_t i = 0; i < mine.size(); i += 20) {
        for (const Outcome& outcome : to->publish(std::span{mine}.subspan(i, 20), timeout)) {
          EXPECT_TRUE(outcome.confirmed()) << outcome.error;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::vector<Event> all;
  for (const auto& part : sent) all.insert(all.end(), part.begin(), part.end());
  const auto source = join(channel, fresh("group"));
  expect_key_order(all, consume(*source, all.size()));
}

/// What becomes of the neighbours of an event that is refused: those of other keys are stored, and of its own key those before
/// it; the one behind it only where the publisher does not promise to keep the order within a call.
void expect_refused_alone(Publisher& publisher, const std::vector<Event>& sent, std::size_t refused, const Traits& traits,
                          Ids& stored) {
  EXPECT_EQ(publisher.keeps_order(), traits.chains);
  const auto outcomes = publisher.publish(sent, timeout);
  ASSERT_EQ(outcomes.size(), sent.size());
  for (std::size_t i = 0; i < sent.size(); ++i) {
    const bool behind = traits.chains && i > refused && sent[i].key == sent[refused].key;
    const Status expected = i == refused ? Status::rejected : behind ? Status::retryable : Status::confirmed;
    EXPECT_EQ(outcomes[i].status, expected) << i << ": " << outcomes[i].error;
    if (expected == Status::confirmed) stored.push_back(sent[i].id);
  }
  EXPECT_NE(outcomes[refused].error, "");
}

TEST_P(Contract, Rule7_InvalidEventIsRejectedAndItsNeighboursAreConfirmed) {
  const auto channel = declare(1);
  auto broken = event("key", 2);
  broken.id.clear();
  const std::vector<Event> sent{event("key", 1), broken, event("key", 3), event("other", 4)};
  Ids stored;
  const auto to = publisher(channel);
  expect_refused_alone(*to, sent, 1, traits(), stored);
  EXPECT_NE(to->publish(broken, timeout).error.find("id"), std::string::npos) << "the error names the attribute";

  const auto source = join(channel, fresh("group"));
  EXPECT_EQ(ids_of(consume(*source, stored.size())), stored);
}

TEST_P(Contract, Rule7_TooLargeIsRejectedAndItsNeighboursAreConfirmed) {
  const auto channel = declare(1);
  auto huge = event("key", 2);
  huge.data = std::string(backend().too_large(), 'x');
  const std::vector<Event> sent{event("key", 1), huge, event("key", 3), event("other", 4)};
  Ids stored;
  expect_refused_alone(*publisher(channel), sent, 1, traits(), stored);

  const auto source = join(channel, fresh("group"));
  EXPECT_EQ(ids_of(consume(*source, stored.size())), stored);
}

TEST_P(Contract, UnknownChannelIsRejectedAndDoesNotHang) {
  const std::vector<Event> sent{event("key", 1), event("other", 2), event("key", 3)};
  const auto to = publisher(fresh("nowhere"));
  auto call = to->submit(sent, timeout);
  ASSERT_EQ(call.wait_for(timeout + patience), std::future_status::ready);
  const Outcomes outcomes = call.get();
  for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.error, "");
  EXPECT_EQ(outcomes[0].status, Status::rejected) << outcomes[0].error;
  EXPECT_EQ(outcomes[1].status, Status::rejected) << outcomes[1].error;
  // Where a key keeps its order, what is behind a refused event need not even be tried.
  EXPECT_EQ(outcomes[2].status, to->keeps_order() ? Status::retryable : Status::rejected) << outcomes[2].error;
}

TEST_P(Contract, SameIdentityTwice) {
  const auto channel = declare(1);
  const auto twice = event("key", 1);
  const auto last = event("key", 2);
  store(channel, {twice});
  store(channel, {twice, last});  // also the repeat is confirmed: the broker has it

  const auto source = join(channel, fresh("group"));
  const Ids once{twice.id, last.id};
  const Ids both{twice.id, twice.id, last.id};
  const auto& expected = traits().deduplicates ? once : both;
  EXPECT_EQ(ids_of(consume(*source, expected.size())), expected);
}

TEST_P(Contract, DestroyedPublisherSettlesWhatIsOutstanding) {
  const auto channel = declare();
  const auto sent = events(200, 10);
  std::future<Outcomes> call;
  {
    const auto to = publisher(channel);
    call = to->submit(sent, timeout);
  }
  ASSERT_EQ(call.wait_for(patience), std::future_status::ready) << "a future that never becomes ready";
  const auto outcomes = call.get();
  ASSERT_EQ(outcomes.size(), sent.size());
  std::set<std::string> confirmed;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    EXPECT_NE(outcomes[i].status, Status::rejected) << outcomes[i].error;
    if (outcomes[i].confirmed()) confirmed.insert(sent[i].id);
  }
  const auto source = join(channel, fresh("group"));
  consume_ids(*source, confirmed);
}

}  // namespace
}  // namespace penstock::contract
