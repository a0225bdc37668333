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

  /// Those that `fill` has put, at most `max`, into the room it is given; it returns how many. As long as every poll brings
  /// as many as the one before, none is moved.
  template <class Fill>
  std::vector<Message> filled(std::size_t max, Fill fill) {
    std::vector<Message> messages;
    if (spare_.size() <= max) messages.swap(spare_);
    std::size_t used = 0;
    const std::size_t count = fill([&]() -> Message& {
      if (used++ == messages.size()) return take(messages);
      Message& message = messages[used - 1];
      message.defect.clear();
      return message;
    });
    const auto end = messages.begin() + static_cast<std::ptrdiff_t>(count);
    const auto some = [](auto first, auto last) {
      return std::vector<Message>{std::make_move_iterator(first), std::make_move_iterator(last)};
    };
    if (count >= messages.size() / 2) {
      put(some(end, messages.end()));
      messages.erase(end, messages.end());
      return messages;
    }
    std::vector<Message> few = some(messages.begin(), end);
    put(std::move(messages));
    return few;
  }

 private:
  static constexpr std::size_t most = 4'096;
  std::vector<Message> spare_;
};

}  // namespace penstock
