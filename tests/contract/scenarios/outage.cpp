// SPDX-License-Identifier: Apache-2.0
// What holds when the broker goes away and comes back.
#include <chrono>
#include <future>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "contract/contract.hpp"
#include "penstock/event.hpp"

namespace penstock::contract {
namespace {

using Status = Outcome::Status;
using SteadyClock = std::chrono::steady_clock;

TEST_P(Outage, Rule9_PublishWhileTheBrokerIsAwayIsNeitherConfirmedNorRejected) {
  const auto channel = declare();
  const auto to = publisher(channel);
  const auto before = event("key", 1);
  EXPECT_TRUE(to->publish(before, timeout).confirmed());
  backend().stop_broker();

  const auto sent = events(20, 4);
  auto call = to->submit(sent, 1s);
  ASSERT_EQ(call.wait_for(30s), std::future_status::ready) << "every event has its outcome shortly after the timeout";
  const auto outcomes = call.get();
  ASSERT_EQ(outcomes.size(), sent.size());
  for (const Outcome& outcome : outcomes) {
    EXPECT_TRUE(outcome.status == Status::retryable || outcome.status == Status::unknown)
        << to_string(outcome.status) << ' ' << outcome.error;
    EXPECT_NE(outcome.error, "");
  }

  backend().start_broker();
  // The same publisher comes back by itself, and a retry with the same ids succeeds.
  confirm_all(*to, sent);

  const auto source = join(channel, fresh("group"));
  auto expected = ids_of(sent);
  expected.insert(before.id);
  const auto seen = consume_ids(*source, expected);
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (outcomes[i].status == Status::retryable) {
      EXPECT_EQ(seen.count(sent[i].id), 1U) << "`retryable` says that it was certainly not stored";
    }
  }
}

TEST_P(Outage, SourceIsSilentWhileTheBrokerIsAwayAndComesBackByItself) {
  const auto channel = declare();
  const auto before = events(10, 5);
  store(channel, before);
  const auto source = join(channel, fresh("group"));
  consume_ids(*source, ids_of(before));
  backend().stop_broker();
  EXPECT_EQ(ids_of(source->poll(10, 200ms)), Ids{}) << "no exception, no message";
  backend().start_broker();

  const auto after = events(10, 5);
  confirm_all(*publisher(channel), after);
  consume_ids(*source, ids_of(after));
}

TEST_P(Outage, WhatWasNotSettledBeforeIsDeliveredAfter) {
  const auto channel = declare(1);
  const auto sent = events(10, 1);
  store(channel, sent);
  const auto group = fresh("group");
  auto source = join(channel, group);
  const auto stale = hold(*source, 10);
  backend().stop_broker();
  for (const Message& message : stale) source->touch(message);
  backend().start_broker();
  // The old receipts may be dead or alive, by backend; an acknowledgement under them must never settle another message.
  ASSERT_FALSE(stale.empty());
  source->ack(stale.back());
  source->close(10s);

  const auto successor = join(channel, group);
  auto expected = ids_of(sent);
  expected.erase(stale.back().id());
  consume_ids(*successor, expected);
}

TEST_P(Outage, CloseIsInTimeWhileTheBrokerIsAway) {
  const auto channel = declare();
  store(channel, events(10, 2));
  auto source = join(channel, fresh("group"));
  const auto messages = hold(*source, 10);
  backend().stop_broker();
  for (const Message& message : messages) source->ack(message);
  auto start = SteadyClock::now();
  source->close(2s);
  EXPECT_LT(SteadyClock::now() - start, 20s) << "close(2s)";
  start = SteadyClock::now();
  source.reset();
  EXPECT_LT(SteadyClock::now() - start, 20s) << "the destructor";
  // A publisher with something outstanding too.
  std::future<Outcomes> call;
  start = SteadyClock::now();
  {
    const auto to = publisher(channel);
    call = to->submit(events(10, 2), 2s);
  }
  ASSERT_EQ(call.wait_for(30s), std::future_status::ready);
  for (const Outcome& outcome : call.get()) EXPECT_FALSE(outcome.confirmed());
  backend().start_broker();
}

TEST_P(Outage, Rule9_EverythingConfirmedAcrossAnOutageIsThere) {
  const auto channel = declare();
  const auto to = publisher(channel);
  const auto source = join(channel, fresh("group"));
  std::vector<Event> sent;
  std::vector<std::future<Outcomes>> calls;
  const auto submit = [&](int batches) {
    for (int i = 0; i < batches; ++i) {
      std::vector<Event> batch = events(10, 10);
      calls.push_back(to->submit(batch, 5s));
      std::move(batch.begin(), batch.end(), std::back_inserter(sent));
    }
  };
  submit(50);
  backend().stop_broker();  // with calls on their way
  submit(10);
  backend().start_broker();
  submit(10);

  std::set<std::string> confirmed;
  std::vector<Event> open;
  std::size_t at = 0;
  for (auto& call : calls) {
    ASSERT_EQ(call.wait_for(patience), std::future_status::ready);
    for (const Outcome& outcome : call.get()) {
      EXPECT_NE(outcome.status, Status::rejected) << outcome.error;
      if (outcome.confirmed()) {
        confirmed.insert(sent[at].id);
      } else {
        open.push_back(sent[at]);
      }
      ++at;
    }
  }
  ASSERT_EQ(at, sent.size());
  const auto came = consume_ids(*source, confirmed);

  confirm_all(*to, open);
  // Some of these may have been stored before, and have come with the others.
  std::set<std::string> rest = ids_of(open);
  for (const std::string& id : came) rest.erase(id);
  consume_ids(*source, rest);
}

}  // namespace
}  // namespace penstock::contract
