// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

namespace penstock::truth {

enum class Fault : std::uint8_t {
  restart,        ///< ended in order and started at once
  stop,           ///< ended in order, away for a while
  kill,           ///< SIGKILL to all its processes, away for a while
  freeze,         ///< SIGSTOP: connections stay open and nobody answers
  cut,            ///< every connection is ended, several times
  half_open,      ///< nothing is carried, and no end is told
  delay,          ///< every byte comes late
  drip,           ///< few bytes at a time
  lose_requests,  ///< what clients say is lost, and then the connection
  lose_answers,   ///< what the server says is lost, and then the connection: it has what nobody was told
  full,           ///< its disk, or what it may use of it, is full
  memory,         ///< it is short of memory
  remove,         ///< the queue, topic or stream is deleted, and made again after a while
  forbid,         ///< publishing is not allowed any more, and then again
  too_large,      ///< one event larger than the broker takes
  unknown,        ///< one event to a channel that is not there
};

/// Why a backend does not undergo a fault; empty where it does. The one place where that may be said.
struct Row {
  Fault fault;
  std::string_view name;
  std::string_view kafka;
  std::string_view rabbitmq;
  std::string_view nats;

  [[nodiscard]] std::string_view why_not(std::string_view backend) const {
    return backend == "kafka" ? kafka : backend == "rabbitmq" ? rabbitmq : nats;
  }
};
// clang-format off
inline constexpr std::array table{
    Row{Fault::restart,       "restart",       {}, {}, {}},
    Row{Fault::stop,          "stop",          {}, {}, {}},
    Row{Fault::kill,          "kill",          {}, {}, {}},
    Row{Fault::freeze,        "freeze",        {}, {}, {}},
    Row{Fault::cut,           "cut",           {}, {}, {}},
    Row{Fault::half_open,     "half open",     {}, {}, {}},
    Row{Fault::delay,         "delay",         {}, {}, {}},
    Row{Fault::drip,          "drip",          {}, {}, {}},
    Row{Fault::lose_requests, "lose requests", {}, {}, {}},
    Row{Fault::lose_answers,  "lose answers",  {}, {}, {}},
    Row{Fault::full,          "full",
        "Kafka has no limit for a disk: when one is full the broker ends itself, which is `kill`; a small one needs root", {}, {}},
    Row{Fault::memory,        "memory",
        "Kafka has no alarm: a broker without memory ends, which is `kill`", {},
        "nats-server has no alarm: without memory it ends, which is `kill`"},
    Row{Fault::remove,        "remove",        {}, {}, {}},
    Row{Fault::forbid,        "forbid",        {}, {}, {}},
    Row{Fault::too_large,     "too large",     {}, {}, {}},
    Row{Fault::unknown,       "unknown",       {}, {}, {}},
};
// clang-format on
constexpr const Row& row(Fault fault) { return table[static_cast<std::size_t>(fault)]; }

/// Chance from a seed, the same on every platform.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_{seed} {}
  /// From `low` to `high`, both included.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  std::chrono::milliseconds between(std::chrono::milliseconds low, std::chrono::milliseconds high) {
    return std::chrono::milliseconds{between(low.count(), high.count())};
  }
  bool one_in(int count) { return between(1, count) == 1; }

 private:
  std::mt19937_64 engine_;
};

struct Step {
  Fault fault = Fault::cut;
  std::chrono::milliseconds before{};  ///< calm before it
  std::chrono::milliseconds hold{};    ///< how long it lasts
  std::uint64_t dice = 0;              ///< seed of what else is chance in it
};

/// Faults in random order and timing, each of the backend's once before any comes again; from the seed alone.
/// `only` may hold the names of some.
inline std::vector<Step> schedule(std::string_view backend, std::uint64_t seed, std::size_t steps,
                                  std::chrono::milliseconds longest_freeze, std::string_view only = {}) {
  using std::chrono::milliseconds;
  Dice dice{seed};
  std::vector<Step> result;
  std::vector<Fault> deck;
  while (result.size() < steps) {
    if (deck.empty()) {
      for (const Row& each : table) {
        const bool chosen = only.empty() || only.find(each.name) != std::string_view::npos;
        if (chosen && each.why_not(backend).empty()) deck.push_back(each.fault);
      }
    }
    const auto at = static_cast<std::size_t>(dice.between(0, static_cast<std::int64_t>(deck.size()) - 1));
    Step step;
    step.fault = deck[at];
    deck.erase(deck.begin() + static_cast<std::ptrdiff_t>(at));
    step.before = dice.between(milliseconds{50}, milliseconds{700});
    const bool still = step.fault == Fault::freeze || step.fault == Fault::half_open;
    step.hold = dice.between(milliseconds{100}, still ? longest_freeze : milliseconds{1'500});
    step.dice = static_cast<std::uint64_t>(dice.between(0, 1'000'000));
    result.push_back(step);
  }
  return result;
}

}  // namespace penstock::truth
