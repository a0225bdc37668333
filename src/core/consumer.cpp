// SPDX-License-Identifier: Apache-2.0
#include "penstock/consumer.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "core/budget_meter.hpp"
#include "core/consumer_engine.hpp"
#include "core/consumer_gate.hpp"
#include "core/consumer_processor.hpp"

namespace penstock {

namespace {

[[noreturn]] void refuse(const std::string& option, const std::string& value, const std::string& remedy) {
  throw std::invalid_argument{"ConsumerOptions::" + option + " is " + value + ": " + remedy};
}

bool is_group_name(std::string_view name) {
  constexpr std::size_t longest = 100;
  return !name.empty() && name.size() <= longest && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

void check(const RetryBudget& budget) {
  if (!(budget.share >= 0 && budget.share <= 1)) {
    refuse("budget.share", std::to_string(budget.share), "give a part from 0 to 1, as 0.2 for one in five");
  }
  if (!(budget.per_second > 0 && budget.per_second <= 1e9)) {
    refuse("budget.per_second", std::to_string(budget.per_second), "give more than 0, or a retry might never come");
  }
  if (!(budget.burst >= 1 && budget.burst <= 1e9)) {
    refuse("budget.burst", std::to_string(budget.burst), "give at least 1");
  }
}

void check(const Source* source, const ConsumerOptions& options, const Handler& handler) {
  using std::to_string;
  if (source == nullptr) {
    throw std::invalid_argument{"Consumer: the source is null; give one made by lane.source(…), conduit.source(…) or another"};
  }
  if (!handler) {
    throw std::invalid_argument{"Consumer: the handler is empty; give a function of (const Message&, Context&)"};
  }
  if (!is_group_name(options.group)) {
    refuse("group", "'" + options.group + "'", "give 1 to 100 characters of A-Z, a-z, 0-9, '.', '_', '-'");
  }
  if (options.workers.min < 1) {
    refuse("workers.min", to_string(options.workers.min), "at least 1");
  }
  if (options.workers.max < options.workers.min) {
    refuse("workers.max", to_string(options.workers.max), "at least workers.min, " + to_string(options.workers.min));
  }
  if (options.in_flight == 0) {
    refuse("in_flight", "0", "at least 1, or nothing would ever be handled");
  }
  if (options.in_flight_bytes == 0) {
    refuse("in_flight_bytes", "0", "at least 1, or nothing would ever be handled");
  }
  if (options.batch == 0 || options.batch > options.in_flight) {
    refuse("batch", to_string(options.batch), "at least 1 and at most in_flight, " + to_string(options.in_flight));
  }
  if (options.handler_timeout < std::chrono::milliseconds{0}) {
    refuse("handler_timeout", to_string(options.handler_timeout.count()) + " ms", "give a positive time, or 0 for none");
  }
  if (options.crashes < 0) {
    refuse("crashes", to_string(options.crashes), "at least 1, or 0 to count none");
  }
  if (options.postpone_limit < std::chrono::milliseconds{0}) {
    refuse("postpone_limit", to_string(options.postpone_limit.count()) + " ms", "give a time that is not negative");
  }
  if (options.systemic.rejected > options.systemic.of) {
    refuse("systemic.rejected", to_string(options.systemic.rejected),
           "give at most systemic.of, " + to_string(options.systemic.of) + ", or 0 for never");
  }
  if (options.budget) {
    check(*options.budget);
  }
  if (options.parked_poll <= std::chrono::milliseconds{0}) {
    refuse("parked_poll", to_string(options.parked_poll.count()) + " ms", "give a positive time");
  }
  if (options.drain_timeout < std::chrono::milliseconds{0}) {
    refuse("drain_timeout", to_string(options.drain_timeout.count()) + " ms", "give a time that is not negative");
  }
  if (options.clock == nullptr || options.random == nullptr) {
    refuse(options.clock == nullptr ? "clock" : "random", "null", "leave it out for the system's");
  }
  if (!options.source.empty()) {
    try {
      validate(Event{.id = "1", .source = options.source, .type = "penstock.check.v1"});
    } catch (const InvalidEvent& error) {
      refuse("source", "'" + options.source + "'", error.what());
    }
  }
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string{name.data()} : std::string{"unknown"};
}

}  // namespace

class Consumer::Impl {
 public:
  Impl(std::unique_ptr<Source> source, Datastore* store, AtLeastOnce channels, ConsumerOptions options, Handler handler,
       BatchHandler batch_handler = {})
      : source_{(check(source.get(), options, handler), std::move(source))},
        options_{std::move(options)},
        handler_{std::move(handler)},
        batch_handler_{std::move(batch_handler)},
        channels_{std::move(channels)},
        journal_{options_.group, options_.logger},
        gate_{options_, journal_},
        budget_{options_.budget ? std::make_unique<BudgetMeter>(*options_.budget, *options_.clock) : nullptr},
        shared_{*source_, options_, handler_, batch_handler_, journal_, host_name(), solitude_, gate_, budget_.get()},
        engine_{shared_, store, [this, store](consumer::Leash& leash) {
                  return store != nullptr ? consumer::make_exactly_once(shared_, *store, leash)
                                          : consumer::make_at_least_once(shared_, channels_, attempts_, leash);
                }} {}

