// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "beacon/connection.hpp"
#include "beacon/settlements.hpp"
#include "penstock/beacon.hpp"

namespace penstock::beacon {

/// One durable pull consumer of a stream: whether it is there, what has been asked of it, and what it delivered. Pulls are
/// written as the protocol has them, not through natsSubscription_Fetch, so that one pull can serve several polls and nothing
/// is lost between two of them. Thread safety: one thread, except for `settlements()`. Lifetime: a connection that it is given
/// is kept by its settlements until `suspend`.
class Durable {
 public:
  struct Spec {
    std::string stream{};
    std::string name{};
    std::string subject{};  ///< reads this one alone; empty: every message
    int max_ack_pending = 1;
  };
  Durable(Spec spec, const BeaconSourceOptions& options);

  [[nodiscard]] const std::string& name() const noexcept { return spec_.name; }
  [[nodiscard]] Settlements& settlements() noexcept { return settlements_; }

  /// Known to be there, and the same as before.
  [[nodiscard]] bool ready() const noexcept { return ready_; }
  /// Finds it, or makes it, and sends what was settled meanwhile. True when it is another than before: then all that the former
  /// had delivered is void. Blocks for as long as the context's requests wait; throws std::runtime_error.
  bool prepare(jsCtx* js, const std::shared_ptr<Connection>& connection);
  /// It may be gone, or another: settlements wait until `prepare` has looked.
  void suspend();

  /// A pull is under way.
  [[nodiscard]] bool pulling() const noexcept { return credit_ > 0; }
  /// The server ends every pull with a word; a consumer that is there no more says nothing, also not that it is gone.
  [[nodiscard]] bool overdue(Instant now) const noexcept { return pulling() && now >= pull_ends_; }
  /// When to pull next, unless a pull is under way: one that ends at once is not followed by another at once.
  [[nodiscard]] Instant next_pull() const noexcept { return next_pull_; }
  /// Asks for up to `count` messages, to be sent to `inbox`.<`tag`>-<number>.
  void pull(Connection& connection, const std::string& inbox, const std::string& tag, std::size_t count, milliseconds wait);
  /// The words that give messages back when nobody listens to the pulls any more. Not before the one that is under way has
  /// ended: for a pull without a listener nats-server 2.9 takes a message out of those that are to come again, so that it waits
  /// for its ack_wait, and then gives it out twice.
  [[nodiscard]] std::string farewell() const;
  /// One has come.
  void count_delivery();
  /// A pull that is named so has ended. False when it is another's than the one under way.
  bool end_pull(std::string_view number);

 private:
  const Spec spec_;
  const BeaconSourceOptions options_;
  Settlements settlements_;
  bool ready_ = false;
  std::int64_t made_ = 0;    ///< when, by the server's clock; 0: not known yet
  std::size_t credit_ = 0;   ///< messages the current pull may still bring
  std::uint64_t pulls_ = 0;  ///< the number of the current one, or the last
  Instant pull_ends_{};
  Instant next_pull_{};
};

}  // namespace penstock::beacon
