// SPDX-License-Identifier: Apache-2.0
#include "truth/driver.hpp"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "penstock/consumer.hpp"
#include "truth/faults.hpp"

#if defined(__SANITIZE_ADDRESS__)
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();  // NOLINT: the sanitizer's name
#endif

namespace penstock::truth {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// "At the latest shortly after the timeout": what a machine with something else to do may need. Stalls of the whole process
/// are measured and added.
constexpr milliseconds grace{1'000};
/// Destroying what has a connection may wait for a server that does not answer; the documentation says up to 5 s.
constexpr milliseconds longest_end{8'000};
constexpr milliseconds drain_timeout{5'000};
constexpr milliseconds patience{90'000};
constexpr std::size_t most_outstanding = 4'000;
constexpr std::size_t in_flight = 128;
constexpr int keys = 16;
constexpr std::size_t growth_limit = std::size_t{24} << 20U;

void line(const std::string& text) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 16> stamp{};
  std::strftime(stamp.data(), stamp.size(), "%H:%M:%S", &parts);
  std::printf("%s %s\n", stamp.data(), text.c_str());
  std::fflush(stdout);
}

std::string text(milliseconds time) { return std::to_string(time.count()) + " ms"; }
milliseconds since(Clock::time_point start) { return std::chrono::duration_cast<milliseconds>(Clock::now() - start); }

/// How long this process did not run at all, lately: what no library can make up for.
class Canary {
 public:
  Canary() {
    thread_ = std::jthread{[this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        const auto start = Clock::now();
        std::this_thread::sleep_for(10ms);
        const auto late = since(start) - 10ms;
        const std::lock_guard lock{mutex_};
        stalls_.push_back({Clock::now(), late});
        while (stalls_.front().first < Clock::now() - 30s) stalls_.pop_front();
      }
    }};
  }
  [[nodiscard]] milliseconds stalled(Clock::time_point since) const {
    const std::lock_guard lock{mutex_};
    milliseconds sum{0};
    for (const auto& [at, late] : stalls_) {
      if (at >= since && late > 20ms) sum += late;
    }
    return sum;
  }

 private:
  mutable std::mutex mutex_;
  std::deque<std::pair<Clock::time_point, milliseconds>> stalls_;
  std::jthread thread_;
};

/// Ends the process when something hangs, saying what: a thread that is stuck cannot be joined.
class Watchdog {
 public:
  Watchdog() {
    thread_ = std::jthread{[this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        std::this_thread::sleep_for(100ms);
        const std::lock_guard lock{mutex_};
        for (const auto& [what, until] : open_) {
          if (Clock::now() < until) continue;
          line("STUCK: " + what);
          const std::string look = "command -v gdb >/dev/null && gdb -p " + std::to_string(::getpid()) +
                                   " -batch -ex 'thread apply all backtrace 24' 2>/dev/null | grep -E '^(#|Thread)'";
          static_cast<void>(std::system(look.c_str()));  // NOLINT(cert-env33-c): where a debugger is at hand
          std::abort();
        }
      }
    }};
  }
  /// What is done between this and the end of the returned value must not take longer.
  [[nodiscard]] std::shared_ptr<void> expect(const std::string& what, milliseconds most) {
    const std::lock_guard lock{mutex_};
    const auto place = open_.emplace(what, Clock::now() + most);
    return {nullptr, [this, place](void*) {
              const std::lock_guard again{mutex_};
              open_.erase(place);
            }};
  }

 private:
  std::mutex mutex_;
  std::multimap<std::string, Clock::time_point> open_;
  std::jthread thread_;
};

struct Room {
  const Plan& plan;
  Backend& backend;
  Faults& faults;
  Canary canary{};
  Watchdog watchdog{};
  std::atomic<bool> healthy{false};  ///< no fault is on, and none ended a moment ago
  std::atomic<std::uint64_t> latest_ms{0};
  std::atomic<std::uint64_t> longest_end_ms{0};
  std::atomic<int> ends{0};
  std::atomic<std::uint64_t> resubmitted{0};
};

void raise(std::atomic<std::uint64_t>& most, milliseconds value) {
  auto known = most.load();
  const auto wanted = static_cast<std::uint64_t>(std::max<milliseconds::rep>(0, value.count()));
  while (known < wanted && !most.compare_exchange_weak(known, wanted)) {
  }
}

template <class Action>
void timed_end(Room& room, const std::string& what, const Action& action) {
  const auto start = Clock::now();
  {
    const auto guard = room.watchdog.expect(what + " ends", 60s);
    action();
  }
  const auto took = since(start);
  raise(room.longest_end_ms, took);
  ++room.ends;
  if (took > longest_end + room.canary.stalled(start)) room.faults.add(what + " took " + text(took) + " to end");
}

Event event_of(const Book& book, std::size_t number, std::size_t size) {
  std::string data = std::to_string(number) + ' ';
  data.resize(std::max(data.size(), size), 'x');
  return {.id = book.channel() + '-' + std::to_string(number),
          .source = "/truth",
          .type = "truth.told.v1",
          .key = "k" + std::to_string(number % keys),
          .data = std::move(data)};
}

std::optional<std::size_t> number_of(std::string_view payload) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(payload.data(), payload.data() + payload.size(), number);
  if (error != std::errc{} || end == payload.data() + payload.size() || *end != ' ') return std::nullopt;
  return number;
}

/// One thread that publishes to a channel as fast as it may, repeats some of what failed, as a relay does, and now and then
/// throws its client away with calls on their way.
class Flood {
 public:
  Flood(Room& room, Book& book, std::uint64_t seed, bool fast, Client* shared)
      : room_{room}, book_{book}, dice_{seed}, fast_{fast}, shared_{shared} {
    thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
  }
  void stop() { thread_.request_stop(); }
  void join() { thread_.join(); }

