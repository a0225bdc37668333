// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "support/postgres.hpp"

namespace penstock::test {

/// What a command prints; throws, with what it complained of, when it fails.
inline std::string output_of(const std::string& command, const std::filesystem::path& place) {
  const auto file = place / "output";
  const int status = std::system(("(" + command + ") >" + file.string() + " 2>" + (place / "errors").string()).c_str());
  const auto read = [](const std::filesystem::path& path) {
    std::stringstream text;
    text << std::ifstream{path}.rdbuf();
    return text.str();
  };
  if (status != 0) {
    throw std::runtime_error(command + " failed: " + read(place / "errors"));
  }
  return read(file);
}

/// A server of the test's own, with a cluster of its own, to be ill-treated; stopped and removed at the end.
class PrivatePostgres {
 public:
  PrivatePostgres() {
    place_ = std::filesystem::temp_directory_path() / unique_name("penstock_postgres");
    std::filesystem::create_directories(place_);
    std::filesystem::permissions(place_, std::filesystem::perms{0755});
    const auto variables = output_of(services("start --only postgres"), place_);
    const auto begin = variables.find("postgresql://");
    url_ = variables.substr(begin, variables.find('\'', begin) - begin);
  }
  ~PrivatePostgres() {
    static_cast<void>(std::system((services("stop --only postgres --purge") + " >/dev/null 2>&1").c_str()));
    std::error_code ignored;
    std::filesystem::remove_all(place_, ignored);
  }
  PrivatePostgres(const PrivatePostgres&) = delete;
  PrivatePostgres& operator=(const PrivatePostgres&) = delete;

  /// `scripts/services <command> postgres`: kill, restart, pause, resume.
  void tell(const std::string& command) const { output_of(services(command + " postgres"), place_); }

  [[nodiscard]] const std::string& url() const { return url_; }
  [[nodiscard]] const std::filesystem::path& place() const { return place_; }

 private:
  [[nodiscard]] std::string services(const std::string& command) const {
    return std::string{PENSTOCK_SOURCE_DIR} + "/scripts/services " + command + " --dir " + (place_ / "servers").string();
  }
  std::filesystem::path place_;
  std::string url_;
};

}  // namespace penstock::test
