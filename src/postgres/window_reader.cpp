// SPDX-License-Identifier: Apache-2.0
#include "postgres/window_reader.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>
#include <utility>

#include "penstock/event_log.hpp"
#include "postgres/fill_in.hpp"
#include "postgres/text_codec.hpp"
#include "postgres/window_sql.hpp"

namespace penstock::postgres {
namespace {

constexpr std::int64_t kNoId = std::numeric_limits<std::int64_t>::max();

constexpr std::size_t kMostSpare = 1000;         // events, whose memory is kept for the next read …
constexpr std::size_t kLargestSpareData = 4096;  // … unless that is much

std::string_view view_of(const pqxx::field& field) { return {field.c_str(), static_cast<std::size_t>(field.size())}; }

/// Empty when it is null.
void read_text(std::string& text, const pqxx::field& field) { text.assign(view_of(field)); }

std::string time_of(const pqxx::field& microseconds) {
  using std::chrono::system_clock;
  return format_time(system_clock::time_point{
      std::chrono::duration_cast<system_clock::duration>(std::chrono::microseconds{microseconds.as<std::int64_t>()})});
}

/// What nobody has appended, but written into the table. Empty, or what is wrong.
template <class Read>
std::string defect_in(const char* column, const pqxx::field& field, const char* form, Read read) {
  if (field.is_null()) {
    return {};
  }
  try {
    read(view_of(field));
    return {};
  } catch (const std::exception&) {
    return std::string{"its column "} + column + " is no " + form + ": " + field.c_str();
  }
}

std::optional<std::int64_t> optional_id(const pqxx::field& field) {
  return field.is_null() ? std::nullopt : std::optional{field.as<std::int64_t>()};
}

}  // namespace

LogRow WindowReader::read_row(const pqxx::row& row) {
  LogRow result{.id = row[column_id].as<std::int64_t>()};
  if (!spare_.empty()) {
    result.event = std::move(spare_.back());
    spare_.pop_back();
  }
  Event& event = result.event;
  read_text(event.id, row[column_event_id]);
  read_text(event.source, row[column_source]);
  read_text(event.type, row[column_type]);
  read_text(event.subject, row[column_subject]);
  read_text(event.key, row[column_key]);
  read_text(event.content_type, row[column_content_type]);
  read_text(event.data_schema, row[column_data_schema]);
  if (const auto appended = row[column_appended_us]; appended.is_null()) {
    read_text(event.time, row[column_time]);
  } else {
    event.time = time_of(appended);
  }
  read_text(event.correlation_id, row[column_correlation_id]);
  read_text(event.causation_id, row[column_causation_id]);
  read_text(event.traceparent, row[column_traceparent]);
  read_text(event.tracestate, row[column_tracestate]);
  event.extensions.clear();
  event.headers.clear();
  result.defect = defect_in("extensions", row[column_extensions], "object of texts, numbers and booleans",
                            [&](std::string_view json) { event.extensions = extensions_from_json(json); });
  if (result.defect.empty()) {
    result.defect = defect_in("headers", row[column_headers], "array of names and values",
                              [&](std::string_view json) { event.headers = headers_from_json(json); });
  }
  if (const auto data = row[column_data]; data.is_null()) {
    event.data.reset();
  } else {
    from_hex(view_of(data), event.data ? *event.data : event.data.emplace());
  }
  return result;
}

WindowReader::WindowReader(const std::string& schema, const std::vector<std::string>& patterns, ReaderLimits limits)
    : limits_{limits},
      poll_{"penstock_poll", poll_sql(schema)},
      extent_{"penstock_extent", extent_sql(schema)},
      ends_{"penstock_ends", ends_sql(schema)},
      late_extent_{"penstock_late_extent", late_extent_sql(schema)},
      late_rows_{"penstock_late_rows", late_rows_sql(schema)},
      range_rows_{"penstock_range_rows", range_rows_sql(schema)},
      small_rows_{"penstock_small_rows", small_rows_sql(schema)} {
  const bool complement = route_complement(patterns);
  if (complement || std::find(patterns.begin(), patterns.end(), "*") == patterns.end()) {
    ArrayLiteral literal;
    for (const std::string_view pattern : patterns) {
      literal.add(like_pattern(pattern.substr(complement ? 1 : 0)));
    }
    patterns_ = literal.take().value_or("{}");
  }
  if (complement) {
    complement_ = true;
    for (Statement* statement : {&poll_, &late_rows_, &range_rows_, &small_rows_}) {
      statement->sql = routes_complemented(std::move(statement->sql));
    }
  }
}

void WindowReader::use(pqxx::connection& connection, bool shared_by_pooler) {
  prepared_ = false;
  if (shared_by_pooler) {
    return;
  }
  {
    pqxx::nontransaction tx{connection};
    tx.exec(reader_session_settings());
    tx.commit();
  }
  for (const Statement* statement : {&poll_, &extent_, &ends_, &late_extent_, &late_rows_, &range_rows_, &small_rows_}) {
    connection.prepare(statement->name, statement->sql);
  }
  prepared_ = true;
}

pqxx::result WindowReader::read(pqxx::transaction_base& tx, const Statement& statement, const Parameters& parameters) const {
  return prepared_ ? run_prepared(tx, statement.name, parameters)
                   : tx.exec(reader_settings() + filled_in(tx, statement.sql, parameters));
}

void WindowReader::seek(const LogPosition& position) {
  Snapshot prev = Snapshot::parse(position.prev);
  std::optional<OpenWindow> open;
  if (!position.cur.empty()) {
    open.emplace();
    open->window = std::make_shared<const Window>(Window{prev, Snapshot::parse(position.cur), position.floor});
    open->place = position.place;
  }
  buffer_.clear();
  buffer_window_.reset();
  prev_ = std::move(prev);
  prev_floor_ = position.floor;
  floor_.reset(position.floor);
  open_ = std::move(open);
}

WindowReader::Step WindowReader::step(pqxx::connection& connection) {
  if (buffered()) {
    return Step::rows;
  }
  if (!open_) {
    return poll(connection);
  }
  return open_->measured ? walk(connection) : measure(connection);
}

WindowReader::Taken WindowReader::take() { return {std::exchange(buffer_, {}), std::exchange(buffer_window_, nullptr)}; }

void WindowReader::recycle(std::vector<Event> events) {
  for (Event& event : events) {
    if (spare_.size() >= kMostSpare) {
      return;
    }
    if (!event.data || event.data->capacity() <= kLargestSpareData) {
      spare_.push_back(std::move(event));
    }
  }
}

/// Fills the buffer, which is empty, and stays so when this throws.
void WindowReader::decode(const pqxx::result& rows, Index first, Index end) {
  std::vector<LogRow> found;
  found.reserve(static_cast<std::size_t>(end));
  for (Index i = first; i < end; ++i) {
    found.push_back(read_row(rows[i]));
  }
  buffer_ = std::move(found);
}

std::optional<LogPosition> WindowReader::closed_at() const {
  return open_ || buffered() ? std::nullopt : std::optional{LogPosition{.prev = prev_.text, .floor = prev_floor_}};
}

WindowReader::Step WindowReader::poll(pqxx::connection& connection) {
  pqxx::nontransaction tx{connection};
  const auto rows = read(tx, poll_,
                         {std::to_string(prev_.xmax), array_of(prev_.in_flight), std::to_string(limits_.small_window),
                          std::to_string(limits_.bytes), patterns_});
  const auto& head = rows[0];
  Snapshot cur = Snapshot::parse(head["cur"].c_str());
  if (head["large"].as<bool>()) {
    OpenWindow open;
    open.window = std::make_shared<const Window>(Window{prev_, std::move(cur), prev_floor_});
    open_ = std::move(open);
    return Step::more;
  }
  decode(rows, 1, rows.size());
  if (buffered()) {
    buffer_window_ = std::make_shared<const Window>(Window{prev_, cur, prev_floor_});
  }
  floor_.saw(optional_id(head["largest"]).value_or(0));
  advance(std::move(cur));
  return buffered() ? Step::rows : Step::end;
}

/// Finds the ids between which the window is read. One of a few thousand rows is looked over for its own. A larger one, and
/// there may be millions of a cursor that was away, is read from the floor on to the end of the log: what was read before is
/// passed over.
WindowReader::Step WindowReader::measure(pqxx::connection& connection) {
  OpenWindow next = *open_;
  const Window& window = *next.window;
  for (const std::uint64_t txid : window.prev.in_flight) {
    if (window.cur.sees(txid)) {
      next.late.push_back(txid);
    }
  }
  pqxx::nontransaction tx{connection};
  const auto extent = read(
      tx, extent_,
      {std::to_string(window.prev.xmax), std::to_string(window.cur.xmax), window.cur.text, std::to_string(limits_.measured)});
  if (extent[0]["pairs"].as<std::int64_t>() < limits_.measured) {
    next.smallest = optional_id(extent[0]["smallest"]);
    next.largest = optional_id(extent[0]["largest"]).value_or(0);
    if (!next.late.empty()) {
      const auto late = read(tx, late_extent_, {array_of(next.late), std::to_string(next.place)});
      next.largest = std::max(next.largest, optional_id(late[0]["largest"]).value_or(0));
    }
  } else {
    const auto ends = read(tx, ends_, {});
    next.smallest = std::max(optional_id(ends[0]["smallest"]).value_or(0), window.floor + 1);
    next.largest = optional_id(ends[0]["largest"]).value_or(0);
  }
  next.measured = true;
  open_ = std::move(next);
  return Step::more;
}

// Late transactions have ids from before the others' smallest: those are found by their transaction, since a walk by id from
// there would go over everything that was read long ago. From the smallest on, one walk by id meets both.
WindowReader::Step WindowReader::walk(pqxx::connection& connection) {
  OpenWindow& open = *open_;
  pqxx::nontransaction tx{connection};
  const auto limit = std::to_string(limits_.small_window);
  const std::int64_t smallest = open.smallest.value_or(kNoId);
  if (!open.late.empty() && open.place < smallest - 1) {
    const auto late = read(tx, late_extent_, {array_of(open.late), std::to_string(open.place)});
    const auto next = optional_id(late[0]["smallest"]);
    if (next && *next < smallest) {
      const std::int64_t to = std::min(*next - 1 + limits_.chunk, smallest - 1);
      const auto rows = read(tx, late_rows_,
                             {array_of(open.late), std::to_string(*next - 1), std::to_string(to), limit,
                              std::to_string(limits_.bytes), patterns_});
      return fill(rows, rows.size(), to);
    }
  }
  if (!open.smallest) {
    return close();
  }
  const std::int64_t from = std::max(open.place, smallest - 1);
  if (from >= open.largest) {
    return close();
  }
  const std::int64_t to = std::min(from + limits_.chunk, open.largest);
  const bool small = payloads_are_small_;
  const auto rows = read(tx, small ? small_rows_ : range_rows_,
                         {std::to_string(from), std::to_string(to), open.window->prev.text, open.window->cur.text, limit,
                          std::to_string(small ? small_bytes() : limits_.bytes), patterns_});
  if (small) {
    for (Index i = 0; i < rows.size(); ++i) {
      if (const auto large = rows[i][column_large]; !large.is_null() && large.as<bool>()) {
        payloads_are_small_ = false;  // it is read by the other statement, with what comes after it
        return fill(rows, i, rows[i][column_id].as<std::int64_t>() - 1);
      }
    }
  }
  const Step step = fill(rows, rows.size(), to);
  payloads_are_small_ = std::all_of(buffer_.begin(), buffer_.end(), [this](const LogRow& row) {
    return !row.event.data || static_cast<std::int64_t>(row.event.data->size()) <= small_bytes();
  });
  return step;
}

/// So many rows of this do not exceed the bytes that a read may have.
std::int64_t WindowReader::small_bytes() const { return limits_.bytes / static_cast<std::int64_t>(limits_.small_window); }

void WindowReader::advance(Snapshot to) {
  prev_ = std::move(to);
  prev_floor_ = floor_.at(prev_);
}

WindowReader::Step WindowReader::close() {
  floor_.saw(open_->largest);
  advance(open_->window->cur);
  open_.reset();
  return Step::more;
}

WindowReader::Step WindowReader::fill(const pqxx::result& rows, Index end, std::int64_t to) {
  decode(rows, 0, end);
  std::int64_t bytes = 0;
  for (const LogRow& row : buffer_) {
    bytes += row.event.data ? static_cast<std::int64_t>(row.event.data->size()) : 0;
  }
  const bool cut = buffer_.size() >= limits_.small_window || bytes >= limits_.bytes;
  open_->place = cut && buffered() ? buffer_.back().id : to;
  if (!buffered()) {
    return Step::more;
  }
  buffer_window_ = open_->window;
  return Step::rows;
}

}  // namespace penstock::postgres
