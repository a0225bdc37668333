// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace shop {

/// Creates the shop's tables (schema `shop`), the providers' ledgers (schemas `payment` and `stock`) and penstock's own schema.
/// Any number of processes may call it at once.
void create_tables(const std::string& url);

}  // namespace shop
