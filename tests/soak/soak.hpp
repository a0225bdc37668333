// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <pqxx/pqxx>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/logger.hpp"
#include "penstock/publisher.hpp"
#include "penstock/source.hpp"

namespace soak {

/// What a process of the soak was told on its command line.
struct Settings {
  std::string role{};
  std::string backend{};  ///< kafka, rabbitmq or nats
  std::string postgres{};
  std::string broker{};
  std::string ledger{};        ///< the file of the provider, which no kill and no rollback touches
  std::uint64_t seed = 1;      ///< of the whole: which events fail
  std::uint64_t life = 0;      ///< of this process: how it runs, and what it writes
  int rate = 100;              ///< business transactions a second, of the writers together
  bool forgive = false;        ///< what failed for good does so no more
  int within = 120;            ///< seconds that the drain may take
  std::string replay_group{};  ///< whose dead letters the role `replay` brings back
};

/// The channels: what the writers append, and what follows from it. Each has its dead letters beside it.
inline const std::string input = "soak-input";
inline const std::string followed = "soak-followed";

/// The two groups: the first makes the effect and emits, the second takes what was emitted.
inline const std::string apply = "apply";
inline const std::string follow = "follow";

/// The channel on which a bare client finds all that was published to another: the same, but where reading takes away.
std::string witness(const Settings& settings, const std::string& channel);

/// Of several values one number: the same in every process, so that an event fails in whichever process meets it.
std::uint64_t mix(std::uint64_t seed, const std::string& text);

/// What an event says: its number within its key, and where it fails for good.
struct Body {
  int number = 0;
  bool fatal = false;         ///< in the group `apply`
  bool fatal_follow = false;  ///< in the group `follow`
};
std::string to_text(const Body& body, std::uint64_t noise);
Body parse(std::string_view text);

class Brokers {
 public:
  virtual ~Brokers() = default;
  virtual void declare(const std::vector<std::string>& channels) = 0;
  virtual penstock::Channel channel(const std::string& name) = 0;
  virtual std::unique_ptr<penstock::Source> source(const std::string& name) = 0;
};
std::unique_ptr<Brokers> connect(const Settings& settings, std::shared_ptr<penstock::Logger> logger);

/// A message as a bare client reads it, past everything that is put to the test.
struct Raw {
  std::string id{};
  std::string key{};
  std::string body{};
  std::string group{};  ///< dead letters: who gave it up
};
/// Everything a channel holds, in the order in which readers see each key.
std::vector<Raw> read_topic(const Settings& settings, const std::string& channel);

void create_tables(const Settings& settings);
/// Whether all that was written has arrived, by now.
bool drained(const Settings& settings);

bool run_writer(const Settings& settings, std::stop_token stop);
bool run_relay(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop);
bool run_worker(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop);
bool run_replay(const Settings& settings, const std::shared_ptr<penstock::Logger>& logger, std::stop_token stop);

/// Compares with what was written, prints the account, and says whether it balances. `replayed`: after the dead letters came
/// back.
bool judge(const Settings& settings, bool replayed);

}  // namespace soak
