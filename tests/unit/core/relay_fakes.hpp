// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/event_log.hpp"
#include "penstock/publisher.hpp"

namespace penstock::test {

using namespace std::chrono_literals;

/// A log in memory that does what it is told, also to fail.
class ScriptedLog final : public EventLog {
 public:
  struct Burial {
    std::string id{};
    std::string channel{};
    std::string error{};
    int attempts = 0;
  };

  void append(Event event) {
    const std::lock_guard lock{mutex_};
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  void append(const std::string& id, const std::string& key, const std::string& type = "t") {
    append(Event{.id = id, .source = "/s", .type = type, .key = key});
  }

  /// How many events the stored checkpoint of a cursor covers.
  std::size_t checkpoint(const std::string& cursor) {
    const std::lock_guard lock{mutex_};
    return places_[cursor].settled;
  }
  std::vector<Burial> burials() {
    const std::lock_guard lock{mutex_};
    return burials_;
  }
  /// What is parked and not settled.
  std::size_t waiting() {
    const std::lock_guard lock{mutex_};
    return waiting_.size();
  }
  std::vector<std::string> parked() {
    const std::lock_guard lock{mutex_};
    return parked_;
  }
  /// The next call of every kind throws LeaseLost; the lease can be had again at once.
  void lose_lease(const std::string& cursor) {
    const std::lock_guard lock{mutex_};
    ++places_[cursor].token;
    places_[cursor].held = false;
  }
  void set_held_elsewhere(const std::string& cursor, bool held) {
    const std::lock_guard lock{mutex_};
    ++places_[cursor].token;
    places_[cursor].held = held;
  }
  void set_held_keys(std::vector<std::string> keys, std::chrono::milliseconds look_takes) {
    const std::lock_guard lock{mutex_};
    held_keys_ = std::move(keys);
    key_look_takes_ = look_takes;
  }
  std::size_t key_looks() {
    const std::lock_guard lock{mutex_};
    return key_looks_;
  }
  /// So many reads find only what is for others.
  void set_in_vain(std::size_t reads) {
    const std::lock_guard lock{mutex_};
    in_vain_ = reads;
  }
  void set_away(bool away) {
    const std::lock_guard lock{mutex_};
    away_ = away;
  }
  std::size_t calls() {
    const std::lock_guard lock{mutex_};
    return calls_;
  }
  bool released(const std::string& cursor) {
    const std::lock_guard lock{mutex_};
    return !places_[cursor].held;
  }

  std::unique_ptr<Cursor> cursor(const std::string& name, const std::vector<std::string>& patterns) override {
    return std::make_unique<ScriptedCursor>(*this, name, patterns);
  }

 private:
  struct Place {
    std::size_t settled = 0;
    std::uint64_t token = 0;
    bool held = false;
  };

  class ScriptedCursor final : public Cursor {
   public:
    ScriptedCursor(ScriptedLog& log, std::string name, std::vector<std::string> patterns)
        : log_{log}, name_{std::move(name)}, patterns_{std::move(patterns)} {}

    bool acquire() override {
      const std::lock_guard lock{log_.mutex_};
      check_away();
      Place& place = log_.places_[name_];
      if (place.held) {
        return false;
      }
      place.held = true;
      token_ = ++place.token;
      next_ = place.settled;
      ends_.assign(1, next_);
      given_.clear();
      for (auto& [number, waiting] : log_.waiting_) {
        waiting.out = false;
      }
      return true;
    }
    std::vector<Entry> read(std::size_t max) override {
      const std::lock_guard lock{log_.mutex_};
      place();
      std::vector<Entry> entries;
      at_end_ = log_.in_vain_ == 0;
      if (!at_end_) {
        --log_.in_vain_;
        return entries;
      }
      std::set<std::string> failing;
      for (auto& [number, waiting] : log_.waiting_) {
        if (failing.count(waiting.event.key) == 0 && !waiting.out && entries.size() < max) {
          waiting.out = true;
          ends_.push_back(ends_.back());
          given_.emplace(ends_.size() - 1, number);
          entries.push_back({ends_.size() - 1, waiting.event, true, waiting.failures});
        }
        if (waiting.failures > 0 && !waiting.event.key.empty()) {
          failing.insert(waiting.event.key);
        }
      }
      for (; next_ < log_.events_.size() && entries.size() < max; ++next_) {
        const Event& event = log_.events_[next_];
        if (route_covered(patterns_, event.type)) {
          ends_.push_back(next_ + 1);
          entries.push_back({ends_.size() - 1, event});
        }
      }
      return entries;
    }
    bool at_end() const override { return at_end_; }
    void checkpoint(std::uint64_t sequence) override {
      const std::lock_guard lock{log_.mutex_};
      place().settled = ends_.at(sequence);
      const auto through = given_.upper_bound(sequence);
      for (auto given = given_.begin(); given != through; ++given) {
        log_.waiting_.erase(given->second);
      }
      given_.erase(given_.begin(), through);
    }
    void bury(const Entry& entry, const std::string& channel, const std::string& error, int attempts, bool) override {
      const std::lock_guard lock{log_.mutex_};
      place();
      log_.burials_.push_back({entry.event.id, channel, error, attempts});
      if (const auto given = given_.find(entry.sequence); given != given_.end()) {
        log_.waiting_.erase(given->second);
        given_.erase(given);
      }
    }
    void park(std::span<const Parking> entries, const std::string&) override {
      const std::lock_guard lock{log_.mutex_};
      place();
      for (const Parking& parking : entries) {
        const Entry& entry = *parking.entry;
        log_.parked_.push_back(entry.event.id);
        const auto given = given_.find(entry.sequence);
        const std::size_t number = given == given_.end() ? log_.next_waiting_++ : given->second;
        given_.erase(entry.sequence);
        log_.waiting_[number] = {entry.event, parking.failures, false};
      }
    }
    std::vector<HeldKey> held_keys() override {
      std::unique_lock lock{log_.mutex_};
      place();
      ++log_.key_looks_;
      lock.unlock();
      std::this_thread::sleep_for(log_.key_look_takes_);
      lock.lock();
      std::vector<HeldKey> keys;
      for (const std::string& key : log_.held_keys_) {
        keys.push_back({key, false});
      }
      for (const auto& [number, waiting] : log_.waiting_) {
        if (!waiting.out) {
          keys.push_back({waiting.event.key, true});
        }
      }
      return keys;
    }
    std::vector<std::string> siblings() override {
      const std::lock_guard lock{log_.mutex_};
      check_away();
      std::vector<std::string> names;
      for (const auto& [name, place] : log_.places_) {
        names.push_back(name);
      }
      return names;
    }
    Backlog backlog() override {
      const std::lock_guard lock{log_.mutex_};
      check_away();
      const std::size_t settled = log_.places_[name_].settled;
      return {.events = log_.events_.size() - settled, .position = std::to_string(settled)};
    }
    void wait(std::chrono::milliseconds most, std::stop_token stop) override {
      std::unique_lock lock{log_.mutex_};
      const auto seen = log_.events_.size();
      log_.changed_.wait_for(lock, std::move(stop), most, [&] { return log_.events_.size() != seen; });
    }
    void release() noexcept override {
      const std::lock_guard lock{log_.mutex_};
      if (log_.places_[name_].token == token_) {
        log_.places_[name_].held = false;
      }
    }

   private:
    void check_away() {
      ++log_.calls_;
      if (log_.away_) {
        throw LogUnavailable("the log is away");
      }
    }
    Place& place() {
      check_away();
      Place& place = log_.places_[name_];
      if (place.token != token_) {
        throw LeaseLost("taken over");
      }
      return place;
    }

    ScriptedLog& log_;
    std::string name_;
    std::vector<std::string> patterns_;
    std::uint64_t token_ = 0;
    bool at_end_ = true;
    std::size_t next_ = 0;
    std::vector<std::size_t> ends_{0};
    std::map<std::uint64_t, std::size_t> given_{};  // entry → what was parked, given out again
  };

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Event> events_;
  std::map<std::string, Place> places_;
  std::vector<Burial> burials_;
  struct Waiting {
    Event event{};
    int failures = 0;
    bool out = false;
  };
  std::vector<std::string> parked_;
  std::map<std::size_t, Waiting> waiting_;  // parked, of the one cursor that parks
  std::size_t next_waiting_ = 0;
  std::size_t calls_ = 0;
  std::size_t in_vain_ = 0;
  std::vector<std::string> held_keys_;
  std::chrono::milliseconds key_look_takes_{0};
  std::size_t key_looks_ = 0;
  bool away_ = false;
};

/// A publisher whose outcomes are written by the test: at once by a function, or by hand.
/// It watches that no key ever has events on their way in two calls, nor two of them unless it `keeps_order`; and remembers
/// what it "stored". When it keeps the order, nothing is stored behind a failure of the same key in the same call.
class ScriptedPublisher final : public Publisher {
 public:
  using Script = std::function<Outcome(const Event&)>;

