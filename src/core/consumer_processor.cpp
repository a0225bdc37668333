// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_processor.hpp"

#include <array>
#include <utility>

#include "core/budget_meter.hpp"
#include "core/consumer_gate.hpp"
#include "core/error_class.hpp"
#include "core/text.hpp"
#include "penstock/call_refused.hpp"

namespace penstock::consumer {

namespace {

std::string identity_of(const Message& message) {
  std::string identity = message.event.source;
  identity += '\0';
  return identity + message.id();
}

}  // namespace

void Journal::log(LogLevel level, const std::string& text) noexcept {
  if (!logger_) {
    return;
  }
  try {
    logger_->log(level, "consumer " + group_ + ": " + text);
  } catch (...) {  // a logger must not throw; what it throws is dropped
    return;
  }
}

void Journal::set_last_error(const std::string& error) {
  const std::lock_guard guard{mutex_};
  last_error_ = error;
}

std::string Journal::last_error() const {
  const std::lock_guard guard{mutex_};
  return last_error_;
}

void AttemptMemory::put(const Message& message, Record record) {
  const std::lock_guard guard{mutex_};
  const std::string identity = identity_of(message);
  if (records_.insert_or_assign(identity, std::move(record)).second) {
    oldest_.push_back(identity);
  }
  while (records_.size() > most || oldest_.size() > 2 * most) {
    records_.erase(oldest_.front());
    oldest_.pop_front();
  }
  size_ = records_.size();
}

AttemptMemory::Record AttemptMemory::take(const Message& message) {
  const std::lock_guard guard{mutex_};
  const auto found = records_.find(identity_of(message));
  if (found == records_.end()) {
    return {};
  }
  Record record = std::move(found->second);
  records_.erase(found);
  size_ = records_.size();
  return record;
}

void Processor::process_batch(std::span<const EntryPtr> entries, std::span<Fate> fates, const std::stop_token& stop) {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    fates[i] = process(*entries[i], stop);
  }
}

Handled run_handler(const Shared& shared, const Message& message, Context& context, const Leash::Run& run,
                    const std::function<void(const std::exception_ptr&)>& classify) {
  const auto start = std::chrono::steady_clock::now();
  Verdict verdict = Verdict::done();
  std::vector<std::string> classes;
  std::exception_ptr thrown;
  try {
    verdict = shared.handler(message, context);
  } catch (const CallRefused& refused) {
    classify(std::current_exception());
    verdict = Verdict::postpone(refused.retry_in(), refused.what());
  } catch (const std::exception& error) {
    thrown = std::current_exception();
    classify(thrown);
    classes = error_class::of_current_exception();
    verdict = Verdict::retry(error.what());
  } catch (...) {
    thrown = std::current_exception();
    classify(thrown);
    classes = error_class::of_current_exception();
    verdict = Verdict::retry("the handler threw something that is no std::exception");
  }
  if (verdict.kind() == Verdict::Kind::done) {
    shared.gate.judge(message, context.attempt(), false, {});
  }
  Handled result = handled(shared, std::move(verdict), context, run, std::chrono::steady_clock::now() - start);
  result.classes = std::move(classes);
  result.thrown = std::move(thrown);
  return result;
}

Handled handled(const Shared& shared, Verdict verdict, const Context& context, const Leash::Run& run,
                std::chrono::steady_clock::duration took) {
  if (shared.budget != nullptr && context.attempt() == 1) {
    shared.budget->first_attempt();
  }
  Attempt attempt;
  attempt.number = context.attempt();
  if (verdict.kind() != Verdict::Kind::done) {
    attempt.error = cleaned(run.expired() ? "after its deadline of " + std::to_string(shared.options.handler_timeout.count()) +
                                                " ms: " + verdict.reason()
                                          : verdict.reason());
  }
  attempt.duration = std::chrono::duration_cast<std::chrono::milliseconds>(took);
  attempt.host = shared.host;
  return {std::move(verdict), std::move(attempt)};
}

std::string cleaned(std::string_view error) { return text::clean(error, 4'000); }

void acknowledge(const Shared& shared, std::span<const Message* const> messages) {
  if (messages.empty()) {
    return;
  }
  try {
    messages.size() == 1 ? shared.source.ack(*messages.front()) : shared.source.ack_all(messages);
  } catch (const std::exception& error) {
    const std::string more = messages.size() > 1 ? " and others" : "";
    shared.journal.log(LogLevel::warn, name_of(*messages.front()) + more + " could not be acknowledged: " + error.what());
  }
}

std::string name_of(const Message& message) {
  std::string name = message.defect.empty() ? message.type() + " " + message.id() : std::string{"malformed message"};
  name += " of " + message.origin.channel;
  if (message.origin.partition >= 0) {
    name += "/" + std::to_string(message.origin.partition);
  }
  if (message.origin.position >= 0) {
    name += "@" + std::to_string(message.origin.position);
  }
  return name;
}

std::string identity_defect(const Event& event) {
  // An entry of a Postgres B-tree takes 2,704 bytes; source and id share one, as group and key do.
  constexpr std::size_t longest = 2'000;
  const std::array<std::pair<const char*, const std::string*>, 7> texts{{{"id", &event.id},
                                                                         {"source", &event.source},
                                                                         {"type", &event.type},
                                                                         {"partitionkey", &event.key},
                                                                         {"correlationid", &event.correlation_id},
                                                                         {"causationid", &event.causation_id},
                                                                         {"traceparent", &event.traceparent}}};
  for (const auto& [name, value] : texts) {
    if (!text::is_utf8(*value) || value->find('\0') != std::string::npos) {
      return std::string{name} + " is not UTF-8 text";
    }
  }
  if (event.source.size() + event.id.size() > longest) {
    return "source and id are longer than " + std::to_string(longest) + " bytes together";
  }
  if (event.key.size() > longest) {
    return "partitionkey is longer than " + std::to_string(longest) + " bytes";
  }
  return {};
}

}  // namespace penstock::consumer
