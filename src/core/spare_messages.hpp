// SPDX-License-Identifier: Apache-2.0
#pragma once

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
    if (messages.empty() || count_ + messages.size() > most) return;
    count_ += messages.size();
    spare_.push_back(std::move(messages));
  }
  /// Adds one of them, whose contents are to be overwritten, or a new one.
  Message& take(std::vector<Message>& to) {
    if (spare_.empty()) return to.emplace_back();
    std::vector<Message>& last = spare_.back();
    Message& message = to.emplace_back(std::move(last.back()));
    last.pop_back();
    if (last.empty()) spare_.pop_back();
    --count_;
    message.defect.clear();
    return message;
  }

  /// Those that `fill` has put, at most `max`, into the room it is given; it returns how many. As long as every poll brings
  /// as many as the one before, none is moved.
  template <class Fill>
  std::vector<Message> filled(std::size_t max, Fill fill) {
    std::vector<Message> messages;
    if (!spare_.empty() && spare_.back().size() <= max) {
      messages = std::move(spare_.back());
      spare_.pop_back();
      count_ -= messages.size();
    }
    std::size_t used = 0;
    const std::size_t count = fill([&]() -> Message& {
      if (used++ == messages.size()) return take(messages);
      Message& message = messages[used - 1];
      message.defect.clear();
      return message;
    });
    if (count == 0) {
      put(std::exchange(messages, {}));
    } else if (count < messages.size()) {
      const auto rest = messages.begin() + static_cast<std::ptrdiff_t>(count);
      put({std::make_move_iterator(rest), std::make_move_iterator(messages.end())});
      messages.erase(rest, messages.end());
    }
    return messages;
  }

 private:
  static constexpr std::size_t most = 4'096;
  std::vector<std::vector<Message>> spare_;  ///< as they were put, none of them empty
  std::size_t count_ = 0;                    ///< of all
};

}  // namespace penstock
