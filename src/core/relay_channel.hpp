// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "core/failure_window.hpp"
#include "core/relay_pending.hpp"
#include "penstock/relay.hpp"

namespace penstock {

/// A channel that fails for everybody: nobody is judged, one batch at a time is sent to see whether it is over.
struct RelayOutage {
  bool rejecting = false;  // else the broker is away
  int probes = 0;
  Clock::TimePoint until{};
  std::uint64_t last_probed = 0;
};

/// The part of a Relay that serves one channel: a cursor, what was read from it, and what is on its way to the broker.
///
/// Thread safety: `run` from one thread, `status` from any. Lifetime: the log and the options' clock and random outlive it.
class RelayChannel {
 public:
  RelayChannel(EventLog& log, Channel channel, std::vector<std::string> patterns, const RelayOptions& options);

  /// Called by the channel's thread when it has taken the lease, and every few seconds while it holds it. Before `run`.
  void on_look(std::function<void(EventLog::Cursor&)> look) { look_ = std::move(look); }

  /// Until `stop`, then drains. True when everything on its way was settled in time. Throws nothing.
  bool run(std::stop_token stop);

  [[nodiscard]] RelayStatus::PerChannel status() const;

 private:
  using TimePoint = Clock::TimePoint;

  struct Batch {
    std::future<Outcomes> outcomes{};
    std::vector<std::uint64_t> sequences{};
  };

  bool own(std::stop_token stop);
  void turn(std::stop_token stop);
  bool drain();
  void abandon();
  void lose_time(std::stop_token stop);
  void rest(std::stop_token stop);

  void checkpoint();
  bool read_more();
  [[nodiscard]] std::size_t room() const;
  void look_around();
  bool submit();
  void send(std::vector<std::uint64_t> sequences);
  bool collect();
  void judge(const std::vector<std::uint64_t>& sequences, Outcomes outcomes);
  void settle(std::uint64_t sequence);
  void confirmed(std::uint64_t sequence);
  void rejected(std::uint64_t sequence, bool proven);
  void failed(std::uint64_t sequence);
  void begin_outage(bool rejecting, const std::string& error);
  void end_outage();
  void bury_condemned();
  void withhold(std::uint64_t sequence);
  void hold_key(const std::string& key, bool failing);
  void set_aside();
  [[nodiscard]] bool parking_is_due() const;
  void park_followers();

  [[nodiscard]] TimePoint now() const;
  [[nodiscard]] Clock::Duration back_off(int failures);
  void tell_status();
  void measure_backlog();
  void fail(const std::string& error);
  void log(LogLevel level, const std::string& message) const noexcept;

  EventLog& log_source_;
  Channel channel_;
  std::string name_;
  std::vector<std::string> patterns_;
  RelayOptions options_;

  // The system's wall clock may step; waits must not. Other clocks are asked as they are.
  TimePoint wall_start_ = std::chrono::system_clock::now();
  std::chrono::steady_clock::time_point steady_start_ = std::chrono::steady_clock::now();

  std::unique_ptr<EventLog::Cursor> cursor_{};
  std::function<void(EventLog::Cursor&)> look_{};
  bool owner_ = false;
  RelayPending pending_;
  std::vector<Event> lent_{};                     // to the publisher, for the time of a call
  std::vector<Event> spent_{};                    // settled, to be given back to the cursor
  std::list<Batch> batches_{};                    // oldest first
  std::vector<std::future<Outcomes>> orphans_{};  // sent under a lease that was lost
  std::deque<std::uint64_t> condemned_{};         // rejected often enough, to be buried
  std::map<std::string, bool> held_{};            // keys that wait in the log's keeping; whether behind one that keeps failing
  bool held_known_ = false;
  std::deque<std::uint64_t> followers_{};  // events to be parked: of theirs, or that keep failing
  TimePoint follows_since_{};              // the first of them
  FailureWindow health_;
  std::size_t silent_failures_ = 0;  // `retryable` and `unknown` since the channel last said anything
  std::optional<RelayOutage> outage_{};
  bool said_rejecting_ = false;
  std::size_t event_bytes_ = 0;  // of the last events, on average
  TimePoint checkpointed_{};
  TimePoint next_read_{};
  std::chrono::milliseconds poll_wait_{1};
  std::chrono::microseconds rest_{200};
  std::chrono::milliseconds trouble_{0};  // back-off while the log is away
  bool warned_of_span_ = false;
  bool drained_log_ = false;  // the last read found nothing
  bool known_empty_ = false;  // the backlog was asked for since something was read, and is nothing
  TimePoint next_look_{};
  TimePoint next_backlog_{};
  std::uint64_t published_ = 0;
  std::uint64_t buried_ = 0;
  std::uint64_t parked_ = 0;

  mutable std::mutex status_mutex_;
  RelayStatus::PerChannel status_{};
  std::deque<std::pair<TimePoint, std::uint64_t>> samples_{};  // of `published`
};

}  // namespace penstock
