// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/check_idempotent.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "penstock/random.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "testing/handler_run.hpp"

namespace penstock::testing {

namespace {

using Cut = WatchedDatastore::Cut;

class Checker {
 public:
  Checker(const Handler& handler, const IdempotenceCheck& check) : handler_{handler}, check_{check} {
    if (check.given.empty()) {
      throw std::invalid_argument{"IdempotenceCheck::given is empty: give the events that the handler is to run on"};
    }
    for (const Event& event : check.given) {
      Event named = event;
      if (named.id.empty()) named.id = "given-" + std::to_string(given_.size() + 1);
      given_.push_back(std::move(named));
    }
  }

  std::string run() {
    should_be_ = tables_after(given_, Cut::never, 0);
    const int commits = commits_;
    std::string difference = compared("every event was delivered twice", twice());
    if (difference.empty()) difference = compared("the keys came in another order", reordered());
    for (int commit = 1; commit <= commits && difference.empty(); ++commit) {
      const std::string which = "commit " + std::to_string(commit) + " of " + std::to_string(commits);
      difference = compared("the process died before " + which, given_, Cut::before, commit);
      if (difference.empty()) difference = compared("the process died after " + which, given_, Cut::after, commit);
    }
    return difference;
  }

 private:
  [[nodiscard]] std::vector<Event> twice() const {
    std::vector<Event> events;
    for (const Event& event : given_) {
      events.push_back(event);
      events.push_back(event);
    }
    return events;
  }

  /// Takes the next event of a key chosen by chance, again and again: the order within each key stays.
  [[nodiscard]] std::vector<Event> reordered() const {
    std::vector<Event> left = given_;
    std::vector<Event> events;
    const auto random = Random::seeded(check_.seed);
    while (!left.empty()) {
      const std::string key = left[random->next() % left.size()].key;
      const auto next = std::find_if(left.begin(), left.end(), [&](const Event& event) { return event.key == key; });
      events.push_back(*next);
      left.erase(next);
    }
    return events;
  }

  Tables tables_after(const std::vector<Event>& events, Cut cut, int commit) {
    ManualClock clock;
    MemoryDatastore memory{clock};
    const std::unique_ptr<Datastore> given = check_.fresh ? check_.fresh() : nullptr;
    Datastore& store = given ? *given : memory;
    HandlerRun run{handler_, store, clock, check_.seed, 1, {.group = "check_idempotent", .retry = RetryPolicy::immediate()}};
    run.cut(cut, commit);
    for (const Event& event : events) run.publish(event);
    run.settle();
    commits_ = run.commits();
    Tables tables = check_.tables ? check_.tables() : Tables{};
    if (!given) {
      for (const Event& event : memory.emitted()) {
        tables["emitted"].push_back(event.type + " " + event.id + " of '" + event.key + "': " + event.data.value_or("null"));
      }
      for (const DeadLetter& letter : memory.dead_letters()) {
        tables["dead letters"].push_back(letter.message.id() + ": " + letter.reason);
      }
    }
    for (auto& [name, rows] : tables) std::sort(rows.begin(), rows.end());
    return tables;
  }

  std::string compared(const std::string& when, const std::vector<Event>& events, Cut cut = Cut::never, int commit = 0) {
    const Tables are = tables_after(events, cut, commit);
    std::string difference = lines("-", should_be_, are) + lines("+", are, should_be_);
    return difference.empty() ? "" : "when " + when + " (seed " + std::to_string(check_.seed) + "):\n" + difference;
  }

  /// The rows that are in one and not in the other.
  static std::string lines(const std::string& sign, const Tables& one, const Tables& other) {
    std::string text;
    for (const auto& [name, rows] : one) {
      const auto found = other.find(name);
      std::vector<std::string> only;
      const std::vector<std::string> none;
      const std::vector<std::string>& others = found == other.end() ? none : found->second;
      std::set_difference(rows.begin(), rows.end(), others.begin(), others.end(), std::back_inserter(only));
      for (const std::string& row : only) text.append(sign).append(" ").append(name).append(": ").append(row).append("\n");
    }
    return text;
  }

  const Handler& handler_;
  const IdempotenceCheck& check_;
  std::vector<Event> given_;
  Tables should_be_;
  int commits_ = 0;
};

}  // namespace

std::string check_idempotent(const Handler& handler, const IdempotenceCheck& check) { return Checker{handler, check}.run(); }

}  // namespace penstock::testing
