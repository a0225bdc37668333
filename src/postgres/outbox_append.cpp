// SPDX-License-Identifier: Apache-2.0
#include "postgres/outbox_append.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include "postgres/fill_in.hpp"
#include "postgres/schema_name.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {
namespace {

using Field = std::optional<std::string_view>;
using Type = BinaryArray::Type;

// The parameters of append_rows().
constexpr std::array kColumns{Type::text, Type::text,  Type::text,  Type::text, Type::text, Type::text,
                              Type::text, Type::text,  Type::text,  Type::text, Type::text, Type::text,
                              Type::text, Type::jsonb, Type::jsonb, Type::bytea};
// A statement is cut off here; the server's limit on a parameter is 1 GB.
constexpr std::size_t kLargestStatement = std::size_t{32} << 20U;

Field unless_empty(std::string_view text) { return text.empty() ? Field{} : Field{text}; }

/// What append_row() and append_rows() are given. Refers to the row.
class Fields {
 public:
  explicit Fields(const OutboxRow& row)
      : event_{*row.event},
        route_{row.route},
        extensions_{event_.extensions.empty() ? std::string{} : extensions_to_json(event_.extensions)},
        headers_{event_.headers.empty() ? std::string{} : headers_to_json(event_.headers)} {}

  [[nodiscard]] std::array<Field, kColumns.size()> all() const {
    return {route_.empty() ? event_.type : route_,
            event_.id,
            event_.source,
            event_.type,
            unless_empty(event_.subject),
            unless_empty(event_.key),
            unless_empty(event_.content_type),
            unless_empty(event_.data_schema),
            unless_empty(event_.time),
            unless_empty(event_.correlation_id),
            unless_empty(event_.causation_id),
            unless_empty(event_.traceparent),
            unless_empty(event_.tracestate),
            unless_empty(extensions_),
            unless_empty(headers_),
            event_.data ? Field{*event_.data} : Field{}};
  }

  /// What an event need not have, in the order of append_row(); all empty for most.
  [[nodiscard]] std::array<Field, 10> more() const {
    return {unless_empty(route_),
            unless_empty(event_.subject),
            unless_empty(event_.data_schema),
            unless_empty(event_.time),
            unless_empty(event_.correlation_id),
            unless_empty(event_.causation_id),
            unless_empty(event_.traceparent),
            unless_empty(event_.tracestate),
            unless_empty(extensions_),
            unless_empty(headers_)};
  }

 private:
  const Event& event_;
  std::string_view route_;
  std::string extensions_;
  std::string headers_;
};

template <class Array>
void add(Array& array, const Field& field) {
  if (field) {
    array.add(*field);
  } else {
    array.add_null();
  }
}

std::string call_row(const std::string& schema, std::string_view procedure) {
  std::string sql = in_schema("CALL @schema@.", schema);
  return sql.append(procedure).append("($1, $2, $3, $4, $5, $6, $7)");
}

std::string call_rows(const std::string& schema) {
  return in_schema("CALL @schema@.append_rows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)", schema);
}

/// Calls `use` with the bytes as a parameter, or with NULL.
template <class Use>
void binary_or_null(const std::optional<std::string>& bytes, Use use) {
  if (bytes) {
    use(Binary{*bytes});
  } else {
    use(std::optional<std::string>{});
  }
}

void execute_row(pqxx::transaction_base& tx, const std::string& schema, std::string_view procedure, const OutboxRow& row) {
  const Event& event = *row.event;
  const Fields fields{row};
  std::optional<std::string> more;
  if (const auto optional = fields.more();
      std::any_of(optional.begin(), optional.end(), [](const Field& f) { return bool{f}; })) {
    BinaryArray array{Type::text};
    for (const Field& field : optional) {
      add(array, field);
    }
    more = array.take();
  }
  binary_or_null(event.data, [&](const auto& data_parameter) {
    binary_or_null(more, [&](const auto& more_parameter) {
      // A key may hold anything: as text it would end at a NUL, as Binary the server refuses it.
      run(tx, call_row(schema, procedure), event.id, event.source, event.type, Binary{event.key}, event.content_type,
          data_parameter, more_parameter);
    });
  });
}

/// A column as a literal inside the text of a statement.
class TextArray {
 public:
  explicit TextArray(Type type) : hex_{type == Type::bytea} {}
  void add(std::string_view element) { hex_ ? literal_.add(to_hex(element)) : literal_.add(element); }
  void add_null() { literal_.add_null(); }
  [[nodiscard]] std::optional<std::string> take() { return literal_.take(); }

 private:
  bool hex_;
  ArrayLiteral literal_{};
};

template <class Array, std::size_t... Column>
std::array<Array, sizeof...(Column)> columns(std::index_sequence<Column...> /*columns*/) {
  return {Array{kColumns.at(Column)}...};
}

/// Hands the columns of as many rows as one statement may hold to `use`, until there are no more.
template <class Array, class Use>
void in_columns(std::span<const OutboxRow> rows, Use use) {
  for (std::size_t next = 0; next < rows.size();) {
    auto arrays = columns<Array>(std::make_index_sequence<kColumns.size()>{});
    std::size_t bytes = 0;
    for (; next < rows.size() && bytes < kLargestStatement; ++next) {
      const Fields fields{rows[next]};
      const auto all = fields.all();
      for (std::size_t i = 0; i < arrays.size(); ++i) {
        add(arrays[i], all[i]);
        bytes += all[i] ? all[i]->size() : 0;
      }
    }
    use(arrays);
  }
}

template <std::size_t... Column>
void execute_rows(pqxx::transaction_base& tx, const std::string& schema, const std::array<std::string, kColumns.size()>& values,
                  std::index_sequence<Column...> /*columns*/) {
  run(tx, call_rows(schema), Binary{values[Column]}...);
}

}  // namespace

void append_rows(pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows) {
  if (rows.size() == 1) {
    execute_row(tx, schema, "append_row", rows.front());
    return;
  }
  in_columns<BinaryArray>(rows, [&](auto& arrays) {
    std::array<std::string, kColumns.size()> values;
    std::transform(arrays.begin(), arrays.end(), values.begin(), [](BinaryArray& array) { return array.take(); });
    execute_rows(tx, schema, values, std::make_index_sequence<kColumns.size()>{});
  });
}

std::string append_text(const pqxx::transaction_base& tx, const std::string& schema, std::span<const OutboxRow> rows) {
  if (rows.size() == 1) {
    const Event& event = *rows.front().event;
    const Fields fields{rows.front()};
    ArrayLiteral more;
    for (const Field& field : fields.more()) {
      add(more, field);
    }
    return filled_in(tx, call_row(schema, "append_row"),
                     {event.id, event.source, event.type, event.key, event.content_type,
                      event.data ? std::optional{to_hex(*event.data)} : std::nullopt, more.take()}) +
           ";\n";
  }
  std::string result;
  in_columns<TextArray>(rows, [&](auto& arrays) {
    Parameters literals(arrays.size());
    std::transform(arrays.begin(), arrays.end(), literals.begin(), [](TextArray& array) { return array.take(); });
    result += filled_in(tx, call_rows(schema), literals) + ";\n";
  });
  return result;
}

void append_row_locked(pqxx::transaction_base& tx, const std::string& schema, const OutboxRow& row) {
  execute_row(tx, schema, row.event->key.empty() ? "append_row" : "append_row_locked", row);
}

}  // namespace penstock::postgres
