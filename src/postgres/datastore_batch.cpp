// SPDX-License-Identifier: Apache-2.0
// Batches: marks, audit rows, checkpoints and emitted events of many messages in a statement each.
#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "postgres/datastore_session.hpp"
#include "postgres/outbox_append.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {

namespace {

using Admission = Datastore::Admission;
using Type = BinaryArray::Type;

/// A column of texts; what is empty is NULL where the column says so.
class Column {
 public:
  void add(std::string_view text) { array_.add(text); }
  void add_or_null(std::string_view text) { text.empty() ? array_.add_null() : array_.add(text); }
  [[nodiscard]] std::string take() { return array_.take(); }

 private:
  BinaryArray array_{Type::text};
};

/// A column of numbers, as a literal of an array.
class Numbers {
 public:
  void add(std::int64_t number) {
    text_ += text_.size() == 1 ? "" : ",";
    text_ += std::to_string(number);
  }
  [[nodiscard]] std::string take() { return std::move(text_) + "}"; }

 private:
  std::string text_{"{"};
};

bool before(const Message& a, const Message& b) {
  return std::tie(a.event.source, a.event.id) < std::tie(b.event.source, b.event.id);
}

/// The numbers of an integer[] or NULL, from 1.
std::vector<std::size_t> numbers_of(const pqxx::field& field) {
  std::vector<std::size_t> numbers;
  if (field.is_null()) {
    return numbers;
  }
  const auto text = field.as<std::string>();
  for (std::size_t at = 1; at < text.size(); at = text.find_first_of(",}", at) + 1) {
    numbers.push_back(static_cast<std::size_t>(std::stoull(text.substr(at))));
  }
  return numbers;
}

}  // namespace

std::vector<Admission> PostgresSession::begin_batch(std::span<const Message* const> messages) {
  return guarded(Stage::own, [&] {
    start();
    // In one order everywhere: two batches with the same messages wait for each other in turn, never in a circle.
    std::vector<std::size_t> order(messages.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return before(*messages[a], *messages[b]); });
    Column sources;
    Column ids;
    Column keys;
    Column times;
    for (const std::size_t i : order) {
      sources.add(messages[i]->event.source);
      ids.add(messages[i]->event.id);
      keys.add_or_null(messages[i]->event.key);
      times.add_or_null(messages[i]->event.time);
    }
    const auto all = std::array{sources.take(), ids.take(), keys.take(), times.take()};
    open_block();
    const pqxx::result result =
        run(*tx_, in_schema("SELECT * FROM @schema@.consumer_begin_batch($1, $2, $3, $4, $5)", options_.schema), group_,
            Binary{all[0]}, Binary{all[1]}, Binary{all[2]}, Binary{all[3]});
    std::vector<Admission> admissions(messages.size(), Admission::fresh);
    for (const std::size_t number : numbers_of(result[0][1])) {
      admissions.at(order.at(number - 1)) = Admission::behind;
    }
    for (const std::size_t number : numbers_of(result[0][0])) {
      admissions.at(order.at(number - 1)) = Admission::duplicate;
    }
    at_ = result[0][2].as<std::string>();
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (admissions[i] != Admission::duplicate) {
        batch_.push_back(messages[i]);
      }
    }
    return admissions;
  });
}

void PostgresSession::savepoint() {
  guarded(Stage::handlers, [&] {
    exec(savepoint_ ? "RELEASE SAVEPOINT penstock_message;\nSAVEPOINT penstock_message" : "SAVEPOINT penstock_message");
    savepoint_ = true;
  });
}

void PostgresSession::undo() {
  guarded(Stage::own, [&] { exec("ROLLBACK TO SAVEPOINT penstock_message"); });
}

void PostgresSession::complete_batch(std::span<const Datastore::Completed> done) {
  guarded(Stage::handlers, [&] {
    std::vector<OutboxRow> rows;
    for (const Datastore::Completed& completed : done) {
      for (const Event& event : completed.emitted) {
        rows.push_back({.event = &event});
      }
    }
    if (savepoint_) {
      exec("RELEASE SAVEPOINT penstock_message");
    }
    if (!rows.empty()) {
      append_rows(*tx_, options_.schema, rows);
    }
    write_done(done);
  });
  commit_with({});
}

void PostgresSession::write_done(std::span<const Datastore::Completed> done) {
  Numbers partitions;
  Numbers positions;
  Numbers durations;
  std::array<Column, 7> columns;
  for (const auto& [message, emitted, attempt] : done) {
    const Event& event = message->event;
    partitions.add(message->origin.partition);
    positions.add(message->origin.position);
    durations.add(attempt.duration.count());
    columns[0].add(event.source);
    columns[1].add(event.id);
    columns[2].add(event.type);
    columns[3].add_or_null(event.key);
    columns[4].add_or_null(event.correlation_id);
    columns[5].add_or_null(event.causation_id);
    columns[6].add_or_null(event.traceparent);
    std::erase(batch_, message);
  }
  Column left_sources;
  Column left_ids;
  for (const Message* message : batch_) {
    left_sources.add(message->event.source);
    left_ids.add(message->event.id);
  }
  std::array<std::string, 9> texts;
  std::transform(columns.begin(), columns.end(), texts.begin(), [](Column& column) { return column.take(); });
  texts[7] = left_sources.take();
  texts[8] = left_ids.take();
  const Origin& origin = done.front().message->origin;
  run(*tx_,
      in_schema("CALL @schema@.consumer_done_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
                options_.schema),
      group_, member_, origin.backend, origin.channel, partitions.take(), positions.take(), Binary{texts[0]}, Binary{texts[1]},
      Binary{texts[2]}, Binary{texts[3]}, Binary{texts[4]}, Binary{texts[5]}, Binary{texts[6]}, durations.take(),
      done.front().attempt.host, Binary{texts[7]}, Binary{texts[8]});
  const auto repeated =
      std::any_of(done.begin(), done.end(), [](const Datastore::Completed& one) { return one.message->origin.repeated(); });
  if (!repeated) {
    return;
  }
  run(*tx_, in_schema(sql::settle_notes, options_.schema), group_, Binary{texts[0]}, Binary{texts[1]});
}

// --- begun and not settled --------------------------------------------------------------------------------------------------

std::vector<Datastore::Begun> PostgresSession::begun(std::span<const Message* const> messages) {
  return guarded(Stage::own, [&] {
    start();
    Column sources;
    Column ids;
    for (const Message* message : messages) {
      sources.add(message->event.source);
      ids.add(message->event.id);
    }
    const auto all = std::array{sources.take(), ids.take()};
    std::vector<Datastore::Begun> found(messages.size());
    open_block();
    for (const auto& row : run(*tx_, in_schema(sql::begun, options_.schema), group_, Binary{all[0]}, Binary{all[1]})) {
      found.at(row[0].as<std::size_t>() - 1) = {.times = row[1].as<int>(), .known = row[2].as<bool>()};
    }
    close();
    return found;
  });
}

void PostgresSession::note_begun(std::span<const Message* const> messages) {
  guarded(Stage::own, [&] {
    start();
    Column sources;
    Column ids;
    for (const Message* message : messages) {
      sources.add(message->event.source);
      ids.add(message->event.id);
    }
    const auto all = std::array{sources.take(), ids.take()};
    exec("SET LOCAL synchronous_commit = off");  // a note must outlive this process, not the server
    run(*tx_, in_schema(sql::note_begun, options_.schema), group_, Binary{all[0]}, Binary{all[1]});
    finish();
  });
}

}  // namespace penstock::postgres
