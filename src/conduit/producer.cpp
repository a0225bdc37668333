// SPDX-License-Identifier: Apache-2.0
#include "conduit/producer.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "conduit/delivery.hpp"
#include "conduit/properties.hpp"
#include "penstock/envelope.hpp"
#include "penstock/random.hpp"

namespace penstock::conduit {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kTick = 100ms;            ///< how late a deadline may be noticed
constexpr auto kShortestBackoff = 20ms;  ///< one event that the broker refuses is no reason to keep the others waiting
constexpr auto kLongestBackoff = 10s;
constexpr auto kReportsAfterFatal = 1s;
constexpr auto kRefreshInterval = 500ms;
constexpr std::size_t kMostSuspects = 10'000;
constexpr char kBehindAFailure[] = "not sent: an earlier event of its key failed";

/// Whether an earlier event of the same key in the batch has not been, and will not be, stored.
bool follows_a_failure(const Ledger::Batch& batch, std::span<const Event> events, std::size_t index) {
  if (events[index].key.empty()) return false;
  for (std::size_t i = 0; i < index; ++i) {
    if (batch.waits[i] == nullptr && !batch.outcomes[i].confirmed() && events[i].key == events[index].key) return true;
  }
  return false;
}

/// Whether an earlier event of the same key in the batch is still on its way.
bool follows_an_open_one(const Ledger::Batch& batch, std::span<const Event> events, std::size_t index) {
  for (std::size_t i = 0; i < index; ++i) {
    if (batch.waits[i] != nullptr && events[i].key == events[index].key) return true;
  }
  return false;
}

constexpr char kAborted[] = "the client was shut down before Kafka answered; the event may be stored";

}  // namespace

struct Producer::Prepared {
  const Event* event = nullptr;
  std::optional<Outcome> refused{};
  RdHeaders headers{};
  std::string identity{};
};

Producer::Producer(ConduitOptions options) : options_{std::move(options)}, log_{options_.logger, "conduit: "} {
  connect();
  thread_ = std::jthread{[this](const std::stop_token& stop) { run(stop); }};
}

Producer::~Producer() {
  {
    const std::lock_guard lock{mutex_};
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.request_stop();
  thread_.join();
  disconnect(kAborted, false);
  fulfil();
}

void Producer::with_client(const std::function<void(rd_kafka_t*)>& use) {
  const std::lock_guard lock{mutex_};
  use(client_.get());
}

// --- sending ----------------------------------------------------------------------------------------------------------------

std::vector<Producer::Prepared> Producer::prepare(const std::string& topic, std::span<const Event> events) const {
  std::vector<Prepared> result(events.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    Prepared& prepared = result[i];
    prepared.event = &events[i];
    try {
      prepared.headers = to_headers(events[i]);
      prepared.identity.reserve(topic.size() + events[i].source.size() + events[i].id.size() + 2);
      prepared.identity.append(topic).append(1, '\0').append(events[i].source).append(1, '\0').append(events[i].id);
    } catch (const InvalidEvent& error) {
      prepared.refused = Outcome{Outcome::Status::rejected, error.what()};
    }
  }
  return result;
}

std::future<Outcomes> Producer::submit(const std::string& topic, std::span<const Event> events,
                                       std::chrono::milliseconds timeout) {
  const auto deadline = SteadyClock::now() + bounded(timeout);
  std::vector<Prepared> prepared = prepare(topic, events);
  std::future<Outcomes> future;
  {
    std::unique_lock lock{mutex_};
    Ledger::Batch& batch = ledger_.open(events.size(), deadline);
    future = batch.promise.get_future();
    std::optional<Outcome> out_of_time;
    for (std::size_t i = 0; i < prepared.size(); ++i) {
      if (batch.any_failed && follows_a_failure(batch, events, i)) {
        ledger_.settle(batch, i, {Outcome::Status::retryable, kBehindAFailure});
        continue;
      }
      if (prepared[i].refused) {
        ledger_.settle(batch, i, std::move(*prepared[i].refused));
        continue;
      }
      // Once one event found no room, a later one must not slip past it.
      if (out_of_time) {
        ledger_.settle(batch, i, *out_of_time);
        continue;
      }
      Outcome why;
      const Handover result = hand_over(lock, batch, events, i, topic, prepared[i], why);
      if (result == Handover::taken) continue;
      if (result == Handover::out_of_time) out_of_time = why;
      ledger_.settle(batch, i, std::move(why));
    }
    ledger_.seal(batch);
  }
  fulfil();
  return future;
}

Producer::Handover Producer::hand_over(std::unique_lock<std::mutex>& lock, Ledger::Batch& batch, std::span<const Event> events,
                                       std::size_t index, const std::string& topic, Prepared& event, Outcome& why) {
  if (ledger_.adopt(batch, index, event.identity)) return Handover::taken;
  const bool suspect = suspects_.contains(event.identity);
  const std::string& key = event.event->key;
  while (true) {
    if (stopping_) {
      why = {Outcome::Status::retryable, "the client is shutting down"};
      return Handover::out_of_time;
    }
    if (client_ == nullptr) {
      why = {Outcome::Status::retryable, "the Kafka client met a fatal error and is being made anew"};
    } else if (!key.empty() && !partitions_.proved(topic, key) && follows_an_open_one(batch, events, index)) {
      why = {Outcome::Status::retryable,
             "not sent: Kafka has confirmed nothing in its partition yet, and an earlier event of its key waits for that" +
                 trouble_.suffix()};
    } else if (alone_ || (suspect && ledger_.unreported() > 0)) {
      why = {Outcome::Status::retryable, "another event is being sent alone; there was no time left to wait for it"};
    } else {
      Ledger::Slot& slot = ledger_.place(batch, index, std::move(event.identity));
      const rd_kafka_resp_err_t error = produce(topic, event, slot);
      if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
        alone_ = suspect;
        return Handover::taken;
      }
      event.identity = std::move(slot.identity);
      ledger_.discard(slot);
      why = outcome_of(error, RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
      if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL && error != RD_KAFKA_RESP_ERR__FATAL) {
        if (error != RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE) refresh_topic(topic);  // the topic was missing or forbidden
        return why.status == Outcome::Status::rejected ? Handover::refused : Handover::out_of_time;
      }
    }
    if (SteadyClock::now() >= batch.deadline) return Handover::out_of_time;
    changed_.wait_until(lock, batch.deadline);
    // What the call sent before may have failed meanwhile, and a new client would know of no gap.
    if (batch.any_failed && follows_a_failure(batch, events, index)) {
      why = {Outcome::Status::retryable, kBehindAFailure};
      return Handover::refused;
    }
  }
}

