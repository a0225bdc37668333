// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "lane/settings.hpp"
#include "penstock/lane.hpp"
#include "penstock/source.hpp"

namespace penstock::lane {

class Subscription;

/// One queue as a source. See Source and Subscription.
class LaneSource final : public Source {
 public:
  LaneSource(const Settings& settings, std::string channel, LaneSourceOptions options);
  ~LaneSource() override;

  [[nodiscard]] SourceTraits traits() const noexcept override;
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }
  void open(const std::string& group, std::shared_ptr<Logger> logger) override;
  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds wait) override;
  void ack(const Message& message) override;
  void retry(const Message& message, std::chrono::milliseconds delay) override;
  void pause(bool paused) override;
  void close(std::chrono::milliseconds timeout) override;

 private:
  Subscription& subscription();

  Settings settings_;
  std::string channel_;
  std::string queue_;  ///< the channel's, with the prefix
  LaneSourceOptions options_;
  std::unique_ptr<Subscription> subscription_;
};

}  // namespace penstock::lane
