// SPDX-License-Identifier: Apache-2.0
#include "order_files.hpp"

#include <istream>
#include <map>
#include <optional>
#include <regex>
#include <stdexcept>
#include <unordered_map>

#include "penstock/event.hpp"

namespace shop {
namespace {

/// One CSV record (RFC 4180: quoted fields may hold commas, quotes and line ends); nothing at the end of the file.
std::optional<std::vector<std::string>> read_record(std::istream& file, std::size_t& line_number) {
  if (file.peek() == std::char_traits<char>::eof()) return std::nullopt;
  std::vector<std::string> fields(1);
  bool quoted = false;
  const auto first = ++line_number;
  for (int next = file.get(); next != std::char_traits<char>::eof(); next = file.get()) {
    const char c = static_cast<char>(next);
    if (quoted) {
      if (c == '"' && file.peek() == '"') {
        fields.back() += static_cast<char>(file.get());
      } else if (c == '"') {
        quoted = false;
      } else {
        line_number += c == '\n' ? 1 : 0;
        fields.back() += c;
      }
    } else if (c == '"' && fields.back().empty()) {
      quoted = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      break;
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  if (quoted) throw std::runtime_error{"line " + std::to_string(first) + ": a quoted field has no closing quote; add it"};
  return fields;
}

/// "2010-12-01 08:26:00" and "12/1/2010 8:26", as the data set is handed round, to "2010-12-01T08:26:00Z"; RFC 3339 stays.
/// Nothing for what is no time.
std::optional<std::string> to_rfc3339(const std::string& text) {
  std::smatch part;
  std::string time = text;
  static const std::regex american{R"((\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2})(:\d{2})?)"};
  static const std::regex plain{R"((\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}))"};
  const auto two = [](const std::string& digits) { return digits.size() == 1 ? "0" + digits : digits; };
  if (std::regex_match(text, part, american)) {
    time = part.str(3) + "-" + two(part.str(1)) + "-" + two(part.str(2)) + "T" + two(part.str(4)) + ":" + part.str(5) +
           (part[6].matched ? part.str(6) : ":00") + "Z";
  } else if (std::regex_match(text, part, plain)) {
    time = part.str(1) + "T" + part.str(2) + "Z";
  }
  if (!time.empty() && !penstock::parse_time(time)) return std::nullopt;
  return time;
}

/// "17850.0" → "17850": customers are numbers that went through a spreadsheet.
std::string customer_number(const std::string& text) {
  return text.size() > 2 && text.compare(text.size() - 2, 2, ".0") == 0 ? text.substr(0, text.size() - 2) : text;
}

std::vector<Order> read_csv(std::istream& file) {
  std::size_t line_number = 0;
  const auto header = read_record(file, line_number).value();
  std::map<std::string, std::size_t> column;
  for (std::size_t i = 0; i < header.size(); ++i) column[header[i]] = i;
  for (const char* name :
       {"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"}) {
    if (column.count(name) == 0)
      throw std::runtime_error{std::string{"line 1: there is no column "} + name + " in the header; add it"};
  }
  std::vector<Order> orders;
  std::unordered_map<std::string, std::size_t> known;
  while (true) {
    const auto at = "line " + std::to_string(line_number + 1) + ": ";
    const auto record = read_record(file, line_number);
    if (!record) break;
    if (record->size() == 1 && record->front().empty()) continue;
    if (record->size() != header.size()) {
      throw std::runtime_error{at + std::to_string(record->size()) + " fields where the header has " +
                               std::to_string(header.size()) + "; quote a field that holds a comma"};
    }
    const auto field = [&](const char* name) -> const std::string& { return (*record)[column[name]]; };
    const auto& invoice = field("InvoiceNo");
    if (invoice.empty() || !is_plain(invoice)) {
      throw std::runtime_error{at + "InvoiceNo is " + (invoice.empty() ? "empty" : "no plain text") +
                               "; give the number of the line's invoice"};
    }
    const auto placed_at = to_rfc3339(field("InvoiceDate"));
    if (!placed_at) {
      throw std::runtime_error{at + "InvoiceDate is '" + field("InvoiceDate") +
                               "'; give it as 12/1/2010 8:26 (month/day/year) or 2010-12-01 08:26:00"};
    }
    const auto [entry, fresh] = known.try_emplace(invoice, orders.size());
    if (fresh) {
      Order order;
      order.reference = invoice;
      order.cancellation = invoice.front() == 'C';
      order.customer = customer_number(field("CustomerID"));
      order.country = field("Country");
      order.placed_at = *placed_at;
      orders.push_back(std::move(order));
    }
    Line line;
    line.sku = field("StockCode");
    line.description = field("Description");
    try {
      std::size_t end = 0;
      line.quantity = std::stoll(field("Quantity"), &end);
      if (end != field("Quantity").size()) throw std::invalid_argument{"trailing characters"};
    } catch (const std::exception&) {
      throw std::runtime_error{at + "Quantity is '" + field("Quantity") + "'; it must be a whole number"};
    }
    try {
      line.unit_price = parse_money(field("UnitPrice"));
    } catch (const std::invalid_argument&) {
      throw std::runtime_error{at + "UnitPrice is '" + field("UnitPrice") +
                               "'; it must be a decimal with at most three decimals"};
    }
    orders[entry->second].lines.push_back(std::move(line));
  }
  return orders;
}

std::vector<Order> read_ndjson(std::istream& file) {
  std::vector<Order> orders;
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      orders.push_back(parse_order(line));
    } catch (const InvalidOrder& error) {
      throw std::runtime_error{"line " + std::to_string(number) + ": " + error.what()};
    }
  }
  return orders;
}

}  // namespace

std::vector<Order> read_orders(std::istream& file, const std::string& name) {
  try {
    if (file.peek() == 0xEF) file.ignore(3);  // a byte order mark
    while (file.peek() == '\n' || file.peek() == '\r' || file.peek() == ' ') file.get();
    if (file.peek() == std::char_traits<char>::eof()) throw std::runtime_error{"it is empty"};
    return file.peek() == '{' ? read_ndjson(file) : read_csv(file);
  } catch (const std::exception& error) {
    throw std::runtime_error{name + ": " + error.what()};
  }
}

}  // namespace shop
