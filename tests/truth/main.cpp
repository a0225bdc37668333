// SPDX-License-Identifier: Apache-2.0
// truth BACKEND --seconds N --seed S: see scripts/truth.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "truth/driver.hpp"
#include "truth/faults.hpp"

namespace {

using namespace penstock::truth;

constexpr std::chrono::seconds longest_round{60};

int run(const std::string& name, std::chrono::seconds length, std::uint64_t seed, const std::string& only) {
  const Server server{name};
  // Kafka tells its clients where to go on, so its wire is known before it starts and leads to a listener of its own.
  const auto target =
      static_cast<std::uint16_t>(std::stoi(name == "kafka" ? environment("PENSTOCK_TRUTH_TARGET") : server.state("port")));
  Wire wire{static_cast<std::uint16_t>(name == "kafka" ? std::stoi(environment("PENSTOCK_TRUTH_WIRE")) : 0), target};
  const auto backend = name == "kafka"  ? make_kafka(wire.port())
                       : name == "nats" ? make_nats(wire.port())
                                        : make_rabbitmq(wire.port());

  std::printf("%s, seed %llu, %lld s\n", name.c_str(), static_cast<unsigned long long>(seed),
              static_cast<long long>(length.count()));
  for (const Row& each : table) {
    const auto why = each.why_not(name);
    if (!why.empty())
      std::printf("%s does not undergo '%s': %s\n", name.c_str(), std::string{each.name}.c_str(), std::string{why}.c_str());
  }
  Faults faults;
  std::size_t first_calm = 0;
  for (int round = 0; length > std::chrono::seconds{0}; ++round) {
    Plan plan;
    plan.backend = name;
    plan.seed = seed;
    plan.only = only;
    plan.length = length < longest_round + longest_round / 2 ? length : longest_round;
    length -= plan.length;
    const std::size_t calm = play(plan, round, *backend, server, wire, faults);
    if (round == 0) first_calm = calm;
    constexpr std::size_t most = std::size_t{8} << 20U;
    if (calm > first_calm + most + static_cast<std::size_t>(round) * (most / 8)) {
      faults.add("from round to round the heap grows: " + std::to_string(first_calm >> 10U) + " KB in the first, " +
                 std::to_string(calm >> 10U) + " KB in round " + std::to_string(round));
    }
    if (faults.count() > 0) break;
  }
  for (const std::string& each : faults.said()) std::printf("WRONG: %s\n", each.c_str());
  std::printf(
      "%s, seed %llu: %s\n", name.c_str(), static_cast<unsigned long long>(seed),
      faults.count() == 0 ? "every outcome was the truth" : (std::to_string(faults.count()) + " things are wrong").c_str());
  return faults.count() == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::string name;
    std::chrono::seconds length{30};
    std::uint64_t seed = 1;
    std::string only;
    for (int i = 1; i < argc; ++i) {
      const std::string_view word = argv[i];
      if (word == "--seconds" && i + 1 < argc) {
        length = std::chrono::seconds{std::stoll(argv[++i])};
      } else if (word == "--seed" && i + 1 < argc) {
        seed = std::stoull(argv[++i]);
      } else if (word == "--only" && i + 1 < argc) {
        only = argv[++i];
      } else {
        name = word;
      }
    }
    if (name != "kafka" && name != "rabbitmq" && name != "nats") {
      std::fprintf(stderr, "usage: truth kafka|rabbitmq|nats [--seconds N] [--seed S] [--only FAULTS]\n");
      return 2;
    }
    return run(name, length, seed, only);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "truth: %s\n", error.what());
    return 1;
  }
}
