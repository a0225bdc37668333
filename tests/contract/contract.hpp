// SPDX-License-Identifier: Apache-2.0
#pragma once

// The contract every backend is held to, written once (scenarios/*.cpp) and run against each backend.
//
// To put a backend under it, write tests/contract/<component>[_<variant>].test.cpp:
//
//     class LaneBackend final : public Backend { … };                        // how to reach it, below
//     std::unique_ptr<Backend> make() { return std::make_unique<LaneBackend>(); }
//     PENSTOCK_CONTRACT(LaneQuorum, kLaneQuorum, make);                      // its line of the table, below
//
// CMake finds the file, links it with the scenarios and everything that was built, and makes a test of it, contract.<name>.
// Where the broker is a server it makes two: contract.<name>.outage stops that server, while no other test of it runs, and
// contract.<name> is the rest. Servers are found through `support/services.hpp`. While developing:
// build/dev/tests/contract/contract_<name> --gtest_filter='*Redelivery*'.

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"

namespace penstock::contract {

using namespace std::chrono_literals;

/// What a backend is. Every column is tested to be so, also where it says no: nothing is skipped. Only where `header_order`
/// says no the order is not promised rather than known to change.
struct Traits {
  /// As `Source::traits()` says. `ordered`: a key's messages go to one member of a group at a time (a single member sees key
  /// order everywhere). `replayable`: a new group reads settled messages too. `delays`: `retry` lets others pass meanwhile.
  SourceTraits source{};
  bool groups = false;        ///< each group gets every message; otherwise the channel itself is the one group
  bool counts = false;        ///< a redelivery has Origin::deliveries 2, 3, …; otherwise it has 0, "does not say"
  bool marks = false;         ///< a redelivery after a crash of the receiver has Origin::redelivered
  bool partitions = false;    ///< Origin::partition is 0, 1, …; otherwise -1
  bool positions = false;     ///< Origin::position rises inside a partition; otherwise -1
  bool bounded = false;       ///< prefetch: no more messages while so many are unsettled; otherwise intake never stops
  bool serial = false;        ///< a partition's next message comes when the one before is settled; otherwise many are out
  bool exact = false;         ///< acknowledged is never delivered again, also ahead of an unsettled one of its partition
  bool deduplicates = false;  ///< an event published twice with one identity is stored once
  bool chains = false;        ///< `keeps_order`: in one call nothing of a key is stored behind a failure; else it is
  bool header_order = false;  ///< foreign headers come back in the order they were sent in; otherwise in any
};

// clang-format off
// Columns as in Traits:             order  replay delays  groups counts marks  partit posit  bound  serial exact  dedup  chains header
inline constexpr Traits kMemory     {{true,  true,  true }, true,  true,  true,  true,  true,  true,  false, true,  false, false, true };
inline constexpr Traits kConduit    {{true,  true,  false}, true,  false, false, true,  true,  false, false, false, false, true,  true };
inline constexpr Traits kLaneQuorum {{false, false, true }, false, true,  true,  false, false, true,  false, true,  false, false, false};
inline constexpr Traits kLaneClassic{{false, false, true }, false, false, true,  false, false, true,  false, true,  false, false, false};
inline constexpr Traits kBeacon     {{false, true,  true }, true,  true,  true,  false, true,  true,  false, true,  true,  false, true };
inline constexpr Traits kBeaconKeys {{true,  true,  false}, true,  true,  true,  true,  true,  true,  true,  true,  true,  false, true };
// clang-format on

/// How the scenarios reach one backend: made for each test, so share what is expensive to start among instances.
/// Scenarios use channels, groups and ids of their own names, so that runs and tests do not meet.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Makes a new, empty, durable channel; `partitions` where the backend has such.
  virtual void declare(const std::string& channel, int partitions) = 0;
  /// The same where that takes long, for scenarios in which the broker does not crash.
  virtual void declare_quickly(const std::string& channel, int partitions) { declare(channel, partitions); }
  /// Removes it as far as the backend can; called at the end for each one declared. Never throws.
  virtual void remove(const std::string& channel) noexcept { static_cast<void>(channel); }

  virtual Channel channel(const std::string& channel) = 0;
  /// A member with that bound on unsettled messages, where the backend has one. Keep what makes the broker notice a lost
  /// member short (session timeout, AckWait): scenarios lose members and wait for redelivery up to `patience`.
  virtual std::unique_ptr<Source> source(const std::string& channel, std::size_t prefetch) = 0;

