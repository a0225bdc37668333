// SPDX-License-Identifier: Apache-2.0
#include "child.hpp"

#include <array>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace penstock::bench {

double memory_mb(const std::string& field) {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stod(line.substr(field.size() + 1)) / 1'024;
  }
  throw std::runtime_error{"/proc/self/status has no " + field};
}

Json run_child(const Config& config, const std::string& what, const Schema& schema, std::size_t count) {
  const std::string command =
      "'" + config.self + "' " + what + " '" + config.postgres + "' " + schema.name() + " " + std::to_string(count);
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error{"cannot start " + config.self};
  std::string printed;
  std::array<char, 4'096> chunk{};
  for (std::size_t n = 0; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) printed.append(chunk.data(), n);
  if (::pclose(pipe) != 0) throw std::runtime_error{"the process of " + what + " failed"};
  return Json::parse(printed);
}

}  // namespace penstock::bench
