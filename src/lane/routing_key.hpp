// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "penstock/event.hpp"

namespace penstock::lane {

/// The routing key of a channel's events: text in which `{type}`, `{source}`, `{subject}` and `{key}` stand for what the event
/// has there. Thread safety: `of` from several threads.
class RoutingKey {
 public:
  /// Throws std::invalid_argument for a brace that belongs to none of these, and for text that is too long without any event.
  explicit RoutingKey(std::string_view pattern);
  /// The text as it is.
  static RoutingKey fixed(std::string text);

  /// The key of the event. The view lasts as long as this, `room` and the event do.
  [[nodiscard]] std::string_view of(const Event& event, std::string& room) const;

 private:
  RoutingKey() = default;
  struct Part {
    std::string text{};
    std::string Event::*field = nullptr;  ///< after the text
  };
  std::vector<Part> parts_;
};

/// Where a channel's events go: to an exchange, or without one to the queue.
struct Target {
  std::string exchange{};
  std::string queue{};
  RoutingKey key;
};

}  // namespace penstock::lane