  explicit ScriptedPublisher(Script script = {}, bool keeps_order = false)
      : script_{std::move(script)}, keeps_order_{keeps_order} {}

  [[nodiscard]] bool keeps_order() const noexcept override { return keeps_order_; }

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    const std::lock_guard lock{mutex_};
    Call call{{events.begin(), events.end()}, {}};
    std::set<std::string> keys;
    ++calls_;
    sent_ += events.size();
    for (const Event& event : events) {
      ++tries_[event.id];
      const bool first = keys.insert(event.key).second;
      if (!event.key.empty() && (first ? !on_their_way_.insert(event.key).second : !keeps_order_)) {
        overtaking_ = true;
      }
    }
    auto future = call.promise.get_future();
    held_.push_back(std::move(call));
    if (script_) {
      answer(held_.size() - 1, script_);
    }
    return future;
  }

  /// Changes what is answered from now on; without a script calls are held until answered by hand.
  void set(Script script) {
    const std::lock_guard lock{mutex_};
    script_ = std::move(script);
  }
  std::size_t held() {
    const std::lock_guard lock{mutex_};
    return held_.size();
  }
  std::vector<std::string> held_ids(std::size_t index) {
    const std::lock_guard lock{mutex_};
    std::vector<std::string> ids;
    for (const Event& event : held_.at(index).events) {
      ids.push_back(event.id);
    }
    return ids;
  }
  void answer_held(std::size_t index, const Script& script) {
    const std::lock_guard lock{mutex_};
    answer(index, script);
  }
  /// Ids in the order they were stored in.
  std::vector<std::string> stored() {
    const std::lock_guard lock{mutex_};
    return stored_;
  }
  std::vector<std::string> stored_of(const std::string& key) {
    const std::lock_guard lock{mutex_};
    return stored_by_key_[key];
  }
  std::size_t calls() {
    const std::lock_guard lock{mutex_};
    return calls_;
  }
  std::size_t sent() {
    const std::lock_guard lock{mutex_};
    return sent_;
  }
  int tries(const std::string& id) {
    const std::lock_guard lock{mutex_};
    return tries_[id];
  }
  bool overtaking() {
    const std::lock_guard lock{mutex_};
    return overtaking_;
  }

