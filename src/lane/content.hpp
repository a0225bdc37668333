// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "lane/amqp.hpp"

namespace penstock::lane {

/// Puts a message together from its header and body frames, copied out of rabbitmq-c's memory. A method frame comes first.
/// Thread safety: one thread.
class Content {
 public:
  void begin() {
    expected_ = true;
    properties_.clear();
    body_.clear();
    size_ = 0;
  }
  void reset() { expected_ = false; }
  [[nodiscard]] bool expected() const noexcept { return expected_; }

  /// Takes a header or body frame; true when the message is whole.
  bool take(const amqp_frame_t& frame) {
    if (frame.frame_type == AMQP_FRAME_HEADER) {
      properties_ = text(frame.payload.properties.raw);
      size_ = static_cast<std::size_t>(frame.payload.properties.body_size);
      body_.reserve(std::min<std::size_t>(size_, std::size_t{16} << 20U));
    } else {
      body_.append(view(frame.payload.body_fragment));
    }
    if (body_.size() < size_) return false;
    expected_ = false;
    return true;
  }

  /// The encoded properties, for RawProperties.
  std::string& properties() noexcept { return properties_; }
  std::string& body() noexcept { return body_; }

 private:
  bool expected_ = false;
  std::string properties_;
  std::string body_;
  std::size_t size_ = 0;
};

}  // namespace penstock::lane
