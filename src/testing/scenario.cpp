// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/scenario.hpp"

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "testing/handler_run.hpp"

namespace penstock::testing {

namespace {

constexpr int partitions = 4;

const char* name_of(Verdict::Kind kind) {
  switch (kind) {
    case Verdict::Kind::done: return "done";
    case Verdict::Kind::retry: return "retry";
    case Verdict::Kind::reject: return "reject";
    case Verdict::Kind::postpone: return "postpone";
  }
  return "done";
}

ConsumerOptions named(ConsumerOptions options) {
  if (options.group.empty()) options.group = "scenario";
  return options;
}

}  // namespace

class Scenario::Impl {
 public:
  Impl(Handler wrapped, ScenarioOptions options)
      : memory{clock},
        seed{options.seed},
        group{named(options.consumer).group},
        own{options.store == nullptr},
        handler{std::move(wrapped)},
        run{[this](const Message& message, Context& context) { return called(message, context); },
            own ? static_cast<Datastore&>(memory) : *options.store,
            clock,
            options.seed,
            partitions,
            named(std::move(options.consumer))} {}

  Verdict called(const Message& message, Context& context) {
    const std::string line = format_time(clock.now()) + "  " + message.type() + " " + message.id() +
                             (message.key().empty() ? "" : " of " + message.key()) + ", attempt " +
                             std::to_string(context.attempt()) + ": ";
    try {
      Verdict verdict = handler(message, context);
      tell(line + name_of(verdict.kind()) + (verdict.reason().empty() ? "" : ", " + verdict.reason()));
      return verdict;
    } catch (const std::exception& error) {
      tell(line + "threw " + error.what());
      throw;
    } catch (...) {
      tell(line + "threw");
      throw;
    }
  }

  void tell(std::string line) {
    const std::lock_guard guard{mutex};
    lines.push_back(std::move(line));
  }

  [[nodiscard]] std::string story() const {
    const std::lock_guard guard{mutex};
    std::string text;
    for (const std::string& line : lines) text += "  " + line + "\n";
    return text.empty() ? "  the handler was not called\n" : text;
  }

  [[nodiscard]] std::size_t calls() const {
    const std::lock_guard guard{mutex};
    return lines.size();
  }

  [[noreturn]] void fail(const std::string& what) const {
    std::string text = what + "\n(seed " + std::to_string(seed) + ")\n" + story();
    if (own) {
      for (const Event& event : memory.emitted()) text += "  emitted " + event.type + " of '" + event.key + "'\n";
      for (const DeadLetter& letter : memory.dead_letters()) {
        text += "  dead letter " + letter.message.id() + ": " + letter.reason + "\n";
      }
      text += "  parked: " + std::to_string(memory.parked(group)) + "\n";
    }
    throw Unexpected{text};
  }

  void require_own(const char* what) const {
    if (!own) {
      throw std::logic_error{"Scenario: " + std::string{what} + " are in the store that was given; look there"};
    }
  }

  ManualClock clock;
  MemoryDatastore memory;
  const std::uint64_t seed;
  const std::string group;
  const bool own;
  const Handler handler;
  mutable std::mutex mutex;
  std::vector<std::string> lines;
  HandlerRun run;  // last: it stops first
};

Scenario::Scenario(Handler handler, ScenarioOptions options) {
  if (!handler) {
    throw std::invalid_argument{"Scenario: the handler is empty; give a function of (const Message&, Context&)"};
  }
  impl_ = std::make_unique<Impl>(std::move(handler), std::move(options));
}

Scenario::~Scenario() = default;

Scenario& Scenario::given(Event event) {
  impl_->run.publish(std::move(event));
  return *this;
}

Scenario& Scenario::when_run() {
  impl_->run.settle();
  return *this;
}

Scenario& Scenario::advance(std::chrono::milliseconds by) {
  impl_->clock.advance(by);
  return when_run();
}

Scenario& Scenario::expect_emitted(std::string_view type, std::string_view key) {
  const std::vector<Event> events = emitted();
  const auto is = [&](const Event& event) { return event.type == type && (key.empty() || event.key == key); };
  if (std::none_of(events.begin(), events.end(), is)) {
    impl_->fail("no event " + std::string{type} + (key.empty() ? "" : " of '" + std::string{key} + "'") + " was emitted");
  }
  return *this;
}

Scenario& Scenario::expect_nothing_emitted() {
  if (!emitted().empty()) impl_->fail("something was emitted");
  return *this;
}

Scenario& Scenario::expect_parked(std::size_t messages) {
  impl_->require_own("parked messages");
  if (const std::size_t parked = impl_->memory.parked(impl_->group); parked != messages) {
    impl_->fail(std::to_string(messages) + " messages should be parked, and " + std::to_string(parked) + " are");
  }
  return *this;
}

Scenario& Scenario::expect_dead_letter(std::string_view reason) {
  const std::vector<DeadLetter> letters = dead_letters();
  const auto is = [&](const DeadLetter& letter) { return letter.reason.find(reason) != std::string::npos; };
  if (std::none_of(letters.begin(), letters.end(), is)) {
    impl_->fail("no message was dead-lettered for '" + std::string{reason} + "'");
  }
  return *this;
}

Scenario& Scenario::expect_no_dead_letter() {
  if (!dead_letters().empty()) impl_->fail("a message was dead-lettered");
  return *this;
}

Scenario& Scenario::expect_calls(std::size_t calls) {
  if (const std::size_t made = impl_->calls(); made != calls) {
    impl_->fail("the handler should have been called " + std::to_string(calls) + " times, and was " + std::to_string(made));
  }
  return *this;
}

Scenario& Scenario::expect_effect(std::string_view what, const std::function<bool()>& holds) {
  if (!holds()) impl_->fail("it does not hold that " + std::string{what});
  return *this;
}

std::vector<Event> Scenario::emitted() const {
  impl_->require_own("emitted events");
  return impl_->memory.emitted();
}

std::vector<DeadLetter> Scenario::dead_letters() const {
  impl_->require_own("dead letters");
  return impl_->memory.dead_letters();
}

std::string Scenario::story() const { return impl_->story(); }

}  // namespace penstock::testing
