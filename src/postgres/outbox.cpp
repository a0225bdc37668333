// SPDX-License-Identifier: Apache-2.0
#include "penstock/outbox.hpp"

#include <stdexcept>
#include <utility>

#include "penstock/uuid.hpp"
#include "postgres/connection.hpp"
#include "postgres/cursor.hpp"
#include "postgres/cursor_state.hpp"
#include "postgres/outbox_append.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/segments.hpp"
#include "postgres/wake.hpp"
#include "postgres/watch.hpp"

namespace penstock {

class Outbox::Impl {
 public:
  Impl(std::string url, OutboxOptions options) : url_{std::move(url)}, options_{std::move(options)} {
    postgres::check_schema_name(options_.schema);
    if (!options_.source.empty()) {
      try {
        validate(Event{.id = "-", .source = options_.source, .type = "-"});
      } catch (const InvalidEvent& error) {
        throw std::invalid_argument(std::string{"OutboxOptions.source: "} + error.what());
      }
    }
    if (options_.lease < std::chrono::milliseconds{100}) {
      throw std::invalid_argument("OutboxOptions.lease is " + std::to_string(options_.lease.count()) +
                                  " ms: give at least 100 ms, or relays take over from each other all the time");
    }
    const auto not_negative = [](const char* option, std::int64_t value, std::int64_t least) {
      if (value < least) {
        throw std::invalid_argument(std::string{"OutboxOptions."} + option + " is " + std::to_string(value) +
                                    ": give at least " + std::to_string(least));
      }
    };
    not_negative("segment_bytes", options_.segment_bytes, 1);
    not_negative("segment_age", options_.segment_age.count(), 1);
    not_negative("retention", options_.retention.count(), 0);
    not_negative("retention_bytes", options_.retention_bytes, 0);
    segments_ = std::make_shared<postgres::Segments>(options_.schema,
                                                     postgres::SegmentPolicy{.segment_bytes = options_.segment_bytes,
                                                                             .segment_age = options_.segment_age,
                                                                             .retention = options_.retention,
                                                                             .retention_bytes = options_.retention_bytes},
                                                     options_.logger);
  }

  [[nodiscard]] Event completed(Event event) const {
    if (event.id.empty()) {
      event.id = uuid7();
    }
    if (event.source.empty()) {
      event.source = options_.source;
    }
    if (event.data && event.content_type.empty()) {
      event.content_type = options_.content_type;
    }
    validate(event);
    return event;
  }

  [[nodiscard]] const OutboxOptions& options() const { return options_; }
  [[nodiscard]] const std::string& url() const { return url_; }
  [[nodiscard]] const std::shared_ptr<postgres::WakeHub>& hub() const { return hub_; }
  [[nodiscard]] const std::shared_ptr<postgres::Segments>& segments() const { return segments_; }
  [[nodiscard]] const std::shared_ptr<postgres::Watch>& watch() const { return watch_; }

 private:
  std::string url_;
  OutboxOptions options_;
  std::shared_ptr<postgres::WakeHub> hub_ = std::make_shared<postgres::WakeHub>();
  std::shared_ptr<postgres::Segments> segments_{};
  std::shared_ptr<postgres::Watch> watch_ = std::make_shared<postgres::Watch>(options_.schema, hub_, !options_.listen);
};

Outbox::Outbox(std::string url, OutboxOptions options) : impl_{std::make_unique<Impl>(std::move(url), std::move(options))} {}
Outbox::~Outbox() = default;

std::string Outbox::append(pqxx::transaction_base& tx, Event event) {
  Event complete = impl_->completed(std::move(event));
  const postgres::OutboxRow row{&complete, {}};
  postgres::append_rows(tx, impl_->options().schema, {&row, 1});
  return std::move(complete.id);
}

std::vector<std::string> Outbox::append(pqxx::transaction_base& tx, std::span<const Event> events) {
  std::vector<Event> complete;
  complete.reserve(events.size());
  std::vector<postgres::OutboxRow> rows;
  rows.reserve(events.size());
  for (const Event& event : events) {
    rows.push_back({&complete.emplace_back(impl_->completed(event)), {}});
  }
  postgres::append_rows(tx, impl_->options().schema, rows);
  std::vector<std::string> ids;
  ids.reserve(events.size());
  for (Event& event : complete) {
    ids.push_back(std::move(event.id));
  }
  return ids;
}

std::string Outbox::append_locked(pqxx::transaction_base& tx, Event event) {
  Event complete = impl_->completed(std::move(event));
  postgres::append_row_locked(tx, impl_->options().schema, {&complete, {}});
  return std::move(complete.id);
}

void Outbox::signal() noexcept { impl_->hub()->signal(); }

std::unique_ptr<EventLog::Cursor> Outbox::cursor(const std::string& name, const std::vector<std::string>& patterns) {
  return std::make_unique<postgres::PostgresCursor>(postgres::CursorSettings{.url = impl_->url(),
                                                                             .schema = impl_->options().schema,
                                                                             .lease = impl_->options().lease,
                                                                             .logger = impl_->options().logger,
                                                                             .hub = impl_->hub(),
                                                                             .segments = impl_->segments(),
                                                                             .watch = impl_->watch(),
                                                                             .listen = impl_->options().listen},
                                                    name, patterns);
}

bool Outbox::drop_cursor(const std::string& name) {
  const auto connection = postgres::connect(impl_->url(), {.statement_timeout = std::chrono::seconds{60}});
  return postgres::drop_cursor(*connection, impl_->options().schema, name);
}

}  // namespace penstock
