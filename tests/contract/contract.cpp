// SPDX-License-Identifier: Apache-2.0
#include "contract/contract.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <thread>
#include <utility>

#include "penstock/event.hpp"
#include "penstock/uuid.hpp"

namespace penstock::contract {
namespace {

using SteadyClock = std::chrono::steady_clock;

}  // namespace

Contract::Contract() : backend_{GetParam().make()} {}

Contract::~Contract() {
  for (const std::string& channel : declared_) backend_->remove(channel);
}

std::string Contract::fresh(const std::string& what) { return "contract-" + what + "-" + uuid7(); }

std::string Contract::declare(int partitions) {
  declared_.push_back(fresh("channel"));
  if (broker_crashes()) {
    backend().declare(declared_.back(), partitions);
  } else {
    backend().declare_quickly(declared_.back(), partitions);
  }
  return declared_.back();
}

std::unique_ptr<Source> Contract::join(const std::string& channel, const std::string& group, std::size_t prefetch) {
  auto source = backend().source(channel, prefetch);
  source->open(group, nullptr);
  return source;
}

Event Contract::event(const std::string& key, int number) {
  Event event;
  event.id = uuid7();
  event.source = "/contract";
  event.type = "penstock.contract.tested.v1";
  event.key = key;
  event.data = "{\"key\":\"" + key + "\",\"number\":" + std::to_string(number) + "}";
  event.content_type = "application/json";
  event.time = format_time(std::chrono::system_clock::now());
  return event;
}

std::vector<Event> Contract::events(int count, int keys) {
  std::vector<Event> events;
  events.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) events.push_back(event("key-" + std::to_string(i % keys), i));
  return events;
}

void Contract::store(const std::string& channel, const std::vector<Event>& events) {
  const Outcomes outcomes = publisher(channel)->publish(events, timeout);
  ASSERT_EQ(outcomes.size(), events.size()) << "one outcome per event";
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    ASSERT_EQ(outcomes[i].status, Outcome::Status::confirmed)
        << "event " << i << " of " << events.size() << " on " << channel << ": " << outcomes[i].error;
    ASSERT_EQ(outcomes[i].error, "") << "confirmed, so without an error";
  }
}

std::vector<Message> Contract::take(Source& source, std::size_t count) {
  std::vector<Message> messages;
  const auto deadline = SteadyClock::now() + patience;
  while (messages.size() < count && SteadyClock::now() < deadline) {
    auto more = source.poll(count - messages.size(), 100ms);
    EXPECT_LE(more.size(), count - messages.size()) << "poll returned more than it was asked for";
    std::move(more.begin(), more.end(), std::back_inserter(messages));
  }
  EXPECT_EQ(messages.size(), count) << "messages of " << source.channel() << " did not come";
  return messages;
}

std::vector<Message> Contract::hold(Source& source, std::size_t count) {
  if (!traits().serial) return take(source, count);
  auto messages = take(source, 1);
  const auto deadline = SteadyClock::now() + quiet;
  while (messages.size() < count && SteadyClock::now() < deadline) {
    auto more = source.poll(count - messages.size(), 50ms);
    std::move(more.begin(), more.end(), std::back_inserter(messages));
  }
  return messages;
}

std::vector<Message> Contract::consume(Source& source, std::size_t count) {
  std::vector<Message> messages;
  const auto deadline = SteadyClock::now() + patience;
  while (messages.size() < count && SteadyClock::now() < deadline) {
    for (Message& message : source.poll(count - messages.size(), 100ms)) {
      source.ack(message);
      messages.push_back(std::move(message));
    }
  }
  EXPECT_EQ(messages.size(), count) << "messages of " << source.channel() << " did not come";
  return messages;
}

std::multiset<std::string> Contract::consume_ids(Source& source, const std::set<std::string>& ids) {
  std::multiset<std::string> seen;
  std::set<std::string> missing = ids;
  const auto deadline = SteadyClock::now() + patience;
  while (!missing.empty() && SteadyClock::now() < deadline) {
    for (const Message& message : source.poll(500, 100ms)) {
      source.ack(message);
      seen.insert(message.id());
      missing.erase(message.id());
    }
  }
  EXPECT_TRUE(missing.empty()) << missing.size() << " of " << ids.size() << " events did not come from " << source.channel()
                               << ", one of them " << *missing.begin();
  return seen;
}

Ids Contract::leftovers(Source& source) {
  Ids ids;
  const auto deadline = SteadyClock::now() + quiet;
  while (SteadyClock::now() < deadline) {
    for (const Message& message : source.poll(100, 50ms)) ids.push_back(message.id());
  }
  return ids;
}

std::set<std::string> ids_of(const std::vector<Event>& events) {
  std::set<std::string> ids;
  for (const Event& event : events) ids.insert(event.id);
  return ids;
}

Ids ids_of(const std::vector<Message>& messages) {
  Ids ids;
  ids.reserve(messages.size());
  for (const Message& message : messages) ids.push_back(message.id());
  return ids;
}

void expect_key_order(const std::vector<Event>& events, const std::vector<Message>& messages) {
  std::map<std::string, std::vector<std::string>> expected;
  std::map<std::string, std::vector<std::string>> seen;
  for (const Event& event : events) expected[event.key].push_back(event.id);
  for (const Message& message : messages) seen[message.key()].push_back(message.id());
  for (const auto& [key, ids] : expected) EXPECT_EQ(seen[key], ids) << "order of key " << key;
  EXPECT_EQ(seen.size(), expected.size()) << "keys that nobody sent";
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = SteadyClock::now() + patience;
  while (!condition()) {
    if (SteadyClock::now() >= deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

void confirm_all(Publisher& to, std::vector<Event> open) {
  const auto confirmed = [&] {
    const auto outcomes = to.publish(open, 5s);
    std::vector<Event> left;
    for (std::size_t i = 0; i < open.size(); ++i) {
      EXPECT_NE(outcomes[i].status, Outcome::Status::rejected) << outcomes[i].error;
      if (!outcomes[i].confirmed()) left.push_back(open[i]);
    }
    open = std::move(left);
    return open.empty();
  };
  EXPECT_TRUE(eventually(confirmed)) << open.size() << " events were never confirmed: the publisher did not come back";
}

}  // namespace penstock::contract
