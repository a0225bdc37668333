// SPDX-License-Identifier: Apache-2.0
// A relay empties a prefilled outbox: into a sink that confirms at once against COPY TO of such a table, and into each broker
// against the bare client that publishes the same events from memory.
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "brokers.hpp"
#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "pg.hpp"
#include "sink.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

constexpr std::size_t kFewKeys = 10;
constexpr double kFewKeyEvents = 5'000;

std::unique_ptr<Schema> prefilled(const Config& config, Original& original, std::size_t events, std::size_t keys) {
  auto schema = std::make_unique<Schema>(config.postgres, Schema::Kind::penstock);
  refill_outbox(original.get(), *schema, {.events = events, .keys = keys});
  schema->execute("CHECKPOINT");
  return schema;
}

Samples copy_table(const Config& config, Original& original, std::size_t events) {
  const Schema schema{config.postgres, Schema::Kind::empty};
  const Schema& from = original.get();
  schema.execute("CREATE TABLE " + schema.table("log") + " AS SELECT * FROM " + from.table("outbox") + " ORDER BY id LIMIT " +
                 std::to_string(events));
  schema.execute("CHECKPOINT");
  const Stopwatch watch;
  const std::size_t rows = copy_out(config.postgres, schema.table("log"));
  const double seconds = watch.seconds();
  check_count("rows copied", events, rows);
  return rate(events, seconds);
}

Samples drain_to_sink(const Config& config, Original& original, std::size_t events) {
  const auto schema = prefilled(config, original, events, kKeys);
  Outbox outbox{config.postgres, {.schema = schema->name(), .source = kSource}};
  const auto sink = std::make_shared<InstantSink>();
  const Stopwatch watch;
  RunningRelay relay{outbox, {.backend = "bench", .name = "sink", .publisher = sink}};
  relay.await_published(events);
  const double seconds = watch.seconds();
  check_count("events in the sink", events, sink->count());
  return rate(events, seconds);
}

Samples drain_to_broker(const Config& config, const Backend& backend, Original& original, std::size_t events,
                        std::size_t keys) {
  const auto schema = prefilled(config, original, events, keys);
  const auto broker = backend.raw(config);
  const Destination destination{*broker};
  Outbox outbox{config.postgres, {.schema = schema->name(), .source = kSource}};
  const Stopwatch watch;
  double seconds = 0;
  {
    RunningRelay relay{outbox, backend.channel(config, destination.name())};
    relay.await_published(events);
    seconds = watch.seconds();
  }
  check_count("messages at " + backend.name, events, broker->stored(destination.name()));
  return rate(events, seconds);
}

/// The limit of who reads the log by COPY and then publishes with the bare client, one after the other, as both share the
/// machine: 1 / (1 / read + 1 / publish).
Samples limit(const Config& config, const Backend& backend, Original& original, std::size_t events) {
  const double read = copy_table(config, original, original.events())[0][0];
  const double publish = publish_raw(config, backend, events)[0][0];
  return {{1 / (1 / read + 1 / publish)}};
}

}  // namespace

std::vector<Work> drain_works(const Config& config) {
  constexpr double kSinkEvents = 200'000;
  const auto original = std::make_shared<Original>(config.postgres, config.events(kSinkEvents, 1));
  const Json settings{{"payload_bytes", kPayloadBytes},          {"keys", kKeys},
                      {"batch", RelayOptions{}.batch},           {"in_flight", RelayOptions{}.in_flight},
                      {"events", config.events(kSinkEvents, 1)}, {"fsync", "on"}};
  std::vector<Work> works;
  Work sink{.name = "drain.sink",
            .metrics = {{.unit = "events/s", .goal = Goal{Goal::Kind::ratio_at_least, 0.5}}},
            .settings = settings};
  sink.settings["reference"] = "COPY TO STDOUT of the same rows, libpq";
  sink.ours = [=](double scale) { return drain_to_sink(config, *original, config.events(kSinkEvents, scale)); };
  sink.reference = [=](double scale) { return copy_table(config, *original, config.events(kSinkEvents, scale)); };
  works.push_back(std::move(sink));

  // Many keys, and few: a key's next event is sent when the one before it is acknowledged, so that few keys go at the pace of
  // the broker's answers.
  for (const std::size_t keys : {kKeys, kFewKeys}) {
    for (const Backend& backend : backends(config)) {
      const double events = keys == kKeys ? backend.drain_events : kFewKeyEvents;
      Work work{.name = (keys == kKeys ? "drain." : "drain_few_keys.") + backend.name,
                .metrics = {{.unit = "events/s"}},
                .settings = settings};
      if (keys == kKeys) work.metrics[0].goal = Goal{Goal::Kind::ratio_at_least, 0.8};
      work.settings["keys"] = keys;
      work.settings["events"] = config.events(events, 1);
      work.settings.update(backend.settings);
      work.settings["reference"] =
          "1 / (1 / read + 1 / publish): COPY of the log, and " + backend.client + " publishing from memory";
      work.ours = [=](double scale) { return drain_to_broker(config, backend, *original, config.events(events, scale), keys); };
      work.reference = [=](double scale) { return limit(config, backend, *original, config.events(events, scale)); };
      works.push_back(std::move(work));
    }
  }
  return works;
}

}  // namespace penstock::bench
