// SPDX-License-Identifier: Apache-2.0
#include "conduit/client_log.hpp"

#include <string_view>
#include <utility>

namespace penstock::conduit {

ClientLog::ClientLog(std::shared_ptr<Logger> logger, std::string prefix, std::chrono::milliseconds interval)
    : logger_{std::move(logger)}, prefix_{std::move(prefix)}, interval_{interval} {}

void ClientLog::say(LogLevel level, const std::string& text) noexcept {
  if (!logger_) return;
  try {
    logger_->log(level, prefix_ + text);
  } catch (...) {  // NOLINT(bugprone-empty-catch): a logger that throws must not disturb the pipeline
  }
}

void ClientLog::say_rarely(LogLevel level, const std::string& kind, const std::string& text) noexcept {
  if (!logger_) return;
  try {
    std::uint64_t unsaid = 0;
    {
      const std::lock_guard lock{mutex_};
      const auto now = std::chrono::steady_clock::now();
      const auto [entry, first] = last_.try_emplace(kind);
      if (!first && now - entry->second.said < interval_) {
        ++entry->second.unsaid;
        return;
      }
      unsaid = std::exchange(entry->second.unsaid, 0);
      entry->second.said = now;
    }
    say(level, unsaid == 0 ? text : text + " (and " + std::to_string(unsaid) + " more like it)");
  } catch (...) {  // NOLINT(bugprone-empty-catch): out of memory while logging
  }
}

void ClientLog::relay(int syslog_level, const char* facility, const char* text) noexcept {
  if (!logger_ || text == nullptr) return;
  try {
    // One set of properties serves producers and consumers; each says of the other's that it ignores them.
    const std::string_view line{text};
    if (line.find("will be ignored by this") != std::string_view::npos) return;
    // We set it, and what it does is tested.
    if (line.find("enable.gapless.guarantee is experimental") != std::string_view::npos) return;
    const LogLevel level = syslog_level <= 3   ? LogLevel::error
                           : syslog_level == 4 ? LogLevel::warn
                           : syslog_level <= 6 ? LogLevel::info
                                               : LogLevel::debug;
    const std::string name = facility == nullptr ? "" : facility;
    // Debug lines are there because somebody asked for each of them.
    if (level == LogLevel::debug) {
      say(level, "librdkafka: " + name + ": " + text);
    } else {
      say_rarely(level, "librdkafka " + name, "librdkafka: " + name + ": " + text);
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch): out of memory while logging
  }
}

}  // namespace penstock::conduit