  bool run(const std::stop_token& stop) {
    if (ran_.exchange(true)) {
      throw std::logic_error{"Consumer::run: it ran before; a consumer runs once, make another"};
    }
    return engine_.run(stop);
  }

  [[nodiscard]] ConsumerStatus status() const {
    ConsumerStatus status;
    status.done = journal_.done;
    status.duplicates = journal_.duplicates;
    status.parked = journal_.parked;
    status.dead = journal_.dead;
    status.last_error = journal_.last_error();
    engine_.describe(status);
    if (status.paused) {
      status.pause_reason = "the datastore is away";
    } else {
      status.pause_reason = gate_.reason();
      status.paused = !status.pause_reason.empty();
    }
    status.systemic = gate_.systemic();
    return status;
  }

 private:
  std::unique_ptr<Source> source_;
  const ConsumerOptions options_;
  const Handler handler_;
  const BatchHandler batch_handler_;
  const AtLeastOnce channels_;
  consumer::AttemptMemory attempts_;
  consumer::Journal journal_;
  consumer::Solitude solitude_;
  mutable consumer::Gate gate_;
  const std::unique_ptr<BudgetMeter> budget_;
  const consumer::Shared shared_;
  consumer::Engine engine_;
  std::atomic<bool> ran_{false};
};

Consumer::Consumer(std::unique_ptr<Source> source, Datastore& datastore, ConsumerOptions options, Handler handler)
    : impl_{std::make_unique<Impl>(std::move(source), &datastore, AtLeastOnce{}, std::move(options), std::move(handler))} {}

Consumer::Consumer(std::unique_ptr<Source> source, Datastore& datastore, ConsumerOptions options, BatchHandler handler) {
  // Alone, a message is a batch of one.
  Handler single;
  if (handler) {
    single = [handler](const Message& message, Context& context) {
      const Message* const messages = &message;
      Context* const contexts = &context;
      Batch batch{{&messages, 1}, {&contexts, 1}};
      const Verdicts verdicts = handler(batch);
      return verdicts.each().empty() ? verdicts.all() : verdicts.each().front();
    };
  }
  impl_ = std::make_unique<Impl>(std::move(source), &datastore, AtLeastOnce{}, std::move(options), std::move(single),
                                 std::move(handler));
}

Consumer::Consumer(std::unique_ptr<Source> source, AtLeastOnce without_datastore, ConsumerOptions options, Handler handler) {
  if (!without_datastore.dead_letters.publisher) {
    throw std::invalid_argument{
        "AtLeastOnce::dead_letters has no publisher: give the channel for what cannot be processed, as "
        "lane.channel(dead_channel(\"jobs\"))"};
  }
  impl_ =
      std::make_unique<Impl>(std::move(source), nullptr, std::move(without_datastore), std::move(options), std::move(handler));
}

Consumer::~Consumer() = default;

bool Consumer::run(std::stop_token stop) { return impl_->run(stop); }

ConsumerStatus Consumer::status() const { return impl_->status(); }

}  // namespace penstock
