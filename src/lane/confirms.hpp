// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory_resource>
#include <utility>

namespace penstock::lane {

/// The publisher confirms of one AMQP channel: delivery tags count from 1, in publishing order, and RabbitMQ settles them one
/// by one or up to a tag. Lives and dies with its channel, as tags start anew with the next one.
/// Thread safety: one thread.
template <class T>
class Confirms {
 public:
  std::uint64_t add(T value) {
    open_.emplace_hint(open_.end(), ++last_, std::move(value));
    return last_;
  }

  /// Hands every entry the confirm covers to `settled`, in order. Tag 0 with `multiple` covers all. A tag that is not open is
  /// ignored: it was settled before.
  template <class Settled>
  void settle(std::uint64_t tag, bool multiple, Settled&& settled) {
    auto first = multiple ? open_.begin() : open_.find(tag);
    auto last = open_.end();
    if (!multiple) {
      if (first == open_.end()) return;
      last = std::next(first);
    } else if (tag != 0) {
      last = open_.upper_bound(tag);
    }
    while (first != last) {
      settled(first->second);
      first = open_.erase(first);
    }
  }

  /// The oldest open entry that matches, or nullptr.
  template <class Matches>
  T* find(Matches&& matches) {
    for (auto& [tag, value] : open_) {
      if (matches(value)) return &value;
    }
    return nullptr;
  }

  /// Hands out everything that is open, in order: the channel is gone.
  template <class Lost>
  void clear(Lost&& lost) {
    auto open = std::exchange(open_, {});
    last_ = 0;
    for (auto& [tag, value] : open) lost(value);
  }

  [[nodiscard]] std::size_t size() const noexcept { return open_.size(); }
  [[nodiscard]] bool empty() const noexcept { return open_.empty(); }

 private:
  std::pmr::unsynchronized_pool_resource nodes_;  // entries come and go all the time, so their memory is kept
  std::pmr::map<std::uint64_t, T> open_{&nodes_};
  std::uint64_t last_ = 0;
};

}  // namespace penstock::lane
