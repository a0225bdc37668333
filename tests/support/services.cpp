// SPDX-License-Identifier: Apache-2.0
#include "support/services.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>

extern char** environ;  // NOLINT: POSIX wants it declared by the user

namespace penstock::support {

std::string address(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') {
    throw std::runtime_error{std::string{variable} + " is not set: run the test through ctest or scripts/with-services"};
  }
  return value;
}

void services(const std::string& command, const std::string& name) {
  const std::string script = std::string{PENSTOCK_SOURCE_DIR} + "/scripts/services";
  const std::string dir = address("PENSTOCK_SERVICES_DIR");
  // The server inherits what is open: a file for its output, not a pipe, whose end would come only with the server's.
  std::string output_name = "/tmp/penstock-services-XXXXXX";
  const int output = ::mkstemp(output_name.data());
  if (output < 0) throw std::system_error{errno, std::generic_category(), "mkstemp"};
  ::unlink(output_name.c_str());

  posix_spawn_file_actions_t actions{};
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  ::posix_spawn_file_actions_addclose(&actions, output);
  std::array<std::string, 5> words{script, command, name, "--dir", dir};
  std::array<char*, 6> argv{words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawn(&child, script.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error == 0) {
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
  }
  std::string printed(4'096, '\0');
  const auto length = ::pread(output, printed.data(), printed.size(), 0);
  printed.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  ::close(output);
  if (error != 0) throw std::system_error{error, std::generic_category(), script};
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error{"scripts/services " + command + " " + name + " failed: " + printed};
  }
}

}  // namespace penstock::support
