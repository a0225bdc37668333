// SPDX-License-Identifier: Apache-2.0
#include "beacon/session.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <exception>
#include <string_view>
#include <utility>

#include "beacon/carriage.hpp"
#include "beacon/names.hpp"
#include "beacon/partitions.hpp"
#include "beacon/reply.hpp"
#include "penstock/envelope.hpp"

namespace penstock::beacon {
namespace {

using Status = Outcome::Status;

constexpr milliseconds kConnectTimeout{5'000};
constexpr milliseconds kApiWait{1'000};
constexpr milliseconds kTick{20};  // with events outstanding: how late a deadline may be noticed
constexpr std::size_t kBurst = 32;
constexpr milliseconds kIdleTick{1'000};  // without: a closed connection wakes us by itself
/// Right after a server came back its streams may not be there yet.
constexpr std::chrono::seconds kRecovery{5};

std::string quoted_subject(const std::string& text) {
  // "Permissions Violation for Publish to "shop.orders"", with or without the quotes
  const auto at = text.find("ublish to ");
  if (at == std::string::npos) return {};
  std::string subject;
  for (const char c : text.substr(at + 10)) {
    if (c == '"' || c == '\'') continue;
    if (c == ' ') break;
    subject += c;
  }
  return subject;
}

}  // namespace

/// What the client library's threads call; outlives the session if it must.
class Session::Ear final : public Listener {
 public:
  explicit Ear(std::shared_ptr<Speech> speech) : speech_{std::move(speech)} {}

  void on_message(natsMsg* message) override {
    const std::string_view subject = natsMsg_GetSubject(message);
    const auto dot = subject.rfind('.');
    if (dot == std::string_view::npos) return;
    std::uint64_t token = 0;
    const auto digits = subject.substr(dot + 1);
    if (std::from_chars(digits.data(), digits.data() + digits.size(), token).ptr != digits.data() + digits.size()) return;
    if (natsMsg_IsNoResponders(message)) {
      ledger.mark_unrouted(token);
      poke();
      return;
    }
    const auto size = natsMsg_GetDataLength(message);
    ledger.settle(token, outcome_of_reply({natsMsg_GetData(message), static_cast<std::size_t>(std::max(size, 0))}));
  }

  void on_error(const std::string& text) override { speech_->say_rarely(LogLevel::warn, "error", text); }

  void on_closed() override {
    ledger.wake();
    poke();
  }

  void poke() {
    {
      const std::lock_guard lock{mutex_};
      poked_ = true;
    }
    poke_.notify_all();
  }
  void wait(milliseconds longest, const std::stop_token& stop) {
    std::unique_lock lock{mutex_};
    poke_.wait_for(lock, stop, longest, [&] { return poked_; });
    poked_ = false;
  }

  Ledger ledger;

 private:
  const std::shared_ptr<Speech> speech_;
  std::mutex mutex_;
  std::condition_variable_any poke_;
  bool poked_ = false;
};

/// The same for one connection: what it refuses is counted, so it must not be taken for a refusal of the next one.
class Session::LinkEar final : public Listener {
 public:
  explicit LinkEar(std::shared_ptr<Ear> ear) : ear_{std::move(ear)}, connection_{ear_->ledger.connection()} {}
  void on_message(natsMsg* message) override { ear_->on_message(message); }
  void on_error(const std::string& text) override {
    ear_->on_error(text);
    if (const auto subject = quoted_subject(text); !subject.empty()) ear_->ledger.deny(connection_, subject, text);
  }
  void on_closed() override { ear_->on_closed(); }

 private:
  const std::shared_ptr<Ear> ear_;
  const std::uint64_t connection_;
};

Session::Session(Servers servers, std::shared_ptr<Logger> logger)
    : servers_{std::move(servers)},
      speech_{std::make_shared<Speech>(std::move(logger))},
      ear_{std::make_shared<Ear>(speech_)} {}

Session::~Session() {
  const Outcome ended{Status::unknown, "the publisher ended before the server answered"};
  ledger().settle_sent(ended);
  for (std::jthread* each : {&thread_, &sender_, &sweeper_}) each->request_stop();
  for (std::jthread* each : {&thread_, &sender_, &sweeper_}) {
    if (each->joinable()) each->join();
  }
  ledger().settle_sent(ended);
}

Ledger& Session::ledger() const noexcept { return ear_->ledger; }

std::shared_ptr<Session::Link> Session::await_link(Instant deadline) {
  std::unique_lock lock{mutex_};
  if (!wanted_) {
    wanted_ = true;
    thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
    sender_ = std::jthread{[this](const std::stop_token& stop) { send(stop); }};
    sweeper_ = std::jthread{[this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        ledger().sweep(SteadyClock::now());
        ledger().wait_to_sweep(kTick, stop);
      }
    }};
  }
  changed_.wait_until(lock, deadline, [&] { return (link_ && link_->connection->alive()) || (!link_ && !trying_); });
  return link_;
}

std::future<Outcomes> Session::submit(const std::shared_ptr<Window>& window, std::span<const Event> events,
                                      milliseconds timeout) {
  const auto deadline = SteadyClock::now() + std::max(timeout, milliseconds{0});
  std::vector<std::uint32_t> partitions;
  if (window->partitions > 0) {
    partitions.reserve(events.size());
    for (const Event& event : events) partitions.push_back(partition_of(event, window->partitions));
  }
  const auto batch = ledger().enter(events.size(), window, deadline, std::move(partitions));
  auto future = batch->promise.get_future();
  if (events.empty()) return future;

  const auto link = await_link(deadline);
  const bool connected = link && link->connection->alive();
  std::string error;
  if (!connected) {
    const std::lock_guard lock{mutex_};
    error = last_error_.empty() ? "not connected" : last_error_;
  }
  const auto usable = [&] { return link->connection->alive(); };
  Loader loader{window->stream};
  std::string reply;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const std::uint64_t token = batch->first + i;
    Ledger::Letter letter{.batch = batch, .index = i, .bytes = 0, .message = {}, .connection = {}};
    try {
      if (!connected) {
        encode_headers(events[i], Binding::nats, [](std::string_view, const auto&) {});
        continue;
      }
      reply.assign(link->inbox).append(1, '.').append(std::to_string(token));
      letter.message = loader.load(events[i], batch->subject(i), reply);
    } catch (const std::exception& invalid) {
      ledger().settle(token, {Status::rejected, invalid.what()});
      continue;
    }
    letter.bytes = events[i].data ? events[i].data->size() : 0;
    if (const auto place = ledger().take_place(*batch, i, letter.bytes, usable); place != Ledger::Place::taken) {
      // Nothing behind this event may overtake it.
      ledger().settle_waiting(
          *batch, i,
          {Status::retryable, place == Ledger::Place::late ? "not sent within the timeout: too many events wait before it"
                                                           : "not sent: the connection was lost"});
      break;
    }
    letter.connection = {link, link->connection.get()};  // all of the link lives as long
    mail_.post(std::move(letter));
  }
  if (!connected) ledger().settle_waiting(*batch, 0, {Status::retryable, "not sent: " + error});
  ear_->poke();
  return future;
}

void Session::send(const std::stop_token& stop) {
  std::vector<Ledger::Letter> letters;
  while (mail_.collect(letters, stop)) {
    for (std::span<Ledger::Letter> left{letters}; !left.empty();) {
      // A few at a time: should the client library block, those that it does not have yet are certainly not stored.
      const std::size_t ready = ledger().depart(left.first(std::min(left.size(), kBurst)));
      for (Ledger::Letter& letter : left.first(ready)) {
        if (letter.batch) send(letter);
        letter = {};
      }
      left = left.subspan(ready);
    }
    letters.clear();
  }
}

void Session::send(Ledger::Letter& letter) {
  const std::uint64_t token = letter.batch->first + letter.index;
  // Behind one that failed nothing more goes out on its connection.
  if (!letter.connection->alive()) return ledger().settle(token, {Status::retryable, "not sent: the connection was lost"});
  const auto status = natsConnection_PublishMsg(letter.connection->get(), letter.message.get());
  if (status == NATS_OK) return;
  auto outcome = outcome_of_send(status, last_error(status));
  const bool final = outcome.status == Status::rejected;
  ledger().settle(token, std::move(outcome));
  if (final) return;
  letter.connection->condemn();
  ear_->poke();
}

void Session::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (link_ && ledger().stuck(SteadyClock::now())) link_->connection->condemn();
      if (link_ && !link_->connection->alive()) disconnect("the connection was lost");
      if (!link_ && SteadyClock::now() >= next_attempt_) connect();
      if (link_) answer_unrouted();
    } catch (const std::exception& failure) {
      speech_->say_rarely(LogLevel::error, "thread", failure.what());
    }
    auto rest = kTick;
    if (ledger().idle()) {
      rest = link_
                 ? kIdleTick
                 : std::chrono::ceil<milliseconds>(std::max(next_attempt_ - SteadyClock::now(), SteadyClock::duration::zero()));
    }
    ear_->wait(rest, stop);
  }
  disconnect("the publisher ended before the server answered", LogLevel::debug);
}

