// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace penstock::test {

/// A forked process that runs a function. To be made while this process has one thread. Killed, if it still runs, at the end.
class Process {
 public:
  explicit Process(const std::function<void()>& work) : pid_{::fork()} {
    if (pid_ < 0) {
      throw std::system_error(errno, std::generic_category(), "fork");
    }
    if (pid_ == 0) {
      try {
        work();
      } catch (const std::exception& error) {
        std::cerr << "in the forked process: " << error.what() << std::endl;
        ::_exit(1);
      }
      ::_exit(0);
    }
  }
  ~Process() {
    signal(SIGCONT);
    signal(SIGKILL);
    static_cast<void>(wait());
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const {
    if (pid_ > 0) {
      ::kill(pid_, number);
    }
  }
  /// The status of `waitpid`, once it has ended.
  int wait() {
    int status = -1;
    if (pid_ > 0) {
      while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      pid_ = -1;
    }
    return status;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

/// Lines that several processes write and one reads.
class Journal {
 public:
  Journal() {
    const int file = ::mkstemp(name_.data());
    if (file < 0) {
      throw std::system_error(errno, std::generic_category(), "mkstemp");
    }
    ::close(file);
  }
  ~Journal() { ::unlink(name_.c_str()); }
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  void write(const std::string& lines) const {
    const int file = ::open(name_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    const auto written = ::write(file, lines.data(), lines.size());
    ::close(file);
    if (written != static_cast<ssize_t>(lines.size())) {
      throw std::system_error(errno, std::generic_category(), "write");
    }
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::vector<std::string> lines() const {
    std::ifstream in{name_};
    std::vector<std::string> result;
    for (std::string line; std::getline(in, line);) {
      result.push_back(std::move(line));
    }
    return result;
  }

 private:
  std::string name_ = "/tmp/penstock-journal-XXXXXX";
};

}  // namespace penstock::test
