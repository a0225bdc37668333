// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "penstock/source.hpp"

namespace penstock {

/// Messages that are needed no more, for the room of their strings: most of the work of taking a message in is memory.
///
/// Thread safety: none.
class SpareMessages {
 public:
  void put(std::vector<Message> messages) {
    if (spare_.empty()) {
      spare_ = std::move(messages);
      return;
    }
    const std::size_t count = std::min(messages.size(), most - std::min(most, spare_.size()));
    spare_.insert(spare_.end(), std::make_move_iterator(messages.begin()),
                  std::make_move_iterator(messages.begin() + static_cast<std::ptrdiff_t>(count)));
  }
  /// Adds one of them, whose contents are to be overwritten, or a new one.
  Message& take(std::vector<Message>& to) {
    if (spare_.empty()) return to.emplace_back();
    Message& message = to.emplace_back(std::move(spare_.back()));
    spare_.pop_back();
    message.defect.clear();
    return message;
  }

 private:
  static constexpr std::size_t most = 4'096;
  std::vector<Message> spare_;
};

}  // namespace penstock
