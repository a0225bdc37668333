// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "conduit/client_log.hpp"
#include "conduit/handles.hpp"
#include "conduit/ledger.hpp"
#include "conduit/partitions.hpp"
#include "conduit/trouble.hpp"
#include "penstock/conduit.hpp"
#include "penstock/publisher.hpp"

namespace penstock::conduit {

/// The one producer of a Conduit, shared by its channels, with the one thread that hears delivery reports and keeps deadlines.
/// A client that met a fatal error is replaced, with back-off.
///
/// Thread safety: any thread. Lifetime: destroying it gives every outstanding event the outcome `unknown` and joins its thread;
/// no call may be running.
class Producer {
 public:
  /// Throws std::invalid_argument for what librdkafka does not take.
  explicit Producer(ConduitOptions options);
  ~Producer();
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;

  std::future<Outcomes> submit(const std::string& topic, std::span<const Event> events, std::chrono::milliseconds timeout);

  /// Runs `use` with the client of the moment, which is null while a new one is being made.
  void with_client(const std::function<void(rd_kafka_t*)>& use);

 private:
  struct Prepared;
  /// Why an event was not handed over.
  enum class Handover : std::uint8_t { taken, refused, out_of_time };

  std::vector<Prepared> prepare(const std::string& topic, std::span<const Event> events) const;
  Handover hand_over(std::unique_lock<std::mutex>& lock, Ledger::Batch& batch, std::span<const Event> events, std::size_t index,
                     const std::string& topic, Prepared& event, Outcome& why);
  rd_kafka_resp_err_t produce(const std::string& topic, Prepared& event, Ledger::Slot& slot);

  void run(const std::stop_token& stop);
  void connect();
  void serve_next(rd_kafka_queue_t* queue);
  void serve(rd_kafka_event_t* event);
  void serve_reports(rd_kafka_event_t* event);
  void report(Ledger::Slot& slot, rd_kafka_resp_err_t error, rd_kafka_msg_status_t status);
  [[nodiscard]] bool fatal();
  void disconnect(const std::string& why, bool wait_for_reports);
  void refresh_topic(const std::string& topic);
  void fulfil();

  const ConduitOptions options_;
  ClientLog log_;
  std::mutex mutex_;
  std::condition_variable changed_;  ///< room in librdkafka's queue, a new client, or nobody alone any more
  // Under the mutex; the client and its queue are replaced by the thread alone.
  Ledger ledger_;
  Partitions partitions_;           ///< of the client of the moment
  std::set<std::string> suspects_;  ///< identities that were in a batch too large for the broker: they are sent alone
  bool alone_ = false;              ///< a suspect is on its way, and nothing else may join its batch
  bool stopping_ = false;
  std::chrono::steady_clock::time_point next_refresh_{};
  Trouble trouble_;
  Client client_;
  Queue queue_;  ///< dies before the client
  std::jthread thread_;
};

}  // namespace penstock::conduit
