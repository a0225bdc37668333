// SPDX-License-Identifier: Apache-2.0
#include "postgres/id_floor.hpp"

#include <algorithm>
#include <cstddef>

namespace penstock::postgres {
namespace {

constexpr std::size_t kMostMarks = 8;

}  // namespace

void IdFloor::reset(std::int64_t floor) {
  known_ = floor;
  seen_ = 0;
  marks_.clear();
}

void IdFloor::saw(std::int64_t id) { seen_ = std::max(seen_, id); }

void IdFloor::mark(std::uint64_t txid) {
  // While a large window is read, its snapshot stays and marks come and come. Those in between are not missed much.
  if (marks_.size() == kMostMarks) {
    marks_.pop_back();
  }
  marks_.push_back({txid, seen_});
}

std::int64_t IdFloor::at(const Snapshot& prev) {
  for (; !marks_.empty() && marks_.front().txid < prev.xmax; marks_.pop_front()) {
    known_ = std::max(known_, marks_.front().id);
  }
  return known_;
}

}  // namespace penstock::postgres
