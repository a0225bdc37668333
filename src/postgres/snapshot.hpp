// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::postgres {

/// A pg_snapshot: which transactions were complete at a moment. Those below `xmax` are, except the ones in `in_flight`.
struct Snapshot {
  std::string text{};
  std::uint64_t xmax = 0;
  std::vector<std::uint64_t> in_flight{};  ///< ascending

  /// Throws std::invalid_argument unless it is "xmin:xmax:xid,xid,…".
  static Snapshot parse(std::string_view text);
  /// Before every transaction.
  static Snapshot beginning();

  [[nodiscard]] bool sees(std::uint64_t txid) const;
};

/// Transaction numbers as an array literal.
std::string array_of(const std::vector<std::uint64_t>& numbers);

}  // namespace penstock::postgres
