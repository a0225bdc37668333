// SPDX-License-Identifier: Apache-2.0
#include <librdkafka/rdkafka.h>
#include <nats/nats.h>
#include <pqxx/version>
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#else
#include <amqp.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "child.hpp"
#include "pg.hpp"
#include "works.hpp"

namespace {

using namespace penstock::bench;  // NOLINT: the program of that library

constexpr std::array<std::pair<const char*, std::vector<Work> (*)(const Config&)>, 7> kBenchmarks{
    {{"append", append_works},
     {"drain", drain_works},
     {"backlog", backlog_works},
     {"strain", strain_works},
     {"latency", latency_works},
     {"consume", consume_works},
     {"backends", backend_works}}};

int usage(std::ostream& out, int status) {
  out << "penstock_bench [NAME…] [--json FILE] [--runs N] [--quick]\n"
         "NAME: append, drain, backlog, strain, latency, consume, backends, relay (the first five), or one work of them, as\n"
         "drain.kafka; default: all but those that take many minutes.\n"
         "Addresses come from PENSTOCK_POSTGRES_URL, PENSTOCK_KAFKA, PENSTOCK_AMQP_URL and PENSTOCK_NATS_URL; works whose\n"
         "server is not there are left out. scripts/bench starts them.\n";
  return status;
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string load_average() {
  std::ifstream file{"/proc/loadavg"};
  std::string one, five, fifteen;
  file >> one >> five >> fifteen;
  return one + " " + five + " " + fifteen;
}

std::string cpu_model() {
  std::ifstream file{"/proc/cpuinfo"};
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Json machine(const Config& config) {
  std::array<char, 32> now{};
  const std::time_t seconds = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::strftime(now.data(), now.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  pqxx::connection connection{config.postgres};
  pqxx::nontransaction tx{connection};
  const auto setting = [&](const std::string& name) { return std::string{tx.exec("SHOW " + name)[0][0].c_str()}; };
  return {{"at", now.data()},
          {"cores", std::thread::hardware_concurrency()},
          {"cpu", cpu_model()},
          {"load", load_average()},
          {"compiler", __VERSION__},
          {"postgres", setting("server_version")},
          {"fsync", setting("fsync")},
          {"synchronous_commit", setting("synchronous_commit")},
          {"full_page_writes", setting("full_page_writes")},
          {"libpqxx", PQXX_VERSION},
          {"librdkafka", rd_kafka_version_str()},
          {"rabbitmq-c", amqp_version()},
          {"nats.c", nats_GetVersion()}};
}

bool wanted(const std::vector<std::string>& names, const std::string& group, const Work& of) {
  const std::string& work = of.name;
  if (of.only_by_name) return std::find(names.begin(), names.end(), work) != names.end();
  if (names.empty()) return true;
  for (const std::string& name : names) {
    if (name == "relay" && group != "consume" && group != "backends") return true;
    if (name == group || name == work || work.rfind(name + ".", 0) == 0) return true;
  }
  return false;
}

int run_all(const std::vector<std::string>& names, const Config& config, const std::string& json_file) {
  Json machine_row = machine(config);
  if (machine_row["fsync"] != "on") throw std::runtime_error{"fsync is off: such figures say nothing"};
  std::vector<Json> rows;
  for (const auto& [group, make] : kBenchmarks) {
    for (const Work& work : make(config)) {
      if (!wanted(names, group, work)) continue;
      for (Json& row : measure(work, config)) rows.push_back(std::move(row));
    }
  }
  machine_row["load_after"] = load_average();
  if (rows.empty()) throw std::runtime_error{"no work of that name, or its server is not there"};
  std::cout << table(rows);
  if (!json_file.empty()) {
    std::ofstream file{json_file};
    file << Json{{"machine", machine_row}, {"rows", rows}}.dump(2) << '\n';
    if (!file.flush()) throw std::runtime_error{"cannot write " + json_file};
  }
  for (const Json& row : rows) {
    if (row.contains("error")) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> args(argv + 1, argv + argc);
    if (args.size() == 4 && args[0] == "--child-drain") return drain_child({args[1], args[2]}, std::stoul(args[3]));
    if (args.size() == 4 && args[0] == "--child-consume") return consume_child({args[1], args[2]}, std::stoul(args[3]));
    Config config{.postgres = environment("PENSTOCK_POSTGRES_URL"),
                  .kafka = environment("PENSTOCK_KAFKA"),
                  .amqp = environment("PENSTOCK_AMQP_URL"),
                  .nats = environment("PENSTOCK_NATS_URL"),
                  .self = std::filesystem::read_symlink("/proc/self/exe")};
    std::vector<std::string> names;
    std::string json_file;
    int runs = 0;
    for (std::size_t i = 0; i < args.size(); ++i) {
      const auto value = [&] {
        if (i + 1 == args.size()) throw std::invalid_argument{args[i] + " needs a value"};
        return args[++i];
      };
      if (args[i] == "--help" || args[i] == "-h") return usage(std::cout, 0);
      if (args[i] == "--json") {
        json_file = value();
      } else if (args[i] == "--runs") {
        runs = std::stoi(value());
        if (runs < 1) throw std::invalid_argument{"--runs is at least 1"};
      } else if (args[i] == "--quick") {
        config.size = 0.1;
        config.runs = 1;
      } else if (args[i].rfind('-', 0) == 0) {
        return usage(std::cerr, 2);
      } else {
        names.push_back(args[i] == "rss" ? "backlog" : args[i]);
      }
    }
    if (runs > 0) config.runs = runs;
    if (config.postgres.empty()) throw std::runtime_error{"PENSTOCK_POSTGRES_URL is not set: use scripts/bench"};
    return run_all(names, config, json_file);
  } catch (const std::exception& e) {
    std::cerr << "penstock_bench: " << e.what() << std::endl;
    return 2;
  }
}