rd_kafka_resp_err_t Producer::produce(const std::string& topic, Prepared& event, Ledger::Slot& slot) {
  rd_kafka_topic_t* const handle = partitions_.handle(client_.get(), topic);
  if (handle == nullptr) return RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
  std::array<rd_kafka_vu_t, 6> fields{};
  std::size_t count = 0;
  const auto add = [&](rd_kafka_vtype_t type) -> rd_kafka_vu_t& {
    fields.at(count).vtype = type;
    return fields.at(count++);
  };
  add(RD_KAFKA_VTYPE_RKT).u.rkt = handle;
  add(RD_KAFKA_VTYPE_MSGFLAGS).u.i = RD_KAFKA_MSG_F_COPY;
  add(RD_KAFKA_VTYPE_OPAQUE).u.ptr = &slot;
  const auto add_bytes = [&](rd_kafka_vtype_t type, const std::string& bytes) {
    auto& field = add(type).u.mem;
    field.ptr = const_cast<char*>(bytes.data());  // NOLINT(cppcoreguidelines-pro-type-const-cast): it is copied
    field.size = bytes.size();
  };
  if (!event.event->key.empty()) add_bytes(RD_KAFKA_VTYPE_KEY, event.event->key);
  if (event.event->data) add_bytes(RD_KAFKA_VTYPE_VALUE, *event.event->data);
  if (event.headers) add(RD_KAFKA_VTYPE_HEADERS).u.headers = event.headers.get();
  const RdError error{rd_kafka_produceva(client_.get(), fields.data(), count)};
  if (error) return rd_kafka_error_code(error.get());
  static_cast<void>(event.headers.release());  // the message owns them now
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/// Asks the brokers again about a topic that librdkafka holds to be missing or forbidden, and would for minutes. Does not wait.
void Producer::refresh_topic(const std::string& topic) {
  const auto now = SteadyClock::now();
  if (now < next_refresh_) return;
  rd_kafka_topic_t* const handle = partitions_.handle(client_.get(), topic);
  if (handle == nullptr) return;
  next_refresh_ = now + kRefreshInterval;
  const rd_kafka_metadata_t* metadata = nullptr;
  if (rd_kafka_metadata(client_.get(), 0, handle, &metadata, 0) == RD_KAFKA_RESP_ERR_NO_ERROR) {
    rd_kafka_metadata_destroy(metadata);
  }
}

// --- the thread -------------------------------------------------------------------------------------------------------------

void Producer::connect() {
  Conf conf = producer_conf(options_);
  rd_kafka_conf_set_events(conf.get(), RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
  rd_kafka_conf_set_opaque(conf.get(), &trouble_);
  Trouble::listen(conf.get(), &Trouble::note);
  Client client = make_client(RD_KAFKA_PRODUCER, std::move(conf));
  Queue queue{rd_kafka_queue_get_main(client.get())};
  rd_kafka_set_log_queue(client.get(), nullptr);
  const std::lock_guard lock{mutex_};
  client_ = std::move(client);
  queue_ = std::move(queue);
  changed_.notify_all();
}

void Producer::run(const std::stop_token& stop) {
  SteadyClock::duration backoff = kShortestBackoff;
  auto connected = SteadyClock::now();
  while (!stop.stop_requested()) {
    try {
      if (!client_) {
        {
          std::unique_lock lock{mutex_};
          const auto wait = std::chrono::duration<double>{backoff} * (0.5 + 0.5 * Random::system().unit());
          changed_.wait_for(lock, std::chrono::duration_cast<SteadyClock::duration>(wait), [this] { return stopping_; });
          backoff = std::min<SteadyClock::duration>(backoff * 2, kLongestBackoff);
        }
        if (stop.stop_requested()) break;
        connect();
        connected = SteadyClock::now();
        continue;
      }
      serve_next(queue_.get());
      {
        const std::lock_guard lock{mutex_};
        ledger_.sweep(SteadyClock::now(), trouble_.suffix());
      }
      if (fatal()) {
        if (SteadyClock::now() - connected > kLongestBackoff) backoff = kShortestBackoff;
        disconnect("the Kafka client met a fatal error; the event may be stored", true);
      }
      fulfil();
    } catch (const std::exception& error) {
      log_.say_rarely(LogLevel::error, "thread", std::string{"the producer's thread: "} + error.what());
    }
  }
}

void Producer::serve_next(rd_kafka_queue_t* queue) {
  RdEvent event{rd_kafka_queue_poll(queue, timeout_ms(kTick))};
  if (!event) return;
  serve(event.get());
  // Only now is there room in the client's queue: a message counts until its report is destroyed. Whoever found it full and
  // has not begun to wait yet holds the mutex.
  event.reset();
  { const std::lock_guard lock{mutex_}; }
  changed_.notify_all();
}

void Producer::serve(rd_kafka_event_t* event) {
  switch (rd_kafka_event_type(event)) {
    case RD_KAFKA_EVENT_DR: serve_reports(event); return;
    case RD_KAFKA_EVENT_ERROR: {
      const rd_kafka_resp_err_t error = rd_kafka_event_error(event);
      log_.say_rarely(error == RD_KAFKA_RESP_ERR__FATAL ? LogLevel::error : LogLevel::warn, rd_kafka_err2name(error),
                      describe(error) + ": " + rd_kafka_event_error_string(event));
      trouble_.connection(error, rd_kafka_event_error_string(event));
      return;
    }
    case RD_KAFKA_EVENT_LOG: {
      const char* facility = nullptr;
      const char* text = nullptr;
      int level = 0;
      if (rd_kafka_event_log(event, &facility, &text, &level) == 0) log_.relay(level, facility, text);
      return;
    }
    default: return;
  }
}

void Producer::serve_reports(rd_kafka_event_t* event) {
  {
    const std::lock_guard lock{mutex_};
    while (const rd_kafka_message_t* message = rd_kafka_event_message_next(event)) {
      if (message->_private == nullptr) continue;
      if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        trouble_.over();
        partitions_.prove(*message);
      }
      report(*static_cast<Ledger::Slot*>(message->_private), message->err, rd_kafka_message_status(message));
    }
    if (ledger_.unreported() == 0) alone_ = false;
  }
}

void Producer::report(Ledger::Slot& slot, rd_kafka_resp_err_t error, rd_kafka_msg_status_t status) {
  Outcome outcome = outcome_of(error, status);
  if (error == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && !slot.alone) {
    // The broker judges a whole batch. Which event was too large shows when each is sent alone.
    if (suspects_.size() >= kMostSuspects) suspects_.clear();
    suspects_.insert(slot.identity);
    outcome.status = Outcome::Status::retryable;
    outcome.error = "the broker refused the batch as too large; the event will be sent alone next time";
  } else if (!suspects_.empty()) {
    suspects_.erase(slot.identity);
  }
  ledger_.report(slot, outcome);
}

bool Producer::fatal() {
  std::array<char, 512> reason{};
  const rd_kafka_resp_err_t error = rd_kafka_fatal_error(client_.get(), reason.data(), reason.size());
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) return false;
  log_.say(LogLevel::error, "fatal error, the client is made anew: " + describe(error) + ": " + reason.data());
  return true;
}