void Session::connect() {
  {
    const std::lock_guard lock{mutex_};
    trying_ = true;
  }
  std::shared_ptr<Link> made;
  std::string error;
  try {
    made = std::make_shared<Link>();
    made->ear = std::make_shared<LinkEar>(ear_);
    made->connection = std::make_shared<Connection>(servers_, announced_, made->ear, kConnectTimeout);
    made->inbox = Connection::new_inbox();
    made->answers = made->connection->listen(made->inbox + ".*");
    made->since = SteadyClock::now();
    made->first = !connected_before_;
    announced_ = made->connection->announced();
  } catch (const std::exception& failure) {
    made.reset();
    error = failure.what();
  }
  if (made) {
    backoff_.reset();
    connected_before_ = true;
    speech_->say(LogLevel::info, "connected to " + servers_.label);
  } else {
    next_attempt_ = SteadyClock::now() + backoff_.next();
    speech_->say_rarely(LogLevel::warn, "connect", error);
  }
  {
    const std::lock_guard lock{mutex_};
    trying_ = false;
    link_ = std::move(made);
    last_error_ = std::move(error);
  }
  changed_.notify_all();
}

void Session::disconnect(const std::string& why, LogLevel level) {
  std::shared_ptr<Link> gone;
  {
    const std::lock_guard lock{mutex_};
    gone = std::exchange(link_, nullptr);
    trying_ = true;  // at once, unless the back-off of earlier failures still runs
    last_error_ = why;
  }
  if (!gone) return;
  ledger().settle_sent({Status::unknown, why});
  ledger().wake();
  gone->connection->close();  // others may hold it a little longer, and nothing of it may go out beside a new one
  next_attempt_ = SteadyClock::now();
  speech_->say_rarely(level, "lost", why + " (" + servers_.label + ")");
}

