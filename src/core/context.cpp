// SPDX-License-Identifier: Apache-2.0
#include "penstock/context.hpp"

#include <stdexcept>
#include <utility>

#include "core/uuid_internal.hpp"
#include "penstock/source.hpp"
#include "penstock/uuid.hpp"

namespace penstock {

Context::Context(const Message& message, std::string group, std::string source, int attempt, pqxx::transaction_base* tx,
                 std::stop_token stop, std::optional<Clock::TimePoint> deadline)
    : message_{message},
      group_{std::move(group)},
      source_{std::move(source)},
      attempt_{attempt},
      tx_{tx},
      stop_{std::move(stop)},
      deadline_{deadline} {}

Context::~Context() = default;

pqxx::transaction_base& Context::tx() const {
  if (tx_ == nullptr) {
    throw std::logic_error{"Context::tx: the consumer '" + group_ +
                           "' has no SQL transaction; give it a PostgresDatastore, or do not use tx()"};
  }
  return *tx_;
}

const std::string& Context::idempotency_key() const {
  if (idempotency_key_.empty()) {
    idempotency_key_ = derived_id(group_, message_.event.source, message_.event.id, position::idempotency_key);
  }
  return idempotency_key_;
}

void Context::emit(Event event) { emitted_.push_back(completed(std::move(event))); }

void Context::emit(Event event, std::chrono::milliseconds delay) {
  if (delay <= std::chrono::milliseconds{0}) {
    emit(std::move(event));
  } else {
    scheduled_.push_back({completed(std::move(event)), delay});
  }
}

Event Context::completed(Event event) const {
  const Event& cause = message_.event;
  const std::size_t position = emitted_.size() + scheduled_.size();
  if (event.id.empty()) event.id = derived_id(group_, cause.source, cause.id, static_cast<int>(position));
  if (event.source.empty()) event.source = source_.empty() ? "/penstock/" + group_ : source_;
  if (event.content_type.empty() && event.data) event.content_type = "application/json";
  if (event.correlation_id.empty()) event.correlation_id = cause.correlation_id.empty() ? cause.id : cause.correlation_id;
  if (event.causation_id.empty()) event.causation_id = cause.id;
  if (event.traceparent.empty()) {
    event.traceparent = cause.traceparent;
    event.tracestate = cause.tracestate;
  }
  validate(event);
  return event;
}

}  // namespace penstock
