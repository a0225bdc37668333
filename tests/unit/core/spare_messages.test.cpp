// SPDX-License-Identifier: Apache-2.0
#include "core/spare_messages.hpp"

#include <gmock/gmock.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace penstock {
namespace {

using ::testing::ElementsAre;

std::vector<Message> filled(SpareMessages& spare, std::size_t max, std::size_t count) {
  return spare.filled(max, [count](const MessageRoom& room) {
    for (std::size_t i = 0; i < count; ++i) {
      Message& message = room();
      EXPECT_EQ(message.defect, "");
      message.event.id = std::to_string(i);
    }
    return count;
  });
}

std::vector<std::string> ids(const std::vector<Message>& messages) {
  std::vector<std::string> all;
  for (const Message& message : messages) all.push_back(message.id());
  return all;
}

TEST(SpareMessages, AsManyAsBeforeAreWrittenWhereTheyWere) {
  SpareMessages spare;
  std::vector<Message> messages = filled(spare, 3, 3);
  const Message* const first = messages.data();
  messages[1].defect = "broken";
  spare.put(std::move(messages));
  messages = filled(spare, 3, 3);
  EXPECT_EQ(messages.data(), first);
  EXPECT_THAT(ids(messages), ElementsAre("0", "1", "2"));
}

TEST(SpareMessages, FewerAndMoreComeInTheirOrder) {
  SpareMessages spare;
  for (const std::size_t count : {4U, 0U, 1U, 3U, 9U, 2U, 5U, 10U}) {
    std::vector<Message> messages = filled(spare, 10, count);
    ASSERT_EQ(messages.size(), count);
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(messages[i].id(), std::to_string(i));
    spare.put(std::move(messages));
  }
  EXPECT_THAT(ids(filled(spare, 2, 2)), ElementsAre("0", "1")) << "though more are spare";
}

/// A source that knows vectors only.
class Plain final : public Source {
 public:
  [[nodiscard]] SourceTraits traits() const noexcept override { return {}; }
  [[nodiscard]] const std::string& channel() const noexcept override { return channel_; }
  void open(const std::string& /*group*/, std::shared_ptr<Logger> /*logger*/) override {}
  std::vector<Message> poll(std::size_t max, std::chrono::milliseconds /*wait*/) override {
    std::vector<Message> messages(max);
    for (std::size_t i = 0; i < max; ++i) messages[i].event.id = "new " + std::to_string(i);
    return messages;
  }
  void ack(const Message& /*message*/) override {}
  void recycle(std::vector<Message> messages) override { recycled = std::move(messages); }
  void retry(const Message& /*message*/, std::chrono::milliseconds /*delay*/) override {}
  void pause(bool /*paused*/) override {}
  void close(std::chrono::milliseconds /*timeout*/) override {}

  std::vector<Message> recycled;

 private:
  std::string channel_ = "plain";
};

TEST(Source, OneThatKnowsVectorsOnlyGetsOldMessagesForThem) {
  Plain source;
  std::vector<Message> messages(2);
  messages[0].event.id = "old 0";
  messages[1].event.id = "old 1";
  std::size_t next = 0;
  EXPECT_EQ(source.poll_into([&]() -> Message& { return messages[next++]; }, 2, {}), 2U);
  EXPECT_THAT(ids(messages), ElementsAre("new 0", "new 1"));
  EXPECT_THAT(ids(source.recycled), ElementsAre("old 0", "old 1"));
}

}  // namespace
}  // namespace penstock
