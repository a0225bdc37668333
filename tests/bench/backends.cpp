// SPDX-License-Identifier: Apache-2.0
// The backends alone, beside the bare client doing the same: publishing as many at once as the window allows, reading with an
// acknowledgement for each, and what publishing allocates.
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "allocations.hpp"
#include "brokers.hpp"
#include "payload.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

constexpr std::size_t kCall = 500;  ///< events in one call of submit
constexpr std::size_t kCalls = 8;   ///< calls without their outcomes
constexpr auto kPatience = std::chrono::seconds{60};

void expect_confirmed(std::future<Outcomes>& call) {
  for (const Outcome& outcome : call.get()) {
    if (!outcome.confirmed()) throw std::runtime_error{"not confirmed: " + outcome.error};
  }
}

/// `make` gives the events of a call from number `first`.
void publish_all(Publisher& publisher, std::size_t count,
                 const std::function<std::span<const Event>(std::size_t first, std::size_t size)>& make) {
  std::deque<std::future<Outcomes>> calls;
  for (std::size_t first = 0; first < count; first += kCall) {
    calls.push_back(publisher.submit(make(first, std::min(kCall, count - first)), kPatience));
    if (calls.size() < kCalls) continue;
    expect_confirmed(calls.front());
    calls.pop_front();
  }
  for (auto& call : calls) expect_confirmed(call);
}

/// Makes each event when it is sent, as the bare client does.
Samples publish(const Config& config, const Backend& backend, std::size_t count) {
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  const Stopwatch watch;
  const Channel channel = backend.channel(config, destination.name());
  std::vector<Event> events;
  publish_all(*channel.publisher, count, [&](std::size_t first, std::size_t size) {
    events.clear();
    for (std::size_t i = first; i < first + size; ++i) events.push_back(event_of(i));
    return std::span<const Event>{events};
  });
  const double seconds = watch.seconds();
  check_count("messages at " + backend.name, count, broker->stored(destination.name()));
  return rate(count, seconds);
}

/// Calls of operator new for one event, from submit to its outcome; the event itself was made before.
Samples allocations(const Config& config, const Backend& backend, std::size_t count) {
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  std::vector<Event> events;
  for (std::size_t i = 0; i < count; ++i) events.push_back(event_of(i));
  const auto part = [&](std::size_t first, std::size_t size) { return std::span<const Event>{events}.subspan(first, size); };
  const Channel channel = backend.channel(config, destination.name());
  publish_all(*channel.publisher, std::min(count, kCall), part);  // connects
  Allocations::begin();
  publish_all(*channel.publisher, count, part);
  return {{static_cast<double>(Allocations::end()) / static_cast<double>(count)}};
}

/// Seconds from the first message to the last.
double read_all(Source& source, std::size_t count) {
  std::optional<Stopwatch> watch;
  Stopwatch idle;
  std::vector<const Message*> done;
  for (std::size_t seen = 0; seen < count;) {
    std::vector<Message> messages = source.poll(256, std::chrono::milliseconds{100});
    if (messages.empty()) {
      if (idle.seconds() > 60) throw std::runtime_error{"nothing more after " + std::to_string(seen)};
      continue;
    }
    idle = Stopwatch{};
    if (!watch) watch.emplace();
    done.clear();
    for (const Message& message : messages) done.push_back(&message);
    source.ack_all(done);
    seen += messages.size();
    source.recycle(std::move(messages));
  }
  const double seconds = watch->seconds();
  source.close(std::chrono::seconds{30});
  return seconds;
}