 private:
  struct Call {
    std::vector<Event> events{};
    std::promise<Outcomes> promise{};
  };

  void answer(std::size_t index, const Script& script) {
    Call call = std::move(held_.at(index));
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
    Outcomes outcomes;
    std::set<std::string> failed;
    for (const Event& event : call.events) {
      outcomes.push_back(failed.count(event.key) != 0 ? Outcome{Outcome::Status::retryable, "behind"} : script(event));
      if (keeps_order_ && !event.key.empty() && !outcomes.back().confirmed()) {
        failed.insert(event.key);
      }
      if (outcomes.back().confirmed()) {
        stored_.push_back(event.id);
        stored_by_key_[event.key].push_back(event.id);
      }
      on_their_way_.erase(event.key);
    }
    call.promise.set_value(std::move(outcomes));
  }

  std::mutex mutex_;
  Script script_;
  const bool keeps_order_;
  std::vector<Call> held_;
  std::vector<std::string> stored_;
  std::map<std::string, std::vector<std::string>> stored_by_key_;
  std::map<std::string, int> tries_;
  std::set<std::string> on_their_way_;
  std::size_t calls_ = 0;
  std::size_t sent_ = 0;
  bool overtaking_ = false;
};

inline Outcome confirmed(const Event&) { return {Outcome::Status::confirmed, {}}; }
inline Outcome retryable(const Event&) { return {Outcome::Status::retryable, "broker away"}; }
inline Outcome rejected(const Event&) { return {Outcome::Status::rejected, "too large"}; }

}  // namespace penstock::test