void Producer::disconnect(const std::string& why, bool wait_for_reports) {
  Client client;
  Queue queue;
  Partitions partitions;
  {
    const std::lock_guard lock{mutex_};
    client = std::move(client_);
    queue = std::move(queue_);
    partitions = std::exchange(partitions_, {});
  }
  if (!client) return;
  rd_kafka_purge(client.get(), RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
  if (wait_for_reports) {
    // What the client still knows is better than `unknown`.
    const auto until = SteadyClock::now() + kReportsAfterFatal;
    const auto outstanding = [this] {
      const std::lock_guard lock{mutex_};
      return ledger_.unreported() > 0;
    };
    while (outstanding() && SteadyClock::now() < until) {
      serve_next(queue.get());
    }
  }
  {
    const std::lock_guard lock{mutex_};
    ledger_.report_all({Outcome::Status::unknown, why});
    alone_ = false;
  }
  changed_.notify_all();
  partitions.release();
  queue.reset();
  client.reset();
}

void Producer::fulfil() {
  std::vector<Ledger::Completed> completed;
  {
    const std::lock_guard lock{mutex_};
    completed = ledger_.take_completed();
  }
  for (Ledger::Completed& batch : completed) batch.promise.set_value(std::move(batch.outcomes));
}

}  // namespace penstock::conduit
