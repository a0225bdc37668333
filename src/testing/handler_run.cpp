// SPDX-License-Identifier: Apache-2.0
#include "testing/handler_run.hpp"

#include <chrono>
#include <utility>

#include "penstock/testing/seeds.hpp"

namespace penstock::testing {

namespace {

using namespace std::chrono_literals;

constexpr const char* channel = "given";
constexpr auto patience = 30s;

ConsumerOptions completed(ConsumerOptions options, ManualClock& clock, Random& random) {
  options.clock = &clock;
  options.random = &random;
  options.parked_poll = 1ms;
  return options;
}

}  // namespace

HandlerRun::HandlerRun(Handler handler, Datastore& store, ManualClock& clock, std::uint64_t seed, int partitions,
                       ConsumerOptions options)
    : clock_{clock},
      random_{Random::seeded(seed)},
      broker_{{.seed = seed, .clock = &clock}},
      store_{store},
      looks_{store.session(options.group)},
      group_{options.group} {
  broker_.declare(channel, partitions);
  consumer_ = std::make_unique<Consumer>(broker_.source(channel), store_, completed(std::move(options), clock, *random_),
                                         std::move(handler));
}

HandlerRun::~HandlerRun() = default;

void HandlerRun::publish(Event event) {
  ++events_;
  if (event.id.empty()) event.id = "given-" + std::to_string(events_);
  if (event.source.empty()) event.source = "/test";
  if (const Outcome outcome = broker_.publish(channel, std::move(event)); !outcome.confirmed()) {
    throw Unexpected{"the event that was given cannot be published: " + outcome.error};
  }
}

bool HandlerRun::idle() {
  const std::uint64_t begun = store_.begun();
  return broker_.pending(channel, group_) == 0 && store_.busy() == 0 && looks_->due(1) == 0 && store_.busy() == 0 &&
         begun == store_.begun();
}

void HandlerRun::settle() {
  if (!thread_.joinable()) {
    thread_ = std::jthread{[this](const std::stop_token& stop) { consumer_->run(stop); }};
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!idle()) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw Unexpected{"not everything that was given was settled within " + std::to_string(patience.count()) +
                       " s; the last error: " + consumer_->status().last_error + "\n" + broker_.describe(channel)};
    }
    if (looks_->due(1) > 0) {
      clock_.advance(1ms);
    }
    std::this_thread::sleep_for(200us);
  }
}

}  // namespace penstock::testing
