// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "penstock/clock.hpp"
#include "penstock/logger.hpp"

namespace penstock {

/// Which dead letters (rows of `dead_letters` in state 'dead'); what is empty matches all.
struct LetterFilter {
  std::string side{};   ///< "consumer": a handler gave up; "outbox": a channel would not take it
  std::string group{};  ///< on the outbox's side the cursor, as "kafka:orders"
  std::string channel{};
  std::string type{};                ///< `*` stands for any characters
  std::optional<std::string> key{};  ///< "" for those without a key
  std::string error_class{};         ///< the reason up to its first colon, "malformed" or "error", as `dlq-error-class`
  std::string from{};                ///< recorded at this RFC 3339 time or later …
  std::string until{};               ///< … and before this one
};

/// Where replayed letters go.
enum class ReplayTarget : std::uint8_t {
  /// To who failed, and nobody else. A consumer's group takes the message up from its parked ones, at once, with fresh attempts
  /// and its history; no broker is involved. A letter of the outbox goes to its channel again, under the same event id, and is
  /// 'replayed' when the broker has confirmed it; one that had no route is appended to the outbox again.
  group,
  /// A consumer's letter is appended to the outbox again, under the same event id, and goes where events of its type are
  /// routed:
  /// the group that failed handles it, groups that have done it ignore it by their inbox, and who has none sees it again.
  /// Outbox letters go as with `group`.
  channel,
  /// Nowhere: it is 'discarded', kept, and counted no more. A key that waits for it goes on.
  discard
};

struct ReplayRequest {
  LetterFilter filter{};
  ReplayTarget target = ReplayTarget::group;
  std::string who{};     ///< required, kept in the job and in the audit trail
  std::string why{};     ///< required, likewise
  double rate = 0;       ///< letters a second, by the database's clock and over all who run the job; 0: no bound
  int most_replays = 3;  ///< a letter that was replayed so often and died again is refused; `discard` does not look at it
  int batch = 100;       ///< most letters in a transaction
  bool dry_run = false;  ///< do everything, count it, and undo it
};

/// What a request would take up, by error class.
struct ReplayPlan {
  struct Class {
    std::string error_class{};
    std::int64_t letters = 0;
    std::string oldest{};  ///< RFC 3339
    std::string newest{};
    std::string example{};  ///< the error of the newest
  };
  std::int64_t letters = 0;
  std::vector<Class> classes{};  ///< the most frequent first
};

/// A row of `replay_jobs`.
struct ReplayJob {
  std::int64_t id = 0;
  std::string state{};       ///< planned, running, done or cancelled
  std::int64_t planned = 0;  ///< letters that matched when the job was made
  std::int64_t sent = 0;
  std::int64_t failed = 0;  ///< refused; why stands in `replay_failures`
  double rate = 0;
  bool dry_run = false;
  std::string who{};
  std::string why{};
  std::string last_error{};  ///< of the last refusal
  [[nodiscard]] bool ended() const { return state == "done" || state == "cancelled"; }
};

struct ReplaysOptions {
  std::string schema = "penstock";                      ///< made by `migrate`
  std::chrono::milliseconds statement_timeout{10'000};  ///< bound on every statement but `plan`'s, which has ten times as much
  Clock* clock = &Clock::system();                      ///< waits; what is stored is the database's time
  std::shared_ptr<Logger> logger{};
};

/// Brings dead letters back, consumers' and relays' alike. A replay is a job, a row in Postgres:
///
///     Replays replays{url};
///     const ReplayRequest request{.filter = {.group = "fulfillment", .error_class = "attempts exhausted"},
///                                 .who = "ada", .why = "the provider is back", .rate = 50};
///     replays.plan(request);                          // how many, by error class; changes nothing
///     const auto job = replays.start(request);
///     replays.run(job, stop_token);                   // again, after a crash, from anywhere: it goes on where it was
///
/// A batch is one transaction: the letters are sent, marked and audited and the job moves on, or none of it. So a job that was
/// killed, at any moment and how often ever, has no letter lost or sent twice. Several may run one job; they take turns. What
/// dies again during a job is not taken up by it. Letters go in the order they were recorded in, so in order within their key:
/// behind what is parked of the key, and not before what has passed already. A message of the key that is in a handler at
/// that moment is not waited for.
///
/// Refused, with a reason, are letters that were replayed too often, that are no events, whose group has settled the event
/// meanwhile, that nobody serves any more, and those on the outbox's side that have an earlier dead letter of their key left.
///
/// Every call connects by itself and throws libpqxx's exceptions, and std::invalid_argument, which names field, value and
/// remedy. Thread safety: any thread, also several at once. Lifetime: clock and logger must outlive it.
class PENSTOCK_EXPORT Replays {
 public:
  explicit Replays(std::string url, ReplaysOptions options = {});
  ~Replays();
  Replays(const Replays&) = delete;
  Replays& operator=(const Replays&) = delete;

  /// Counts what the filter matches now.
  [[nodiscard]] ReplayPlan plan(const ReplayRequest& request) const;
  /// Makes the job, in state 'planned', of the letters recorded until now; returns its id.
  std::int64_t start(const ReplayRequest& request);
  /// Blocks until the job has ended or `stop` is requested. A database that goes away is tried again a few times, then thrown.
  ReplayJob run(std::int64_t job, std::stop_token stop = {});
  /// Ends a job, from anywhere: after the batch that is under way nothing more is sent. False when it has ended already.
  bool cancel(std::int64_t job, const std::string& who, const std::string& why);
  [[nodiscard]] ReplayJob job(std::int64_t job) const;

  /// Replaces what will be replayed of one dead letter: the payload as it lies on the wire. The original stays where it is;
  /// both, and their difference (a JSON Patch, or for what is no JSON the bytes that differ), are kept in `letter_edits`.
  /// Returns the difference. An edit may not turn the message into another event or none.
  std::string edit(std::int64_t letter, const std::string& payload, const std::string& who, const std::string& why);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
