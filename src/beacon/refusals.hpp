// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "beacon/connection.hpp"

namespace penstock::beacon {

/// Finds out which messages the server refused, as it says "Permissions Violation" of a subject and not of a message. When it
/// has refused as many of a subject as it has not answered, it was these. Until then nothing more must go to the subject: so
/// the count comes out. All of one connection. Thread safety: none, its owner locks. Lifetime: a value.
class Refusals {
 public:
  /// The connection's number, for `refused`.
  [[nodiscard]] std::uint64_t connection() const noexcept { return connection_; }
  /// It is gone, and with it what is counted.
  void next_connection();

  void sent(const std::string& subject) { ++subjects_[subject].open; }
  /// The server has said something else of a message. True when all that are left of the subject were refused.
  [[nodiscard]] bool answered(const std::string& subject);
  /// The same for a refusal; one by an earlier connection says nothing.
  [[nodiscard]] bool refused(std::uint64_t connection, const std::string& subject, const std::string& words, Instant now);
  /// The subject's count has come out: it begins anew. Returns what the server said.
  std::string conclude(const std::string& subject);

  /// What the server said of a subject that is being counted, and nothing of any other.
  [[nodiscard]] const std::string* words_of(const std::string& subject) const;
  /// Whether some count does not come out: only a new connection helps.
  [[nodiscard]] bool stuck(Instant now) const;

 private:
  struct Count {
    std::size_t open = 0;  ///< sent, and the server has said nothing of it; also what has its outcome by now
    std::size_t refused = 0;
    std::string words{};
    Instant since{};  ///< the first refusal of these
  };
  std::uint64_t connection_ = 1;
  std::map<std::string, Count> subjects_;
};

}  // namespace penstock::beacon
