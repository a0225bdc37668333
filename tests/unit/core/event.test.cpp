// SPDX-License-Identifier: Apache-2.0
#include "penstock/event.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <limits>
#include <string>

namespace penstock {
namespace {

using namespace std::chrono_literals;
using std::chrono::system_clock;
using ::testing::HasSubstr;

Event minimal() {
  Event event;
  event.id = "1";
  event.source = "/shop";
  event.type = "shop.order.placed.v1";
  return event;
}

struct Case {
  const char* what;
  std::function<void(Event&)> change;
  const char* attribute;  ///< that InvalidEvent names; null when the event stays valid
};

class Validate : public ::testing::TestWithParam<Case> {};

TEST_P(Validate, NamesTheAttribute) {
  Event event = minimal();
  GetParam().change(event);
  if (GetParam().attribute == nullptr) {
    EXPECT_NO_THROW(validate(event));
    return;
  }
  try {
    validate(event);
    FAIL() << "accepted: " << GetParam().what;
  } catch (const InvalidEvent& error) {
    EXPECT_EQ(error.attribute(), GetParam().attribute);
    EXPECT_THAT(error.what(), HasSubstr(GetParam().attribute));
    EXPECT_LT(std::string{error.what()}.size(), 400U);
  }
}

const Case cases[] = {
    {"minimal", [](Event&) {}, nullptr},
    {"no id", [](Event& e) { e.id.clear(); }, "id"},
    {"no source", [](Event& e) { e.source.clear(); }, "source"},
    {"no type", [](Event& e) { e.type.clear(); }, "type"},
    {"id with a line break", [](Event& e) { e.id = "a\nb"; }, "id"},
    {"id with DEL", [](Event& e) { e.id = "a\x7f"; }, "id"},
    {"id with a C1 control", [](Event& e) { e.id = "a\xC2\x85"; }, "id"},
    {"id with a non-character", [](Event& e) { e.id = "\xEF\xBF\xBF"; }, "id"},
    {"id with a surrogate", [](Event& e) { e.id = "\xED\xA0\x80"; }, "id"},
    {"id with an overlong form", [](Event& e) { e.id = "\xC0\xA0"; }, "id"},
    {"a long broken id", [](Event& e) { e.id = std::string(5000, 'x') + "\n"; }, "id"},
    {"id with spaces, quotes and more", [](Event& e) { e.id = "Euro € 😀 \"%\""; }, nullptr},
    {"source: URL", [](Event& e) { e.source = "https://example.com/a?b=c%20d#e"; }, nullptr},
    {"source: URN", [](Event& e) { e.source = "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"; }, nullptr},
    {"source: mailto", [](Event& e) { e.source = "mailto:cncf-wg-serverless@lists.cncf.io"; }, nullptr},
    {"source: relative", [](Event& e) { e.source = "1-555-123-4567"; }, nullptr},
    {"source: a relative path with a colon later", [](Event& e) { e.source = "a/b:c"; }, nullptr},
    {"source: letters of other scripts", [](Event& e) { e.source = "/bücher"; }, nullptr},
    {"source: space", [](Event& e) { e.source = "my service"; }, "source"},
    {"source: broken escape", [](Event& e) { e.source = "/a%2"; }, "source"},
    {"source: broken scheme", [](Event& e) { e.source = "1a:b"; }, "source"},
    {"source: no scheme before the colon", [](Event& e) { e.source = ":b"; }, "source"},
    {"source: two fragments", [](Event& e) { e.source = "/a#b#c"; }, "source"},
    {"source: angle brackets", [](Event& e) { e.source = "/a<b>"; }, "source"},
    {"source: NUL",
     [](Event& e) {
       e.source = std::string{"/a\0b", 4};
     },
     "source"},
    {"dataschema: absolute", [](Event& e) { e.data_schema = "urn:shop:order:1.0"; }, nullptr},
    {"dataschema: relative", [](Event& e) { e.data_schema = "/schema"; }, "dataschema"},
    {"time", [](Event& e) { e.time = "2018-04-05T17:31:00.123456789+02:00"; }, nullptr},
    {"time of year 1", [](Event& e) { e.time = "0001-01-01T00:00:00Z"; }, nullptr},
    {"time without zone", [](Event& e) { e.time = "2018-04-05T17:31:00"; }, "time"},
    {"time: a word", [](Event& e) { e.time = "yesterday"; }, "time"},
    {"media type", [](Event& e) { e.content_type = "application/json;charset=\"utf-8\"; x=y"; }, nullptr},
    {"media type: a word", [](Event& e) { e.content_type = "json"; }, "datacontenttype"},
    {"media type: parameter without value", [](Event& e) { e.content_type = "text/xml; charset"; }, "datacontenttype"},
    {"media type: quote without end", [](Event& e) { e.content_type = "text/xml; a=\"b"; }, "datacontenttype"},
    {"media type: no subtype", [](Event& e) { e.content_type = "text/"; }, "datacontenttype"},
    {"media type: structured mode", [](Event& e) { e.content_type = "Application/CloudEvents+json"; }, "datacontenttype"},
    {"subject", [](Event& e) { e.subject = "a\tb"; }, "subject"},
    {"key: any bytes",
     [](Event& e) {
       e.key = std::string{"\xff\x00\n", 3};
     },
     nullptr},
    {"trace", [](Event& e) { e.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"; }, nullptr},
    {"trace: broken", [](Event& e) { e.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1"; }, "traceparent"},
    {"trace state alone", [](Event& e) { e.tracestate = "a=b"; }, "tracestate"},
    {"trace state: broken",
     [](Event& e) {
       e.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01";
       e.tracestate = "A=b";
     },
     "tracestate"},
    {"extension",
     [](Event& e) {
       e.extensions = {{"comexampleextension1withaverylongname", "x"}, {"n", 5}};
     },
     nullptr},
    {"extension: empty text",
     [](Event& e) {
       e.extensions = {{"a", ""}};
     },
     nullptr},
    {"extension: upper case",
     [](Event& e) {
       e.extensions = {{"Ext", "x"}};
     },
     "extensions"},
    {"extension: underscore",
     [](Event& e) {
       e.extensions = {{"my_ext", "x"}};
     },
     "extensions"},
    {"extension: no name",
     [](Event& e) {
       e.extensions = {{"", "x"}};
     },
     "extensions"},
    {"extension: data",
     [](Event& e) {
       e.extensions = {{"data", "x"}};
     },
     "extensions"},
    {"extension: a core attribute",
     [](Event& e) {
       e.extensions = {{"subject", "x"}};
     },
     "extensions"},
    {"extension: specversion",
     [](Event& e) {
       e.extensions = {{"specversion", "1.0"}};
     },
     "extensions"},
    {"extension: one with a member",
     [](Event& e) {
       e.extensions = {{"partitionkey", "x"}};
     },
     "extensions"},
    {"extension: control character",
     [](Event& e) {
       e.extensions = {{"ext", "x\r\n"}};
     },
     "ext"},
    {"header: bytes and null",
     [](Event& e) {
       e.headers = {{"h", "\xff\n"}, {"h", std::nullopt}, {"", "x"}};
     },
     nullptr},
    {"header: NUL in its name",
     [](Event& e) {
       e.headers = {{std::string{"a\0b", 3}, "x"}};
     },
     "headers"},
};
INSTANTIATE_TEST_SUITE_P(Table, Validate, ::testing::ValuesIn(cases));

TEST(InvalidEvent, NamesAttributeShortenedValueAndRemedy) {
  Event event = minimal();
  event.source = "my service " + std::string(500, 'x');
  try {
    validate(event);
    FAIL();
  } catch (const InvalidEvent& error) {
    EXPECT_EQ(std::string{error.what()}.substr(0, 38), "invalid event: source 'my service xxxx");
    EXPECT_THAT(error.what(), HasSubstr("…' is no URI-reference; percent-encode"));
    EXPECT_LT(std::string{error.what()}.size(), 220U);
  }
}

TEST(Rule19, ThePayloadIsNotLookedAt) {
  Event event = minimal();
  event.content_type = "application/json";
  event.data = std::string{"{not json \xff\0", 12};
  EXPECT_NO_THROW(validate(event));
}

TEST(ExtensionValue, KnowsItsTypeAndCanonicalText) {
  EXPECT_EQ(ExtensionValue{true}.text(), "true");
  EXPECT_EQ(ExtensionValue{true}.type(), ExtensionValue::Type::boolean);
  EXPECT_EQ(ExtensionValue{std::numeric_limits<std::int32_t>::min()}.text(), "-2147483648");
  EXPECT_EQ(ExtensionValue{7}.type(), ExtensionValue::Type::integer);
  EXPECT_EQ(ExtensionValue::binary("\x01\x02").text(), "AQI=");
  EXPECT_EQ(ExtensionValue::binary("\x01\x02").type(), ExtensionValue::Type::binary);
  EXPECT_EQ(ExtensionValue{"x"}.type(), ExtensionValue::Type::string);
}

TEST(ExtensionValue, IsEqualByTextWhateverTheType) {
  EXPECT_EQ(ExtensionValue{"5"}, ExtensionValue{5});
  EXPECT_EQ(ExtensionValue{"true"}, ExtensionValue{true});
  EXPECT_FALSE(ExtensionValue{"a"} == ExtensionValue{"b"});
}

TEST(ExtensionValue, IsReadAsAnyTypeItsTextIsOf) {
  EXPECT_EQ(ExtensionValue{"true"}.as_boolean(), true);
  EXPECT_EQ(ExtensionValue{"False"}.as_boolean(), false);  // as one SDK writes it
  EXPECT_EQ(ExtensionValue{"yes"}.as_boolean(), std::nullopt);
  EXPECT_EQ(ExtensionValue{"2147483647"}.as_integer(), 2147483647);
  EXPECT_EQ(ExtensionValue{"2147483648"}.as_integer(), std::nullopt);
  EXPECT_EQ(ExtensionValue{"5 "}.as_integer(), std::nullopt);
  EXPECT_EQ(ExtensionValue{""}.as_integer(), std::nullopt);
  EXPECT_EQ(ExtensionValue{"AQI="}.as_binary(), "\x01\x02");
  EXPECT_EQ(ExtensionValue{"*"}.as_binary(), std::nullopt);
}

system_clock::time_point at(std::int64_t micros) { return system_clock::time_point{std::chrono::microseconds{micros}}; }

TEST(Time, IsWrittenInUtcWithMicroseconds) {
  EXPECT_EQ(format_time(at(0)), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(format_time(at(1'795'336'200'000'001)), "2026-11-22T08:30:00.000001Z");
  EXPECT_EQ(format_time(at(-1)), "1969-12-31T23:59:59.999999Z");
  EXPECT_EQ(format_time(at(1'582'934'400'000'000)), "2020-02-29T00:00:00.000000Z");
}

TEST(Time, IsReadInEveryShapeOfRfc3339) {
  EXPECT_EQ(parse_time("2026-11-22T08:30:00.000001Z"), at(1'795'336'200'000'001));
  EXPECT_EQ(parse_time("2026-11-22t08:30:00z"), at(1'795'336'200'000'000));
  EXPECT_EQ(parse_time("2026-11-22T10:30:00+02:00"), at(1'795'336'200'000'000));
  EXPECT_EQ(parse_time("2026-11-22T03:00:00.5-05:30"), at(1'795'336'200'500'000));
  EXPECT_EQ(parse_time("2026-11-22T08:30:00-00:00"), at(1'795'336'200'000'000));
  EXPECT_EQ(parse_time("1990-12-31T23:59:60Z"), parse_time("1991-01-01T00:00:00Z"));  // a leap second
  EXPECT_EQ(parse_time("2026-11-22T08:30:00.123456789012345678901234567890Z"),
            system_clock::time_point{1'795'336'200s} + 123'456'789ns);
}

TEST(Time, BeyondTheClockIsItsEnd) {
  EXPECT_EQ(parse_time("0001-01-01T00:00:00Z"), system_clock::time_point::min());
  EXPECT_EQ(parse_time("9999-12-31T23:59:59Z"), system_clock::time_point::max());
}

TEST(Time, RejectsWhatIsNoRfc3339) {
  for (const char* text : {"",
                           "2026",
                           "2026-11-22",
                           "2026-11-22T08:30:00",
                           "2026-11-22 08:30:00Z",
                           "2026-13-22T08:30:00Z",
                           "2026-02-29T08:30:00Z",
                           "2026-11-31T08:30:00Z",
                           "2026-11-00T08:30:00Z",
                           "2026-11-22T24:00:00Z",
                           "2026-11-22T08:60:00Z",
                           "2026-11-22T08:30:61Z",
                           "2026-11-22T08:30Z",
                           "2026-11-22T08:30:00.Z",
                           "2026-11-22T08:30:00+2:00",
                           "2026-11-22T08:30:00+02",
                           "2026-11-22T08:30:00+24:00",
                           "2026-11-22T08:30:00Zx",
                           "26-11-22T08:30:00Z",
                           "2026-11-2xT08:30:00Z",
                           "-026-11-22T08:30:00Z",
                           "2026-11-22T08:30:00,5Z"}) {
    EXPECT_EQ(parse_time(text), std::nullopt) << text;
  }
}

TEST(Time, SurvivesWritingAndReading) {
  for (const std::int64_t micros : {0L, 1L, -1L, 1'795'336'200'123'456L, -8'000'000'000'000'000L, 9'000'000'000'000'000L}) {
    EXPECT_EQ(parse_time(format_time(at(micros))), at(micros));
  }
}

}  // namespace
}  // namespace penstock