 private:
  struct Call {
    std::vector<Event> events;
    std::vector<std::size_t> numbers;
    Clock::time_point start;
    Clock::time_point deadline;
    std::future<Outcomes> outcomes;
  };

  void run(const std::stop_token& stop) {
    renew();
    auto renewal = Clock::now() + dice_.between(2s, 9s);
    while (!stop.stop_requested()) {
      if (shared_ == nullptr && Clock::now() > renewal) {
        abandon();
        renew();
        renewal = Clock::now() + dice_.between(2s, 9s);
      }
      collect();
      if (outstanding_ >= most_outstanding || book_.full()) {
        std::this_thread::sleep_for(2ms);
        continue;
      }
      publish();
      if (!fast_) std::this_thread::sleep_for(dice_.between(1ms, 12ms));
    }
    while (!calls_.empty()) {
      collect();
      std::this_thread::sleep_for(2ms);
    }
    timed_end(room_, "a publisher at rest", [&] {
      channel_ = {};
      client_.reset();
    });
  }

  void renew() {
    if (shared_ == nullptr) client_ = room_.backend.client();
    channel_ = (shared_ != nullptr ? *shared_ : *client_).channel(book_.channel());
  }

  /// Its end gives every event its outcome, whatever the server does.
  void abandon() {
    timed_end(room_, "a publisher with " + std::to_string(outstanding_) + " events on their way", [&] {
      channel_ = {};
      client_.reset();
    });
    for (Call& call : calls_) {
      if (call.outcomes.wait_for(0ms) != std::future_status::ready) {
        room_.faults.add("a publisher ended, and a call of it has no outcomes");
        call.outcomes = {};
      } else {
        settle(call);
      }
    }
    calls_.clear();
    outstanding_ = 0;
  }