  /// Puts a message on a channel as a stranger would, past the codec and Publisher, and waits until it is stored.
  /// A header "content-type" goes where the protocol has it.
  virtual void put_raw(const std::string& channel, const Wire& wire) = 0;

  /// A payload of so many bytes is more than the backend takes.
  [[nodiscard]] virtual std::size_t too_large() const = 0;
  /// One of so many it takes, with its own defaults and the servers': about a mebibyte, less what they count beside the
  /// payload.
  [[nodiscard]] virtual std::size_t fits() const { return (std::size_t{1} << 20U) - 4'096; }

  /// Takes the broker away as a crash would, keeping what it stored, and brings it back: `start_broker` returns when it
  /// answers again. A backend whose broker is still down at destruction starts it.
  virtual void stop_broker() = 0;
  virtual void start_broker() = 0;
};

using Ids = std::vector<std::string>;

/// A line of an instantiation.
struct Subject {
  Traits traits;
  std::unique_ptr<Backend> (*make)();
};
inline void PrintTo(const Subject&, std::ostream* out) { *out << "the backend"; }  // NOLINT: GoogleTest's name

/// How long to wait for what must come. Never a measure of speed: it passes only in a failure.
inline constexpr auto patience = 60s;
/// How long to watch for what must not come.
inline constexpr auto quiet = 300ms;
/// Of a publish.
inline constexpr auto timeout = 20s;

/// What the scenarios share. `Outage` is the same for those that stop the broker.
class Contract : public ::testing::TestWithParam<Subject> {
 protected:
  Contract();
  ~Contract() override;

  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const Traits& traits() const { return GetParam().traits; }

  /// A name that no other test or run uses.
  std::string fresh(const std::string& what);
  /// A new channel under such a name, removed at the end.
  std::string declare(int partitions = 4);
  /// Channel's publisher.
  std::shared_ptr<Publisher> publisher(const std::string& channel) { return backend().channel(channel).publisher; }
  /// A member of a group, open.
  std::unique_ptr<Source> join(const std::string& channel, const std::string& group, std::size_t prefetch = 1'000);

  /// A complete event; the payload names key and number.
  static Event event(const std::string& key, int number);
  static std::vector<Event> events(int count, int keys);
  /// Publishes, and expects every one to be confirmed.
  void store(const std::string& channel, const std::vector<Event>& events);

  /// The next `count` messages, unsettled; fewer, and a failure, when they do not come.
  static std::vector<Message> take(Source& source, std::size_t count);
  /// As `take`, of at most so many, as far as they come unsettled: at least one, and all but where they are `serial`.
  std::vector<Message> hold(Source& source, std::size_t count);
  /// As `take`, acknowledging each.
  static std::vector<Message> consume(Source& source, std::size_t count);
  /// Acknowledges whatever comes until every id was seen. For at-least-once: duplicates are no failure, order is not told.
  static std::multiset<std::string> consume_ids(Source& source, const std::set<std::string>& ids);
  /// The ids of what comes within `quiet`, unsettled: for what must not come.
  static Ids leftovers(Source& source);

 private:
  [[nodiscard]] virtual bool broker_crashes() const { return false; }

  std::unique_ptr<Backend> backend_;
  std::vector<std::string> declared_;
};
class Outage : public Contract {
 private:
  [[nodiscard]] bool broker_crashes() const override { return true; }
};

std::set<std::string> ids_of(const std::vector<Event>& events);
Ids ids_of(const std::vector<Message>& messages);
/// Expects the messages of each key in the order of the events, each once.
void expect_key_order(const std::vector<Event>& events, const std::vector<Message>& messages);
/// Publishes until everything is confirmed, with the same ids, as a relay does.
void confirm_all(Publisher& to, std::vector<Event> open);
/// Waits for a condition, calling it often; false after `patience`.
bool eventually(const std::function<bool()>& condition);

}  // namespace penstock::contract

/// Runs every scenario against a backend.
#define PENSTOCK_CONTRACT(name, line, make)                                                                  \
  INSTANTIATE_TEST_SUITE_P(name, Contract, ::testing::Values(::penstock::contract::Subject{(line), (make)}), \
                           [](const auto&) { return std::string{#name}; });                                  \
  INSTANTIATE_TEST_SUITE_P(name, Outage, ::testing::Values(::penstock::contract::Subject{(line), (make)}),   \
                           [](const auto&) { return std::string{#name}; })