void Session::answer_unrouted() {
  const auto open = ledger().unrouted();
  if (open.empty()) return;
  std::map<const Window*, Outcome> asked;  // one question per channel and turn
  for (const auto& [token, window, subject] : open) {
    auto known = asked.find(window.get());
    if (known == asked.end()) known = asked.emplace(window.get(), why_unrouted(*link_, *window, *subject)).first;
    ledger().settle(token, known->second);
  }
}

Outcome Session::why_unrouted(const Link& link, const Window& window, const std::string& subject) const {
  const bool recovering = !link.first && SteadyClock::now() - link.since < kRecovery;
  const auto verdict = [&](const std::string& text) {
    return Outcome{recovering ? Status::retryable : Status::rejected, text};
  };
  const auto js = jetstream(*link.connection, kApiWait);
  jsStreamInfo* found = nullptr;
  jsErrCode code{};
  const auto status = js_GetStreamInfo(&found, js.get(), window.stream.c_str(), nullptr, &code);
  const StreamInfoHandle info{found};
  if (status == NATS_OK) {
    const auto& config = *info->Config;
    const std::vector<std::string> taken{config.Subjects, config.Subjects + config.SubjectsLen};
    const bool listed = std::any_of(taken.begin(), taken.end(), [&](const auto& pattern) { return covers(pattern, subject); });
    if (listed) return {Status::retryable, "the stream \"" + window.stream + "\" is not ready"};
    if (window.partitions != partitions_in(window.channel, taken)) {
      return verdict(disagreement(window.channel, taken, "channel", window.partitions));
    }
    return verdict("the stream \"" + window.stream + "\" does not take the subject \"" + subject +
                   "\": add it to the stream's subjects");
  }
  if (status == NATS_NOT_FOUND || code == JSStreamNotFoundErr) {
    return verdict("no stream takes the subject \"" + subject + "\": declare it first");
  }
  if (status == NATS_NO_RESPONDERS || code == JSNotEnabledErr || code == JSNotEnabledForAccountErr) {
    return verdict("JetStream is not enabled: run nats-server with --jetstream, and enable it for the account");
  }
  return {Status::retryable, "no stream takes the subject \"" + subject + "\" now: " + last_error(status)};
}

}  // namespace penstock::beacon
