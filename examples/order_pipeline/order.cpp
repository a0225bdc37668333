// SPDX-License-Identifier: Apache-2.0
#include "order.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "penstock/event.hpp"

namespace shop {
namespace {

using nlohmann::json;

constexpr std::size_t most_lines = 5'000;
constexpr std::int64_t most_quantity = 10'000'000;
constexpr Mills highest_price = 1'000'000'000;           // a million pounds a piece
constexpr Mills highest_amount = 1'000'000'000'000'000;  // a million million pounds an order

std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

std::string text_at(const json& object, const std::string& name, const std::string& where, std::size_t longest, bool required) {
  const auto found = object.find(name);
  const std::string field = where + "/" + name;
  if (found == object.end() || found->is_null()) {
    if (required) throw InvalidOrder{field, field + " is missing; give it as a string"};
    return {};
  }
  if (!found->is_string()) throw InvalidOrder{field, field + " is " + shown(*found) + "; give it as a string"};
  auto text = found->get<std::string>();
  if (required && text.empty()) throw InvalidOrder{field, field + " is empty; give at least one character"};
  if (text.size() > longest) {
    throw InvalidOrder{field, field + " has " + std::to_string(text.size()) + " bytes; at most " + std::to_string(longest)};
  }
  // A description is prose and may have more than one line; everything else ends up in logs and addresses.
  if (name != "description" && !is_plain(text)) {
    throw InvalidOrder{field, field + " holds a control character or a non-character; remove it"};
  }
  return text;
}

Mills price_at(const json& line, const std::string& where) {
  const std::string field = where + "/unit_price";
  const auto found = line.find("unit_price");
  if (found == line.end()) throw InvalidOrder{field, field + R"( is missing; give pounds as "2.55")"};
  try {
    const Mills price = parse_money(found->is_string() ? found->get<std::string>() : found->is_number() ? found->dump() : "");
    if (price > highest_price || price < -highest_price) throw std::invalid_argument{"out of range"};
    return price;
  } catch (const std::invalid_argument&) {
    throw InvalidOrder{field, field + " is " + shown(*found) + R"(; give pounds with at most three decimals, as "2.55")"};
  }
}

Line parse_line(const json& value, const std::string& where) {
  if (!value.is_object()) throw InvalidOrder{where, where + " is " + shown(value) + "; give an object"};
  Line line;
  line.sku = text_at(value, "sku", where, 64, true);
  line.description = text_at(value, "description", where, 400, false);
  line.unit_price = price_at(value, where);
  const std::string field = where + "/quantity";
  const auto quantity = value.find("quantity");
  if (quantity == value.end() || !quantity->is_number_integer()) {
    throw InvalidOrder{field,
                       field + " is " + (quantity == value.end() ? "missing" : shown(*quantity)) + "; give a whole number"};
  }
  if (quantity->is_number_unsigned() && quantity->get<std::uint64_t>() > static_cast<std::uint64_t>(most_quantity)) {
    throw InvalidOrder{field, field + " is " + shown(*quantity) + "; at most " + std::to_string(most_quantity)};
  }
  line.quantity = quantity->get<std::int64_t>();
  if (line.quantity == 0 || line.quantity > most_quantity || line.quantity < -most_quantity) {
    throw InvalidOrder{field, field + " is " + shown(*quantity) + "; give a whole number other than 0, at most " +
                                  std::to_string(most_quantity) + " either way"};
  }
  return line;
}

}  // namespace

Mills parse_money(std::string_view text) {
  const bool negative = !text.empty() && text.front() == '-';
  if (negative) text.remove_prefix(1);
  const auto point = text.find('.');
  const auto whole = text.substr(0, point);
  const auto fraction = point == std::string_view::npos ? std::string_view{} : text.substr(point + 1);
  const auto digits = [](std::string_view part) {
    return std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  const auto significant = fraction.substr(0, std::min<std::size_t>(fraction.find_last_not_of('0') + 1, fraction.size()));
  if (whole.empty() || whole.size() > 12 || !digits(whole) || !digits(fraction) || significant.size() > 3 ||
      (point != std::string_view::npos && fraction.empty())) {
    throw std::invalid_argument{"no amount of money"};
  }
  Mills amount = 0;
  for (const char c : whole) amount = amount * 10 + (c - '0');
  for (std::size_t i = 0; i < 3; ++i) amount = amount * 10 + (i < significant.size() ? significant[i] - '0' : 0);
  return negative ? -amount : amount;
}

std::string format_money(Mills amount) {
  const auto magnitude = static_cast<std::uint64_t>(amount < 0 ? -amount : amount);
  std::string fraction = std::to_string(1'000 + magnitude % 1'000).substr(1);
  if (fraction.back() == '0') fraction.pop_back();
  return (amount < 0 ? "-" : "") + std::to_string(magnitude / 1'000) + "." + fraction;
}

Mills Order::total() const {
  Mills sum = 0;
  for (const auto& line : lines) sum += line.quantity * line.unit_price;
  return sum;
}

bool is_plain(const std::string& text) {
  penstock::Event probe;
  probe.id = probe.source = probe.type = "x";
  probe.subject = text;
  try {
    penstock::validate(probe);
    return true;
  } catch (const penstock::InvalidEvent&) {
    return false;
  }
}

Order parse_order(std::string_view text) {
  json body;
  try {
    body = json::parse(text);
  } catch (const json::parse_error& error) {
    throw InvalidOrder{"", "the body is no JSON (at byte " + std::to_string(error.byte) + "); send one order as a JSON object"};
  }
  if (!body.is_object()) throw InvalidOrder{"", "the body is " + shown(body) + "; send one order as a JSON object"};
  Order order;
  order.reference = text_at(body, "reference", "", 64, true);
  const auto kind = text_at(body, "kind", "", 20, false);
  if (!kind.empty() && kind != "order" && kind != "cancellation") {
    throw InvalidOrder{"/kind", "/kind is \"" + kind + R"("; give "order" or "cancellation")"};
  }
  order.cancellation = kind == "cancellation";
  order.customer = text_at(body, "customer", "", 64, false);
  order.country = text_at(body, "country", "", 64, false);
  order.placed_at = text_at(body, "placed_at", "", 40, false);
  if (!order.placed_at.empty() && !penstock::parse_time(order.placed_at)) {
    throw InvalidOrder{"/placed_at", "/placed_at is \"" + order.placed_at + R"("; give RFC 3339, as "2026-11-22T08:30:00Z")"};
  }
  const auto lines = body.find("lines");
  if (lines == body.end() || !lines->is_array() || lines->empty()) {
    throw InvalidOrder{"/lines", "/lines is " + (lines == body.end() ? "missing" : shown(*lines)) + "; give at least one line"};
  }
  if (lines->size() > most_lines) {
    throw InvalidOrder{"/lines",
                       "/lines has " + std::to_string(lines->size()) + " entries; at most " + std::to_string(most_lines)};
  }
  Mills amount = 0;  // whatever the signs, so that the total is smaller whichever lines are added up first
  for (std::size_t i = 0; i < lines->size(); ++i) {
    const auto where = "/lines/" + std::to_string(i);
    const auto& line = order.lines.emplace_back(parse_line((*lines)[i], where));
    amount += std::abs(line.quantity * line.unit_price);
    if (amount > highest_amount) {
      throw InvalidOrder{where, where + " brings the lines to " + format_money(amount) + " pounds; at most " +
                                    format_money(highest_amount) + " an order, so split it"};
    }
  }
  return order;
}

std::string to_json(const Order& order) {
  json lines = json::array();
  for (const auto& line : order.lines) {
    lines.push_back({{"sku", line.sku},
                     {"description", line.description},
                     {"quantity", line.quantity},
                     {"unit_price", format_money(line.unit_price)}});
  }
  const json body{{"reference", order.reference},
                  {"kind", order.cancellation ? "cancellation" : "order"},
                  {"customer", order.customer.empty() ? json{} : json(order.customer)},
                  {"country", order.country},
                  {"placed_at", order.placed_at.empty() ? json{} : json(order.placed_at)},
                  {"lines", lines}};
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

bool is_goods(const Line& line) {
  static constexpr std::array<std::string_view, 9> services{"POST", "DOT", "M",         "D",           "C2",
                                                            "S",    "B",   "AMAZONFEE", "BANK CHARGES"};
  return std::find(services.begin(), services.end(), line.sku) == services.end();
}

Decision decide(const Order& order) {
  using Kind = Decision::Kind;
  const auto any = [&](auto&& test) { return std::any_of(order.lines.begin(), order.lines.end(), test); };
  if (any([](const Line& line) { return line.unit_price < 0; })) return {Kind::reject, "negative price: a booking correction"};
  const bool negative = any([](const Line& line) { return line.quantity < 0; });
  if (order.cancellation) {
    if (!negative) return {Kind::reject, "cancellation without a negative quantity"};
    return order.total() < 0 ? Decision{Kind::refund, {}} : Decision{Kind::reject, "cancellation with nothing to refund"};
  }
  if (negative) return {Kind::reject, "negative quantity: a stock correction"};
  if (order.total() == 0) return {Kind::reject, "zero price: nothing to pay"};
  return {Kind::fulfil, {}};
}

}  // namespace shop