/// Both read what the bare client has published.
Samples consume(const Config& config, const Backend& backend, std::size_t count, bool raw) {
  static int groups = 0;
  const std::string group = "bench-" + std::to_string(++groups);
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  broker->publisher(destination.name())->publish(0, count);
  check_count("messages at " + backend.name, count, broker->stored(destination.name()));
  double seconds = 0;
  if (raw) {
    seconds = broker->consume(destination.name(), group, count);
  } else {
    const auto source = backend.source(config, destination.name());
    source->open(group, nullptr);
    seconds = read_all(*source, count);
  }
  // A broker takes acknowledgements as they come, and works them off after that.
  const Stopwatch patience;
  while (broker->unsettled(destination.name(), group) != 0 && patience.seconds() < 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }
  check_count("unacknowledged at " + backend.name, 0, broker->unsettled(destination.name(), group));
  return rate(count, seconds);
}

Samples memory(std::size_t count) {
  testing::MemoryBroker broker;
  broker.declare("bench", kKafkaPartitions);
  std::vector<Event> events;
  for (std::size_t i = 0; i < count; ++i) events.push_back(event_of(i));
  const Channel channel = broker.channel("bench");
  const Stopwatch watch;
  publish_all(*channel.publisher, count,
              [&](std::size_t first, std::size_t size) { return std::span<const Event>{events}.subspan(first, size); });
  const double publishing = watch.seconds();
  const auto source = broker.source("bench", {.prefetch = 16'384});
  source->open("bench", nullptr);
  const double reading = read_all(*source, count);
  check_count("pending", 0, broker.pending("bench", "bench"));
  return {rate(count, publishing).front(), rate(count, reading).front()};
}

}  // namespace

std::vector<Work> backend_works(const Config& config) {
  constexpr double kInMemory = 200'000;
  constexpr double kCounted = 20'000;
  std::vector<Work> works;
  for (const Backend& backend : backends(config)) {
    const double events = backend.publish_events;
    const double least = backend.name == "kafka" ? 0.8 : 0.9;
    Json settings{{"payload_bytes", kPayloadBytes}, {"keys", kKeys}, {"events", config.events(events, 1)}};
    settings.update(backend.settings);
    Work publishing{.name = "backends.publish." + backend.name,
                    .metrics = {{.unit = "events/s", .goal = Goal{Goal::Kind::ratio_at_least, least}}},
                    .settings = settings};
    publishing.settings["submit"] = std::to_string(kCalls) + " calls of " + std::to_string(kCall);
    publishing.settings["reference"] = backend.client + ", from memory";
    publishing.ours = [=](double scale) { return publish(config, backend, config.events(events, scale)); };
    publishing.reference = [=](double scale) { return publish_raw(config, backend, config.events(events, scale)); };
    works.push_back(std::move(publishing));

    Work consuming{.name = "backends.consume." + backend.name,
                   .metrics = {{.unit = "messages/s", .goal = Goal{Goal::Kind::ratio_at_least, 0.8}}},
                   .settings = settings};
    consuming.settings["reference"] = backend.client + ", one message after the other";
    consuming.ours = [=](double scale) { return consume(config, backend, config.events(events, scale), false); };
    consuming.reference = [=](double scale) { return consume(config, backend, config.events(events, scale), true); };
    works.push_back(std::move(consuming));

    Work counting{.name = "backends.allocations." + backend.name,
                  .metrics = {{.unit = "per event", .goal = Goal{Goal::Kind::ours_at_most, 2}}},
                  .settings = settings};
    counting.settings["events"] = config.events(kCounted, 1);
    counting.ours = [=](double scale) { return allocations(config, backend, config.events(kCounted, scale)); };
    works.push_back(std::move(counting));
  }
  Work in_memory{.name = "backends.memory",
                 .metrics = {{.name = "publish", .unit = "events/s", .goal = Goal{Goal::Kind::ours_at_least, 1e6}},
                             {.name = "consume", .unit = "messages/s", .goal = Goal{Goal::Kind::ours_at_least, 1e6}}},
                 .settings = {{"payload_bytes", kPayloadBytes}, {"events", config.events(kInMemory, 1)}}};
  in_memory.ours = [=](double scale) { return memory(config.events(kInMemory, scale)); };
  works.push_back(std::move(in_memory));
  return works;
}

}  // namespace penstock::bench
