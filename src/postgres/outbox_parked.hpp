// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "penstock/event_log.hpp"
#include "postgres/pqxx_compat.hpp"

namespace penstock::postgres {

/// The events of one cursor that are parked: rows of `dead_letters` in state 'behind'. One is free when no earlier row of its
/// key is a dead letter that holds it or an event that is to be tried again, and its own next attempt, if it has one, is due.
/// Those handed out again are known by their entry's sequence until they are settled, and then deleted. Thread safety: one
/// thread. Lifetime: a value.
class ParkedEvents {
 public:
  ParkedEvents(std::string schema, std::string cursor);

  /// As a new owner: nothing is handed out.
  void reset();

  struct Free {
    std::int64_t row = 0;
    Event event{};
    int failures = 0;
  };
  /// Whether it is time to look for free rows: at most about once a second, and while there are none every few seconds, since
  /// somebody may replay a dead letter. `expected` is what is known of that without a look.
  [[nodiscard]] bool due(std::optional<bool> expected) const {
    return (any_ || expected.value_or(true)) && Steady::now() >= next_look_;
  }
  /// Rows that are free and not handed out, in order.
  std::vector<Free> free(pqxx::transaction_base& tx, std::size_t max);
  void handed_out(std::uint64_t sequence, std::int64_t row) { out_.emplace(sequence, row); }
  [[nodiscard]] bool any_out() const { return !out_.empty(); }
  [[nodiscard]] bool is_out(std::uint64_t sequence) const { return out_.count(sequence) != 0; }

  /// One that was handed out and has failed again: `stays`, after the transaction.
  void try_again(pqxx::transaction_base& tx, const EventLog::Parking& parking);
  /// After the transaction: there is something to look for.
  void parked();
  /// One that was handed out stays after all.
  void stays(std::uint64_t sequence) { out_.erase(sequence); }
  /// One that was handed out is a dead letter itself.
  void bury(pqxx::transaction_base& tx, std::uint64_t sequence, const std::string& error, int attempts, bool holds);

  /// Deletes what is settled up to a sequence, if anything; `forget` after the transaction.
  [[nodiscard]] bool any_settled(std::uint64_t sequence) const { return !out_.empty() && out_.begin()->first <= sequence; }
  void erase_settled(pqxx::transaction_base& tx, std::uint64_t sequence);
  void forget_settled(std::uint64_t sequence) { out_.erase(out_.begin(), out_.upper_bound(sequence)); }

  /// Of what is handed out none: its successors wait behind it where it is now.
  std::vector<EventLog::HeldKey> held_keys(pqxx::transaction_base& tx) const;

 private:
  using Steady = std::chrono::steady_clock;

  [[nodiscard]] std::string rows_out() const;

  std::string schema_;
  std::string cursor_;
  std::string channel_;
  bool any_ = true;
  Steady::time_point next_look_{};
  std::map<std::uint64_t, std::int64_t> out_{};
};

}  // namespace penstock::postgres
