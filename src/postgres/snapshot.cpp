// SPDX-License-Identifier: Apache-2.0
#include "postgres/snapshot.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace penstock::postgres {
namespace {

std::uint64_t take_number(std::string_view& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) {
    throw std::invalid_argument("not a snapshot");
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

void take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) {
    throw std::invalid_argument("not a snapshot");
  }
  text.remove_prefix(1);
}

}  // namespace

Snapshot Snapshot::parse(std::string_view text) {
  Snapshot snapshot{.text = std::string{text}};
  take_number(text);
  take(text, ':');
  snapshot.xmax = take_number(text);
  take(text, ':');
  while (!text.empty()) {
    snapshot.in_flight.push_back(take_number(text));
    if (!text.empty()) {
      take(text, ',');
    }
  }
  return snapshot;
}

// 3 is the first number that a transaction can have.
Snapshot Snapshot::beginning() { return parse("3:3:"); }

bool Snapshot::sees(std::uint64_t txid) const {
  return txid < xmax && !std::binary_search(in_flight.begin(), in_flight.end(), txid);
}

std::string array_of(const std::vector<std::uint64_t>& numbers) {
  std::string text = "{";
  for (const std::uint64_t number : numbers) {
    if (text.size() > 1) {
      text += ',';
    }
    text += std::to_string(number);
  }
  return text + "}";
}

}  // namespace penstock::postgres
