// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "order.hpp"

namespace shop {

/// Reads orders from NDJSON (one order a line, as POST /orders takes it) or CSV in the "Online Retail" format (one line of an
/// order a line; lines of one InvoiceNo are one order, adjacent or not; `C…` invoices are cancellations). Which of the two is
/// seen from the first character. Throws std::runtime_error naming the line, the value and the remedy.
std::vector<Order> read_orders(std::istream& file, const std::string& name);

}  // namespace shop
