// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace shop {

/// Money in thousandths of a pound: the price lists have up to three decimals, and sums stay exact.
using Mills = std::int64_t;

/// "2.55" → 2550. Throws std::invalid_argument for anything but a plain decimal with at most three decimals.
Mills parse_money(std::string_view text);
std::string format_money(Mills amount);

struct Line {
  std::string sku;
  std::string description;
  std::int64_t quantity = 0;
  Mills unit_price = 0;
};

/// An order as a customer sent it. A cancellation is an order of its own, with negative quantities.
struct Order {
  std::string reference;  ///< the customer's own number
  bool cancellation = false;
  std::string customer;  ///< empty for a guest
  std::string country;
  std::string placed_at;  ///< RFC 3339, as the customer says
  std::vector<Line> lines;

  [[nodiscard]] Mills total() const;
};

/// An order that cannot be taken. `field` is a JSON pointer to what is wrong.
struct InvalidOrder : std::invalid_argument {
  InvalidOrder(std::string where, const std::string& why) : std::invalid_argument{why}, field{std::move(where)} {}
  std::string field;
};

/// Whether it can be an attribute of an event, and so a name or number of an order: UTF-8 without control characters and
/// non-characters.
bool is_plain(const std::string& text);

/// Reads an order's JSON. Throws InvalidOrder naming the field, the value and the remedy.
Order parse_order(std::string_view json);
std::string to_json(const Order& order);

/// What the shop makes of an order, before money or stock are touched.
struct Decision {
  enum class Kind { fulfil, refund, reject } kind = Kind::fulfil;
  std::string reason;  ///< of a rejection
};
Decision decide(const Order& order);

/// Whether a line is a thing that lies in the stock, and not postage, a discount or a fee.
bool is_goods(const Line& line);

}  // namespace shop
