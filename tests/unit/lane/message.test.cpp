// SPDX-License-Identifier: Apache-2.0
#include "lane/message.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lane/amqp.hpp"
#include "penstock/envelope.hpp"

namespace penstock::lane {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Event full_event() {
  return {.id = "0193-1",
          .source = "/shop",
          .type = "shop.order.placed.v1",
          .subject = "order/1",
          .key = "customer-7",
          .data = std::string{"\0bytes\xff", 7},
          .content_type = "application/json",
          .time = "2026-11-22T08:30:00.5Z",
          .correlation_id = "story",
          .causation_id = "cause",
          .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01",
          .extensions = {{"tenant", "a"}, {"level", 3}},
          .headers = {{"foreign", "1"}, {"foreign", "2"}, {"void", std::nullopt}}};
}

std::string encoded(const amqp_basic_properties_t& properties) {
  std::string buffer(100'000, '\0');
  const int size = amqp_encode_properties(AMQP_BASIC_CLASS, const_cast<amqp_basic_properties_t*>(&properties), bytes(buffer));
  EXPECT_GT(size, 0);
  buffer.resize(static_cast<std::size_t>(size));
  return buffer;
}

Received sent_and_received(const Parcel& parcel) {
  const std::string raw = encoded(parcel.properties);
  EXPECT_LE(raw.size(), encoded_size(parcel.properties)) << "the estimate is an upper bound";
  RawProperties back{raw};
  return unpack(*back, std::string{parcel.body}, "jobs");
}

TEST(Message, AnEventComesBackAsItWas) {
  const Event event = full_event();
  Parcel parcel = pack(event, "jobs");
  EXPECT_EQ(parcel.refused, "");
  const Received received = sent_and_received(parcel);
  EXPECT_EQ(decode(received.wire, Binding::amqp), event);
  EXPECT_EQ(received.earlier, 0U);
}

TEST(Message, NullAndEmptyPayloadsAreTwoThings) {
  Event event = full_event();
  event.content_type.clear();
  for (const std::optional<std::string>& data : {std::optional<std::string>{}, std::optional<std::string>{""}}) {
    event.data = data;
    Parcel parcel = pack(event, "jobs");
    EXPECT_EQ(decode(sent_and_received(parcel).wire, Binding::amqp).data, data);
  }
}

TEST(Message, SetsTheConventionalProperties) {
  const Parcel parcel = pack(full_event(), "jobs");
  const amqp_basic_properties_t& properties = parcel.properties;
  EXPECT_EQ(properties.delivery_mode, 2);
  EXPECT_EQ(view(properties.content_type), "application/json");
  EXPECT_EQ(view(properties.message_id), "0193-1");
  EXPECT_EQ(view(properties.type), "shop.order.placed.v1");
  EXPECT_EQ(view(properties.correlation_id), "story");
  EXPECT_EQ(view(properties.app_id), "/shop");
  EXPECT_EQ(properties.timestamp, 1'795'336'200U);
  bool found = false;
  for (int i = 0; i < properties.headers.num_entries; ++i) {
    found |= view(properties.headers.entries[i].key) == "cloudEvents_id" &&
             properties.headers.entries[i].value.kind == AMQP_FIELD_KIND_UTF8;
  }
  EXPECT_TRUE(found) << "attributes are long strings under cloudEvents_";
}

TEST(Message, LongIdsAreLeftOutOfShortProperties) {
  Event event = full_event();
  event.id = std::string(300, 'i');
  Parcel parcel = pack(event, "jobs");
  EXPECT_EQ(parcel.refused, "");
  EXPECT_EQ(parcel.returned_id(), "");
  EXPECT_EQ(decode(sent_and_received(parcel).wire, Binding::amqp).id, event.id);
}

TEST(Message, RefusesWhatAmqpCannotCarry) {
  const auto refused = [](Header header) {
    Event event = full_event();
    event.headers = {std::move(header)};
    return pack(event, "jobs").refused;
  };
  EXPECT_THAT(refused({std::string(256, 'n'), "x"}), HasSubstr("255"));
  EXPECT_THAT(refused({"CC", "other-queue"}), HasSubstr("rename"));
  EXPECT_THAT(refused({"BCC", "other-queue"}), HasSubstr("rename"));
  EXPECT_THAT(refused({"x-penstock-deliveries", "7"}), HasSubstr("penstock"));
  EXPECT_THAT(pack(Event{.type = "no.source"}, "jobs").refused, ::testing::Not(IsEmpty()));
  EXPECT_EQ(pack(full_event(), std::string(255, 'k')).refused, "");
  EXPECT_THAT(pack(full_event(), std::string(256, 'k')).refused, HasSubstr("routing key"));
}

TEST(Message, PropertiesWithoutAttributeTravelAsHeadersAndBack) {
  Event event = full_event();
  event.headers = {{"amqp-reply-to", "answers"}, {"amqp-priority", "7"}, {"amqp-content-encoding", "gzip"}};
  Parcel parcel = pack(event, "jobs");
  EXPECT_EQ(view(parcel.properties.reply_to), "answers");
  EXPECT_EQ(parcel.properties.priority, 7);
  EXPECT_EQ(view(parcel.properties.content_encoding), "gzip");
  constexpr amqp_flags_t set = AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_PRIORITY_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG;
  EXPECT_EQ(parcel.properties._flags & set, set);
  EXPECT_THAT(decode(sent_and_received(parcel).wire, Binding::amqp).headers,
              ::testing::UnorderedElementsAreArray(event.headers));
}

// The first that fits is the property; the others stay headers, with their texts whatever they are.
TEST(Message, AHeaderThatIsNoPropertyStaysOne) {
  Event event = full_event();
  event.headers = {{"amqp-reply-to", std::string(256, 'r')},
                   {"amqp-reply-to", ""},
                   {"amqp-reply-to", "a"},
                   {"amqp-reply-to", "b"},
                   {"amqp-priority", "256"},
                   {"amqp-priority", std::nullopt},
                   {"amqp-priority", "3"},
                   {"amqp-priority", "4"},
                   {"AMQP-Priority", "5"}};
  const Parcel parcel = pack(event, "jobs");
  EXPECT_EQ(parcel.refused, "");
  EXPECT_EQ(view(parcel.properties.reply_to), "a");
  EXPECT_EQ(parcel.properties.priority, 3);
  Headers left;
  for (const Header& header : sent_and_received(parcel).wire.headers) {
    if (header.name.starts_with("amqp-") || header.name.starts_with("AMQP-")) left.push_back(header);
  }
  // The two properties are the last that are read.
  EXPECT_EQ(left, (Headers{{"amqp-reply-to", std::string(256, 'r')},
                           {"amqp-reply-to", "b"},
                           {"amqp-priority", "256"},
                           {"amqp-priority", std::nullopt},
                           {"amqp-priority", "4"},
                           {"AMQP-Priority", "5"},
                           {"amqp-reply-to", "a"},
                           {"amqp-priority", "3"}}));
}

// A parcel that lends its memory leaves nothing of itself, whatever it was.
TEST(Message, AParcelIsMadeInTheRoomOfAnother) {
  Event large = full_event();
  large.headers.insert(large.headers.end(), 50, Header{"amqp-priority", "9"});
  large.data = std::string(5'000, 'x');
  Event bare{.id = "1", .source = "/s", .type = "t"};
  Event refused = full_event();
  refused.headers = {{"CC", "x"}};
  Parcel room;
  for (const Event* event : {&large, &bare, &refused, &bare, &large, &bare}) {
    const Parcel fresh = pack(*event, "jobs");
    room = pack(*event, "jobs", std::move(room));
    EXPECT_EQ(room.refused, fresh.refused);
    if (!fresh.refused.empty()) continue;
    EXPECT_EQ(encoded(room.properties), encoded(fresh.properties));
    EXPECT_EQ(room.body, fresh.body);
    EXPECT_EQ(room.routing_key, "jobs");
    EXPECT_EQ(room.returned_id(), event->id);
  }
}

// What waits for its confirm is looked for by key and id, and holds no large body.
TEST(Message, AParcelThatIsSentKeepsKeyAndIdAndLittleElse) {
  Event event = full_event();
  Parcel small = pack(event, "jobs");
  event.data = std::string(1'000'000, 'x');
  Parcel large = pack(event, "jobs");
  EXPECT_GT(large.footprint(), 1'000'000U);
  event.id = std::string(300, 'i');
  Parcel nameless = pack(event, "jobs");
  for (Parcel* parcel : {&small, &large, &nameless}) {
    parcel->shrink();
    const Parcel moved = std::move(*parcel);
    EXPECT_EQ(moved.routing_key, "jobs");
    EXPECT_EQ(moved.returned_id(), parcel == &nameless ? "" : "0193-1");
    EXPECT_LT(moved.footprint(), 20'000U);
  }
}

amqp_field_value_t value_of(std::uint8_t kind) {
  amqp_field_value_t value{};
  value.kind = kind;
  return value;
}

TEST(FieldText, IsCanonical) {
  auto value = value_of(AMQP_FIELD_KIND_BOOLEAN);
  value.value.boolean = 1;
  EXPECT_EQ(canonical_text(value), "true");
  value = value_of(AMQP_FIELD_KIND_I8);
  value.value.i8 = -7;
  EXPECT_EQ(canonical_text(value), "-7");
  value = value_of(AMQP_FIELD_KIND_U8);
  value.value.u8 = 200;
  EXPECT_EQ(canonical_text(value), "200");
  value = value_of(AMQP_FIELD_KIND_I64);
  value.value.i64 = INT64_MIN;
  EXPECT_EQ(canonical_text(value), "-9223372036854775808");
  value = value_of(AMQP_FIELD_KIND_F64);
  value.value.f64 = 0.1;
  EXPECT_EQ(canonical_text(value), "0.1");
  value = value_of(AMQP_FIELD_KIND_DECIMAL);
  value.value.decimal = {2, 5};
  EXPECT_EQ(canonical_text(value), "0.05");
  value.value.decimal = {0, 42};
  EXPECT_EQ(canonical_text(value), "42");
  value.value.decimal = {1, 1234};
  EXPECT_EQ(canonical_text(value), "123.4");
  value = value_of(AMQP_FIELD_KIND_TIMESTAMP);
  value.value.u64 = 1'795'336'200;
  EXPECT_EQ(canonical_text(value), "2026-11-22T08:30:00Z");
  value.value.u64 = 0;
  EXPECT_EQ(canonical_text(value), "1970-01-01T00:00:00Z");
  value.value.u64 = UINT64_MAX;
  EXPECT_EQ(canonical_text(value), "18446744073709551615");
  EXPECT_EQ(canonical_text(value_of(AMQP_FIELD_KIND_VOID)), std::nullopt);
  value = value_of(AMQP_FIELD_KIND_BYTES);
  value.value.bytes = bytes("raw");
  EXPECT_EQ(canonical_text(value), "raw");
}

TEST(FieldText, TablesAndArraysBecomeJson) {
  std::vector<amqp_field_value_t> items{value_of(AMQP_FIELD_KIND_I32), value_of(AMQP_FIELD_KIND_UTF8),
                                        value_of(AMQP_FIELD_KIND_VOID)};
  items[0].value.i32 = 5;
  items[1].value.bytes = bytes("a\"b\n");
  std::vector<amqp_table_entry_t> entries{entry("k", true), entry("list", std::int64_t{0})};
  entries[1].value.kind = AMQP_FIELD_KIND_ARRAY;
  entries[1].value.value.array = {static_cast<int>(items.size()), items.data()};
  auto table = value_of(AMQP_FIELD_KIND_TABLE);
  table.value.table = {static_cast<int>(entries.size()), entries.data()};
  EXPECT_EQ(canonical_text(table), R"({"k":true,"list":[5,"a\"b\u000a",null]})");
}

// What a stranger sent, typed headers and all, goes through a delay unchanged; only RabbitMQ's and our traces come off.
TEST(Repack, KeepsTypesAndTakesOffTheTracesOfDelays) {
  std::vector<amqp_table_entry_t> ours{entry("queue", std::string_view{"jobs.retry.500"}), entry("count", std::int64_t{1})};
  std::vector<amqp_table_entry_t> theirs{entry("queue", std::string_view{"other"}), entry("count", std::int64_t{2})};
  std::vector<amqp_field_value_t> deaths{value_of(AMQP_FIELD_KIND_TABLE), value_of(AMQP_FIELD_KIND_TABLE)};
  deaths[0].value.table = {2, ours.data()};
  deaths[1].value.table = {2, theirs.data()};
  std::vector<amqp_table_entry_t> headers{entry("number", std::int64_t{42}),
                                          entry("x-death", std::int64_t{0}),
                                          entry("x-first-death-queue", std::string_view{"jobs.retry.500"}),
                                          entry("x-first-death-reason", std::string_view{"expired"}),
                                          entry("x-delivery-count", std::int64_t{1}),
                                          entry(deliveries_header, std::int64_t{3}),
                                          entry(null_header, true),
                                          entry("CC", std::string_view{"elsewhere"})};
  headers[1].value.kind = AMQP_FIELD_KIND_ARRAY;
  headers[1].value.value.array = {2, deaths.data()};
  amqp_basic_properties_t properties{};
  properties._flags =
      AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_USER_ID_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG;
  properties.headers = {static_cast<int>(headers.size()), headers.data()};
  properties.expiration = bytes("10");
  properties.user_id = bytes("stranger");
  properties.message_id = bytes("m-1");
  const std::string raw = encoded(properties);

  const Received received = [&] {
    RawProperties decoded{raw};
    return unpack(*decoded, "", "jobs");
  }();
  EXPECT_EQ(received.earlier, 4U);
  EXPECT_TRUE(received.counted);
  EXPECT_EQ(received.wire.payload, std::nullopt);
  EXPECT_THAT(received.wire.headers, ::testing::UnorderedElementsAre(Header{"number", "42"}, Header{"CC", "elsewhere"},
                                                                     Header{"x-death", R"([{"queue":"other","count":2}])"}));

  Parcel parcel = repack(raw, "", "jobs", DelayQueue{"jobs", 500ms}, 5, "guest");
  EXPECT_EQ(parcel.routing_key, "jobs.retry.500");
  EXPECT_EQ(parcel.returned_id(), "m-1");
  RawProperties again{encoded(parcel.properties)};
  EXPECT_EQ(again->_flags & (AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_USER_ID_FLAG), 0U);
  EXPECT_EQ(again->delivery_mode, 2);
  ASSERT_EQ(again->headers.num_entries, 5);
  EXPECT_EQ(view(again->headers.entries[0].key), "number");
  EXPECT_EQ(again->headers.entries[0].value.kind, AMQP_FIELD_KIND_I64);
  const Received twice = unpack(*again, "", "jobs");
  EXPECT_EQ(twice.earlier, 5U);
  EXPECT_EQ(twice.wire.payload, std::nullopt);
  EXPECT_THAT(twice.wire.headers,
              ::testing::UnorderedElementsAre(Header{"number", "42"}, Header{"x-death", R"([{"queue":"other","count":2}])"}));
  parcel.shrink();
  EXPECT_EQ(parcel.routing_key, "jobs.retry.500");
  EXPECT_EQ(parcel.returned_id(), "m-1");
}

// RabbitMQ sorts the headers of what it dead-letters.
TEST(Repack, RestoresTheOrderOfHeaders) {
  std::vector<amqp_table_entry_t> headers{entry("b", std::string_view{"1"}), entry("a", std::string_view{"2"}),
                                          entry("b", std::string_view{"3"}), entry("A", std::string_view{"4"})};
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_HEADERS_FLAG;
  properties.headers = {static_cast<int>(headers.size()), headers.data()};
  const Headers original{{"b", "1"}, {"a", "2"}, {"b", "3"}, {"A", "4"}};

  Parcel parcel = repack(encoded(properties), "body", "jobs", DelayQueue{"jobs", 50ms}, 1, "guest");
  RawProperties moved{encoded(parcel.properties)};
  std::stable_sort(moved->headers.entries, moved->headers.entries + moved->headers.num_entries,
                   [](const auto& a, const auto& b) { return view(a.key) < view(b.key); });
  EXPECT_EQ(unpack(*moved, "body", "jobs").wire.headers, original);
  Parcel twice = repack(encoded(*moved), "body", "jobs", DelayQueue{"jobs", 50ms}, 2, "guest");
  RawProperties again{encoded(twice.properties)};
  EXPECT_EQ(unpack(*again, "body", "jobs").wire.headers, original);

  // An order that is not of these headers changes nothing.
  for (const char* order : {"0 1 2", "0 1 2 3 4", "0 0 1 2", "9 1 2 3", "x", "0,1,2,3", "-1 0 1 2"}) {
    std::vector<amqp_table_entry_t> wrong = headers;
    wrong.push_back(entry(order_header, std::string_view{order}));
    properties.headers = {static_cast<int>(wrong.size()), wrong.data()};
    EXPECT_EQ(unpack(properties, "body", "jobs").wire.headers, original) << order;
  }
}

TEST(Repack, WithoutHeadersOrDelayToo) {
  amqp_basic_properties_t properties{};
  Parcel parcel = repack(encoded(properties), "body", "jobs", std::nullopt, 1, "guest");
  EXPECT_EQ(parcel.routing_key, "jobs");
  RawProperties again{encoded(parcel.properties)};
  EXPECT_EQ(unpack(*again, "body", "jobs").earlier, 1U);
}

}  // namespace
}  // namespace penstock::lane