  void publish() {
    Call call;
    const auto size = static_cast<std::size_t>(fast_ ? dice_.between(1, 150) : dice_.between(1, 8));
    const bool heavy = fast_ && dice_.one_in(25);
    while (call.events.size() < size && !again_.empty()) {
      call.numbers.push_back(again_.front().first);
      call.events.push_back(std::move(again_.front().second));
      again_.pop_front();
      ++room_.resubmitted;
    }
    while (call.events.size() < size) {
      const std::size_t number = book_.draw();
      if (book_.full()) break;
      call.numbers.push_back(number);
      call.events.push_back(event_of(book_, number, static_cast<std::size_t>(heavy ? 20'000 : dice_.between(20, 200))));
    }
    if (call.events.empty()) return;
    for (const std::size_t number : call.numbers) book_.submitted(number);
    const auto timeout = dice_.one_in(4) ? dice_.between(20ms, 400ms) : dice_.between(500ms, 6'000ms);
    call.start = Clock::now();
    call.deadline = call.start + timeout;
    {
      const auto guard = room_.watchdog.expect("submit", 60s);
      call.outcomes = channel_.publisher->submit(call.events, timeout);
    }
    const auto late = since(call.deadline);
    if (late > grace + room_.canary.stalled(call.start)) {
      room_.faults.add("a call of submit came back " + text(late) + " after its deadline");
    }
    outstanding_ += call.events.size();
    calls_.push_back(std::move(call));
  }

  void collect() {
    for (auto call = calls_.begin(); call != calls_.end();) {
      if (call->outcomes.wait_for(0ms) == std::future_status::ready) {
        outstanding_ -= call->events.size();
        settle(*call);
        call = calls_.erase(call);
        continue;
      }
      const auto late = since(call->deadline);
      raise(room_.latest_ms, late);
      if (late > grace && late > grace + room_.canary.stalled(call->start)) {
        line("late: " + text(late) + ", of " + text(std::chrono::duration_cast<milliseconds>(call->deadline - call->start)));
        room_.faults.add("events without an outcome " + text(late) + " after their deadline, on " + book_.channel());
        call->deadline += 60s;
      }
      ++call;
    }
  }

  void settle(Call& call) {
    Outcomes outcomes;
    try {
      outcomes = call.outcomes.get();
    } catch (const std::exception& error) {
      room_.faults.add(std::string{"a future threw: "} + error.what());
      return;
    }
    if (outcomes.size() != call.events.size()) {
      room_.faults.add(std::to_string(outcomes.size()) + " outcomes for " + std::to_string(call.events.size()) + " events");
      return;
    }
    const bool repeat = !dice_.one_in(3);
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      book_.settled(call.numbers[i], outcomes[i]);
      if (outcomes[i].confirmed() != outcomes[i].error.empty()) {
        room_.faults.add(std::string{"an outcome is "} + to_string(outcomes[i].status) + ", and its error is '" +
                         outcomes[i].error + "'");
      }
      if (!outcomes[i].confirmed() && repeat && again_.size() < 2'000) {
        again_.emplace_back(call.numbers[i], std::move(call.events[i]));
      }
    }
  }

  Room& room_;
  Book& book_;
  Dice dice_;
  bool fast_;
  Client* shared_;
  std::unique_ptr<Client> client_;
  Channel channel_;
  std::deque<Call> calls_;
  std::size_t outstanding_ = 0;
  std::deque<std::pair<std::size_t, Event>> again_;
  std::jthread thread_;
};

/// A Consumer without a Datastore that is ended and replaced now and then, whatever the broker does at that time.
class Drinker {
 public:
  Drinker(Room& room, Book& book, Client& client, std::uint64_t seed)
      : room_{room}, book_{book}, client_{client}, dice_{seed}, firsts_(keys) {
    thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
  }
  void stop() { thread_.request_stop(); }
  void join() { thread_.join(); }
  void settle_down() { calm_ = true; }

  [[nodiscard]] std::uint64_t deliveries() const noexcept { return deliveries_; }
  [[nodiscard]] std::uint64_t first_effects() const noexcept { return first_effects_; }
  [[nodiscard]] std::uint64_t retried() const noexcept { return retried_; }
  [[nodiscard]] int runs() const noexcept { return runs_; }
  [[nodiscard]] bool ordered() const noexcept { return ordered_; }
  /// The numbers of each key in the order of their first effects.
  [[nodiscard]] const std::vector<std::vector<std::size_t>>& firsts() const noexcept { return firsts_; }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      auto source = client_.source(book_.channel());
      ordered_ = source->traits().ordered;
      std::optional<Consumer> consumer;
      consumer.emplace(std::move(source), AtLeastOnce{client_.channel(book_.channel() + "-dead"), {}},
                       ConsumerOptions{.group = "truth",
                                       .workers = {.min = 2, .max = 4},
                                       .retry = RetryPolicy::fixed(50ms).attempts(1'000'000),
                                       .in_flight = in_flight,
                                       .drain_timeout = drain_timeout},
                       [this](const Message& message, Context&) { return handle(message); });
      std::stop_source ends;
      std::atomic<bool> over{false};
      std::jthread running{[&] {
        consumer->run(ends.get_token());
        over = true;
      }};
      ++runs_;
      const auto until = Clock::now() + dice_.between(2s, 8s);
      while (!stop.stop_requested() && (calm_ || Clock::now() < until) && !over) std::this_thread::sleep_for(10ms);
      if (over && !stop.stop_requested()) room_.faults.add("a consumer ended by itself");
      timed_end(room_, "a consumer", [&] {
        ends.request_stop();
        running.join();
      });
      if (const auto dead = consumer->status().dead; dead > 0)
        room_.faults.add(std::to_string(dead) + " messages were called dead");
      timed_end(room_, "a consumer's source", [&] { consumer.reset(); });
    }
  }

  Verdict handle(const Message& message) {
    ++deliveries_;
    const auto number = number_of(message.data());
    if (!number || *number >= book_.drawn()) {
      room_.faults.add("a message came that nobody sent: " + std::string{message.data().substr(0, 40)});
      return Verdict::done();
    }
    if (*number % 97 == 5 && book_.effects(*number) == 0 && !given_back_once(*number)) {
      ++retried_;
      return Verdict::retry("the first time it fails");
    }
    {
      const std::lock_guard lock{mutex_};
      if (book_.effect(*number) == 0) {
        ++first_effects_;
        firsts_[*number % keys].push_back(*number);
      }
    }
    return Verdict::done();
  }

  bool given_back_once(std::size_t number) {
    const std::lock_guard lock{mutex_};
    if (given_back_.size() <= number) given_back_.resize(number + 4'096);
    return std::exchange(given_back_[number], std::uint8_t{1}) != 0;
  }

  Room& room_;
  Book& book_;
  Client& client_;
  Dice dice_;
  std::mutex mutex_;
  std::vector<std::vector<std::size_t>> firsts_;
  std::vector<std::uint8_t> given_back_;
  std::atomic<std::uint64_t> deliveries_{0};
  std::atomic<std::uint64_t> first_effects_{0};
  std::atomic<std::uint64_t> retried_{0};
  std::atomic<bool> ordered_{false};
  std::atomic<bool> calm_{false};
  std::atomic<int> runs_{0};
  std::jthread thread_;
};

/// Does one fault after the other, until the time is over, and leaves all as it should be.
class Script {
 public:
  Script(Room& room, const Server& server, Wire& wire, Client& client, std::vector<Book*> books)
      : room_{room}, server_{server}, wire_{wire}, client_{client}, books_{std::move(books)} {}

  int play(const std::vector<Step>& steps, Clock::time_point until) {
    int played = 0;
    for (const Step& step : steps) {
      rest(step.before, until);
      if (Clock::now() >= until) break;
      line(text(books_.front()->age()) + ": " + std::string{row(step.fault).name} + ", " + text(step.hold));
      const auto guard = room_.watchdog.expect(std::string{row(step.fault).name}, step.hold + 180s);
      act(step);
      ++played;
    }
    return played;
  }

 private:
  static void rest(milliseconds time, Clock::time_point until) {
    std::this_thread::sleep_until(std::min(Clock::now() + time, until));
  }

  void act(const Step& step) {
    Dice dice{step.dice};
    // Every third fault of the server happens on a bad wire.
    const bool also = dice.one_in(3);
    const auto hold = [&] { std::this_thread::sleep_for(step.hold); };
    switch (step.fault) {
      case Fault::restart:
        server_.stop();
        server_.start();
        return;
      case Fault::stop:
        if (also) wire_.delay(30ms);
        server_.stop();
        hold();
        server_.start();
        wire_.delay(0ms);
        return;
      case Fault::kill:
        if (also) wire_.drip(true);
        server_.kill();
        hold();
        server_.start();
        wire_.drip(false);
        return;
      case Fault::freeze:
        server_.freeze();
        hold();
        if (also) wire_.cut();
        server_.thaw();
        return;
      case Fault::cut:
        for (auto left = dice.between(1, 5); left > 0; --left) {
          wire_.cut();
          std::this_thread::sleep_for(dice.between(5ms, 200ms));
        }
        return;
      case Fault::half_open:
        wire_.stall(true);
        hold();
        if (also) wire_.cut();
        wire_.stall(false);
        return;
      case Fault::delay:
        wire_.delay(dice.between(5ms, 300ms));
        hold();
        wire_.delay(0ms);
        return;
      case Fault::drip:
        wire_.drip(true);
        hold();
        wire_.drip(false);
        return;
      case Fault::lose_requests:
        wire_.lose_requests(true);
        hold();
        wire_.cut();
        std::this_thread::sleep_for(20ms);
        wire_.lose_requests(false);
        wire_.cut();  // whoever came meanwhile lost something, too
        return;
      case Fault::lose_answers:
        wire_.lose_answers(true);
        hold();
        wire_.cut();
        std::this_thread::sleep_for(20ms);
        wire_.lose_answers(false);
        wire_.cut();
        return;
      case Fault::full: {
        const std::string& channel = books_[0]->channel();  // the one that grows fast enough
        room_.backend.fill(channel, true);
        hold();
        std::this_thread::sleep_for(1s);  // it has to get there first
        room_.backend.fill(channel, false);
        return;
      }
      case Fault::memory:
        room_.backend.alarm(true);
        hold();
        room_.backend.alarm(false);
        return;
      case Fault::remove: {
        const auto which = dice.between(0, 2);
        for (std::int64_t i = 0; i < 2; ++i) {
          if (which != 2 && which != i) continue;
          room_.backend.remove(books_[static_cast<std::size_t>(i)]->channel());
          books_[static_cast<std::size_t>(i)]->removed();
        }
        hold();
        for (Book* book : books_) insist([&] { client_.declare(book->channel()); });
        return;
      }
      case Fault::forbid: {
        const std::string& channel = books_[static_cast<std::size_t>(dice.between(0, 1))]->channel();
        room_.backend.forbid(channel, true);
        hold();
        room_.backend.forbid(channel, false);
        return;
      }
      case Fault::too_large: return one(*books_[0], books_[0]->channel(), room_.backend.too_large());
      case Fault::unknown: return one(*books_[0], "nowhere-" + books_[0]->channel(), 10);
    }
  }

  /// One that must not get through. Where nothing else is wrong it is rejected; it is tried until it is.
  void one(Book& book, const std::string& channel, std::size_t size) {
    const auto start = Clock::now();
    auto client = room_.backend.client();
    auto to = client->channel(channel);
    const std::size_t number = book.draw();
    if (book.full()) return;
    book.forbid(number);
    const Event event = event_of(book, number, size);
    Outcome outcome;
    while (since(start) < 60s) {
      const auto asked = Clock::now();
      outcome = to.publisher->publish(event, 5s);
      const auto late = since(asked) - 5s;
      if (late > grace + room_.canary.stalled(asked)) room_.faults.add("publish came back " + text(late) + " too late");
      if (outcome.status == Outcome::Status::confirmed) {
        room_.faults.add("one that cannot be stored was confirmed, to " + channel);
        break;
      }
      if (outcome.status == Outcome::Status::rejected) break;
      std::this_thread::sleep_for(20ms);
    }
    if (outcome.status != Outcome::Status::rejected) {
      room_.faults.add("not rejected within a minute, to " + channel + ": " + outcome.error);
    }
    timed_end(room_, "a publisher of one", [&] {
      to = {};
      client.reset();
    });
  }

  Room& room_;
  const Server& server_;
  Wire& wire_;
  Client& client_;
  std::vector<Book*> books_;
};

void hold_against(const Book& book, Faults& faults, bool deduplicates) {
  std::size_t lost = 0;
  std::size_t false_refusals = 0;
  std::size_t twice = 0;
  std::string examples;
  std::size_t first = 0;
  while (first < book.drawn() && !book.must(first)) ++first;
  examples = " the first that must be there is " + std::to_string(first) + ";";
  for (std::size_t number = 0; number < book.drawn(); ++number) {
    const bool there = book.stored(number) > 0;
    if (book.must(number) && !there) {
      if (++lost <= 5) {
        examples += " lost " + std::to_string(number) + ", confirmed at " + std::to_string(book.when(number)) + " ms";
        if ((book.mark(number) & Book::repeated) != 0) examples += ", before that " + book.reason(number);
      }
    }
    if (book.must_not(number) && there) {
      if (++false_refusals <= 5) examples += " there " + std::to_string(number) + " (" + book.reason(number) + ")";
    }
    if (book.stored(number) > 1 && (deduplicates || (book.mark(number) & Book::repeated) == 0)) {
      if (++twice <= 5) examples += " twice " + std::to_string(number);
    }
  }
  if (lost > 0) faults.add(book.channel() + ": " + std::to_string(lost) + " confirmed events are not there;" + examples);
  if (false_refusals > 0) {
    faults.add(book.channel() + ": " + std::to_string(false_refusals) +
               " events are there that were called not stored:" + examples);
  }
  if (twice > 0) faults.add(book.channel() + ": " + std::to_string(twice) + " events are there twice;" + examples);
}

}  // namespace

std::size_t heap_in_use() {
#if defined(__SANITIZE_ADDRESS__)
  return __sanitizer_get_current_allocated_bytes();
#else
  return ::mallinfo2().uordblks;
#endif
}

std::size_t play(const Plan& plan, int round, Backend& backend, const Server& server, Wire& wire, Faults& faults) {
  const std::string suffix = std::to_string(plan.seed) + "-" + std::to_string(round);
  Book many{"truth-many-" + suffix, plan.capacity};
  Book work{"truth-work-" + suffix, plan.capacity / 4};
  Room room{plan, backend, faults};
  const std::uint64_t seed = plan.seed * 1'000 + static_cast<std::uint64_t>(round);

  auto client = backend.client();
  client->declare(many.channel());
  client->declare(work.channel());
  const std::size_t before = heap_in_use();
  std::size_t calm = 0;
  {
    Flood first{room, many, seed + 1, true, nullptr};
    Flood second{room, many, seed + 2, true, client.get()};
    Flood steady{room, work, seed + 3, false, client.get()};
    Drinker drinker{room, work, *client, seed + 4};

    const auto start = Clock::now();
    const auto until = start + plan.length;
    const auto freeze = std::min<milliseconds>(20s, plan.length / 8);
    Script script{room, server, wire, *client, {&many, &work}};
    std::atomic<std::size_t> peak{0};
    std::jthread reporter{[&](const std::stop_token& stop) {
      for (int tick = 1; !stop.stop_requested(); ++tick) {
        std::this_thread::sleep_for(100ms);
        peak = std::max(peak.load(), heap_in_use());
        if (tick % 100 != 0) continue;
        line(std::to_string(since(start).count() / 1'000) + " s: " + std::to_string(many.drawn() + work.drawn()) + " events, " +
             std::to_string(drinker.first_effects()) + " effects, heap " + std::to_string(heap_in_use() >> 20U) + " MB");
      }
    }};
    const int played = script.play(schedule(plan.backend, seed, 1'000, freeze, plan.only), until);
    for (Flood* each : {&first, &second, &steady}) each->stop();
    for (Flood* each : {&first, &second, &steady}) {
      const auto guard = room.watchdog.expect("the last outcomes", patience);
      each->join();
    }
    drinker.settle_down();

    const auto missing = [&] {
      std::size_t count = 0;
      for (std::size_t number = 0; number < work.drawn(); ++number) {
        count += work.must(number) && work.effects(number) == 0 ? 1U : 0U;
      }
      return count;
    };
    const auto wait_from = Clock::now();
    while (missing() > 0 && since(wait_from) < patience) std::this_thread::sleep_for(50ms);
    if (const auto count = missing(); count > 0) {
      faults.add(std::to_string(count) + " confirmed messages never came to the consumer");
    }
    calm = heap_in_use();
    // What a client keeps of what may still be stored is let go with it.
    const auto settle_from = Clock::now();
    while (calm > before + growth_limit && since(settle_from) < 20s) {
      std::this_thread::sleep_for(100ms);
      calm = heap_in_use();
    }
    if (calm > before + growth_limit) {
      faults.add("the heap grew from " + std::to_string(before >> 10U) + " KB to " + std::to_string(calm >> 10U) +
                 " KB, with nothing on its way");
    }
    drinker.stop();
    {
      const auto guard = room.watchdog.expect("the consumer", patience);
      drinker.join();
    }
    reporter.request_stop();
    reporter.join();
    line(std::to_string(played) + " faults; " + std::to_string(room.ends) + " clients ended, the slowest in " +
         std::to_string(room.longest_end_ms) + " ms; the latest outcome " + std::to_string(room.latest_ms) +
         " ms after its deadline; heap " + std::to_string(before >> 20U) + " MB before, " + std::to_string(peak >> 20U) +
         " MB at most, " + std::to_string(calm >> 20U) + " MB after");
    line("consumer: " + std::to_string(drinker.deliveries()) + " deliveries, " + std::to_string(drinker.first_effects()) +
         " effects, " + std::to_string(drinker.retried()) + " retried, " + std::to_string(drinker.runs()) + " runs");

    for (std::size_t number = 0; number < work.drawn(); ++number) {
      if (work.must_not(number) && work.effects(number) > 0) {
        faults.add("the consumer got " + std::to_string(number) + ", which was called " + work.reason(number));
      }
    }
    const std::uint64_t most_again =
        drinker.retried() + room.resubmitted + in_flight * static_cast<std::uint64_t>(drinker.runs() + 6 * played + 2);
    if (drinker.deliveries() > drinker.first_effects() + most_again) {
      faults.add("redelivered without bound: " + std::to_string(drinker.deliveries()) + " deliveries");
    }
    if (drinker.ordered()) {
      for (const auto& key : drinker.firsts()) {
        std::size_t last = 0;
        for (const std::size_t number : key) {
          if (work.mark(number) != Book::confirmed) continue;
          if (number < last) faults.add("out of order: " + std::to_string(number) + " after " + std::to_string(last));
          last = std::max(last, number);
        }
      }
    }
  }
  timed_end(room, "the client", [&] { client.reset(); });

  for (Book* book : {&many, &work}) {
    const bool group_took_them = plan.backend == "rabbitmq" && book == &work;
    if (!group_took_them) {
      const auto guard = room.watchdog.expect("reading back", 300s);
      const auto start = Clock::now();
      std::size_t count = 0;
      insist([&] {
        backend.read_back(book->channel(), [&](std::string_view payload) {
          ++count;
          const auto number = number_of(payload);
          if (number && *number < book->drawn()) {
            book->found(*number);
          } else {
            faults.add("a message is there that nobody sent");
          }
        });
      });
      hold_against(*book, faults, backend.deduplicates());
      line(book->channel() + ": " + std::to_string(count) + " there, read in " + text(since(start)));
    }
    const auto& counts = book->counts();
    line(book->channel() + ": " + std::to_string(book->drawn()) + " events; " + std::to_string(counts.confirmed) +
         " confirmed, " + std::to_string(counts.rejected) + " rejected, " + std::to_string(counts.retryable) + " retryable, " +
         std::to_string(counts.unknown) + " unknown");
    backend.remove(book->channel());
  }
  return calm;
}

}  // namespace penstock::truth
