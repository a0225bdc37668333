// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "beacon/connection.hpp"

namespace penstock::beacon {

/// The words that want a message again, not before so long; without a delay at once.
std::string want_again(std::chrono::nanoseconds delay);

/// Deliveries handed out and not settled, each by the subject that settles it. Those subjects stay good across connections, so
/// a settlement made while the server is away is sent when it is back. Thread safety: any thread.
class Settlements {
 public:
  /// With `confirm`, the server is asked to say that it has a settlement, and it is sent again until it has said so.
  explicit Settlements(bool confirm) : confirm_{confirm} {}

  /// A receipt for a delivery.
  std::uint64_t enter(std::string subject);
  /// Sends the words and forgets the receipt. An unknown receipt is ignored.
  void settle(std::uint64_t receipt, const std::string& words);
  /// Signs that it is in work, unless that was done within `pause`.
  void touch(std::uint64_t receipt, milliseconds pause);
  /// Sends words about a delivery without a receipt.
  void say(const std::string& subject, const std::string& words);
  /// The connection to send on from now on, or none.
  void use(const std::shared_ptr<Connection>& connection);
  /// Asks by these words for the redelivery of everything that is not settled; it comes again in the order asked for, the old
  /// one. What had no sign for so long that it has come again by itself is another's now.
  void give_back(const std::string& words, milliseconds ack_wait);
  /// Forgets everything.
  void end();
  /// Forgets everything of a consumer that is there no more, and goes on: the same words would settle messages of the next one.
  void forget();

 private:
  struct Open {
    std::string subject{};
    Instant signed_at{};
  };
  /// False when it was not sent.
  bool send(const std::string& subject, const std::string& words);
  void send_or_keep(std::string subject, const std::string& words);
  /// Without the mutex. Keeps it for the next connection when the server does not say that it has it.
  void ask_or_keep(std::shared_ptr<Connection> connection, std::uint64_t generation, std::string subject,
                   const std::string& words);

  const bool confirm_;
  std::mutex mutex_;
  std::shared_ptr<Connection> connection_;
  std::uint64_t last_ = 0;
  std::uint64_t generation_ = 0;        ///< how often everything was forgotten
  std::map<std::uint64_t, Open> open_;  // in the order of delivery
  std::vector<std::pair<std::string, std::string>> unsent_;
};

}  // namespace penstock::beacon
