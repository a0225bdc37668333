// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <string>

namespace shop {

/// A bar that redraws itself on a terminal; elsewhere a plain line every few seconds. Writes to standard error.
class Progress {
 public:
  Progress(std::string what, std::size_t of) : what_{std::move(what)}, of_{of}, terminal_{isatty(STDERR_FILENO) == 1} {}

  void show(std::size_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < (terminal_ ? std::chrono::milliseconds{100} : std::chrono::milliseconds{5'000})) return;
    shown_ = now;
    draw(done);
  }

  void finish(std::size_t done) {
    draw(done);
    if (terminal_) std::cerr << "\n";
  }

 private:
  void draw(std::size_t done) const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started_).count();
    const auto line = std::to_string(done) + " of " + std::to_string(of_) + " " + what_ + ", " + std::to_string(seconds) + " s";
    if (!terminal_) {
      std::cerr << line << "\n";
      return;
    }
    constexpr std::size_t width = 40;
    const std::size_t filled = of_ == 0 ? width : std::min(width, width * done / of_);
    std::cerr << "\r[" << std::string(filled, '#') << std::string(width - filled, '.') << "] " << line << "\033[K"
              << std::flush;
  }

  std::string what_;
  std::size_t of_;
  bool terminal_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace shop
