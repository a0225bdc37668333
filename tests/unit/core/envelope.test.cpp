// SPDX-License-Identifier: Apache-2.0
#include "penstock/envelope.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace penstock {
namespace {

using ::testing::HasSubstr;

constexpr Binding all_bindings[] = {Binding::kafka, Binding::amqp, Binding::nats};
constexpr Mode all_modes[] = {Mode::binary, Mode::structured};

Event full_event() {
  Event event;
  event.id = "A234-1234-1234";
  event.source = "https://github.com/cloudevents?q=a%20b#x";
  event.type = "com.example.someevent.v1";
  event.subject = "Euro € 😀";
  event.key = "order \"17\" 100%";
  event.data = R"({"b": 1.00, "a": 12345678901234567890123})";
  event.content_type = "application/json; charset=utf-8";
  event.data_schema = "urn:schema:1.0";
  event.time = "2018-04-05T17:31:00Z";
  event.correlation_id = "story";
  event.causation_id = "cause";
  event.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01";
  event.tracestate = "foo=1, bar=2";
  event.extensions = {
      {"comexampleextension1", "value"}, {"flag", true}, {"number", -5}, {"bytes", ExtensionValue::binary("\x01")}};
  event.headers = {{"x-one", "1"}, {"X-Other", "two"}, {"x-one", "again"}, {"empty", ""}};
  return event;
}

Event minimal() {
  Event event;
  event.id = "1";
  event.source = "/shop";
  event.type = "t";
  return event;
}

std::optional<std::string> header(const Wire& wire, const std::string& name) {
  for (const Header& h : wire.headers) {
    if (h.name == name) return h.value;
  }
  return std::nullopt;
}

std::string why(const Wire& wire, Binding binding) {
  try {
    static_cast<void>(decode(wire, binding));
  } catch (const MalformedMessage& error) {
    return error.what();
  }
  return "accepted";
}

/// The attributes every CloudEvent needs, as the binding writes them.
Wire minimal_wire(const std::string& prefix) {
  return {
      .key = std::nullopt,
      .headers = {{prefix + "specversion", "1.0"}, {prefix + "id", "1"}, {prefix + "source", "/shop"}, {prefix + "type", "t"}},
      .payload = "x"};
}

TEST(Envelope, EveryAttributeSurvivesEveryBindingAndMode) {
  for (const Binding binding : all_bindings) {
    for (const Mode mode : all_modes) {
      EXPECT_EQ(decode(encode(full_event(), binding, mode), binding), full_event())
          << static_cast<int>(binding) << "/" << static_cast<int>(mode);
      EXPECT_EQ(decode(encode(minimal(), binding, mode), binding), minimal());
    }
  }
}

TEST(Envelope, OneThatIsOverwrittenLeavesNothingBehind) {
  Event other = minimal();
  other.key = "k";
  other.data = "zero";
  for (const Binding binding : all_bindings) {
    for (const Mode mode : all_modes) {
      for (const Event& event : {minimal(), other, full_event()}) {
        for (const Event& room : {Event{}, minimal(), full_event()}) {
          Event read = room;
          decode_into(encode(event, binding, mode), binding, read);
          EXPECT_EQ(read, event) << "binding " << static_cast<int>(binding) << ", mode " << static_cast<int>(mode);
        }
      }
    }
  }
}

TEST(Envelope, HeadersAreReadInAnyOrderAndCase) {
  for (const Binding binding : all_bindings) {
    Wire wire = encode(full_event(), binding);
    // Attributes only: foreign headers keep their order.
    const auto foreign = static_cast<std::ptrdiff_t>(wire.headers.size() - full_event().headers.size());
    for (int turn = 0; turn < foreign; ++turn) {
      std::rotate(wire.headers.begin(), wire.headers.begin() + 1, wire.headers.begin() + foreign);
      EXPECT_EQ(decode(wire, binding), full_event());
      std::reverse(wire.headers.begin(), wire.headers.begin() + foreign);
      EXPECT_EQ(decode(wire, binding), full_event());
    }
    for (auto header = wire.headers.begin(); header != wire.headers.begin() + foreign; ++header) {
      for (char& c : header->name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    EXPECT_EQ(decode(wire, binding), full_event());
  }
}

TEST(Envelope, AnInvalidEventIsNotWritten) {
  Event event = minimal();
  event.source = "a b";
  for (const Binding binding : all_bindings) EXPECT_THROW(static_cast<void>(encode(event, binding)), InvalidEvent);
}

TEST(Rule19, BinaryModeCarriesPayloadsAsOpaqueBytes) {
  Event event = minimal();
  event.content_type = "application/json";
  for (const std::string& data :
       {std::string{"{broken json"}, std::string{"\xff\x00\n\xc0", 4}, std::string{"  {\"a\" : 1.0}  "}}) {
    event.data = data;
    for (const Binding binding : all_bindings) {
      const Wire wire = encode(event, binding);
      EXPECT_EQ(wire.payload, data);
      EXPECT_EQ(decode(wire, binding).data, data);
    }
  }
}

TEST(Rule19, StructuredModeKeepsTheTextOfJson) {
  Event event = minimal();
  event.content_type = "application/vnd.shop+json";
  for (const char* data : {R"({"z":1.00,"a":12345678901234567890123,"z":2})", R"("\u20ac \/")", "1e3", "[ 1 ,  2 ]"}) {
    event.data = data;
    const Wire wire = encode(event, Binding::kafka, Mode::structured);
    EXPECT_THAT(*wire.payload, HasSubstr(std::string{"\"data\":"} + data));
    EXPECT_EQ(decode(wire, Binding::kafka), event);
  }
  event.data = " {}\n";  // the blanks around it are all that may change
  EXPECT_EQ(decode(encode(event, Binding::kafka, Mode::structured), Binding::kafka).data, "{}");
}

TEST(Envelope, StructuredModeCarriesAnyBytes) {
  Event event = minimal();
  for (const char* type :
       {"", "application/json", "text/plain", "application/octet-stream", "application/xml; charset=\"x\""}) {
    event.content_type = type;
    for (const std::string& data :
         {std::string{}, std::string{"\0", 1}, std::string{"null"}, std::string{"\xEF\xBB\xBF{}"}, std::string{"\xff\xfe"},
          std::string{"{}\0", 3}, std::string{"\"\\ud800\""}, std::string{"1e999"}, std::string{"<a>\"\x01\n</a>"}}) {
      event.data = data;
      EXPECT_EQ(decode(encode(event, Binding::nats, Mode::structured), Binding::nats), event) << type << " " << data;
    }
    event.data.reset();
    EXPECT_EQ(decode(encode(event, Binding::nats, Mode::structured), Binding::nats), event) << type;
  }
}

TEST(Envelope, TellsNullFromZeroBytesOfData) {
  for (const Binding binding : all_bindings) {
    for (const Mode mode : all_modes) {
      Event event = minimal();
      event.content_type = "application/json";
      EXPECT_EQ(decode(encode(event, binding, mode), binding).data, std::nullopt);
      event.data = "";
      EXPECT_EQ(decode(encode(event, binding, mode), binding).data, "");
    }
  }
}

TEST(Envelope, TellsThemApartAlsoWhereAPayloadCannotBeNull) {
  for (const Binding binding : {Binding::amqp, Binding::nats}) {
    for (const std::optional<std::string>& data : {std::optional<std::string>{}, std::optional<std::string>{""}}) {
      Event event = minimal();
      event.data = data;
      Wire wire = encode(event, binding);
      wire.payload = wire.payload.value_or("");  // as the broker gives it back
      EXPECT_EQ(decode(wire, binding), event);
    }
  }
}

TEST(Envelope, ForeignHeadersKeepOrderDuplicatesAndNulls) {
  Event event = minimal();
  event.headers = {{"b", "1"}, {"a", std::nullopt}, {"b", "2"}, {"", "no name"}, {"bytes", std::string{"\xff\0\n", 3}},
                   {"B", ""}};
  for (const Binding binding : {Binding::kafka, Binding::amqp}) {
    for (const Mode mode : all_modes) {
      const Wire wire = encode(event, binding, mode);
      EXPECT_EQ(Headers(wire.headers.end() - 6, wire.headers.end()), event.headers);
      EXPECT_EQ(decode(wire, binding), event);
    }
  }
}

TEST(Envelope, ForeignHeadersMustNotReadAsAttributes) {
  struct Taken {
    Binding binding;
    const char* name;
  };
  for (const Taken& taken :
       {Taken{Binding::kafka, "ce_id"}, Taken{Binding::kafka, "CE_anything"}, Taken{Binding::kafka, "Content-Type"},
        Taken{Binding::amqp, "cloudEvents_x"}, Taken{Binding::amqp, "cloudEvents:x"}, Taken{Binding::amqp, "ce-x"},
        Taken{Binding::amqp, "ce_x"}, Taken{Binding::amqp, "penstock-key"}, Taken{Binding::nats, "ce-x"},
        Taken{Binding::nats, "content-type"}, Taken{Binding::nats, "penstock-data"}}) {
    Event event = minimal();
    event.headers = {{taken.name, "x"}};
    try {
      static_cast<void>(encode(event, taken.binding));
      FAIL() << taken.name;
    } catch (const InvalidEvent& error) {
      EXPECT_EQ(error.attribute(), "headers");
      EXPECT_THAT(error.what(), HasSubstr(std::string{taken.name}));
    }
  }
}

TEST(Envelope, NamesLikeAttributesThatAreNoneAreForeign) {
  Wire wire = minimal_wire("ce_");
  const Headers foreign{{"ce_my_header", "1"}, {"ce_", "2"},  {"ce_data", "3"},
                        {"ce-id", "4"},        {"ceid", "5"}, {"cloudEvents_id", "6"}};
  wire.headers.insert(wire.headers.end(), foreign.begin(), foreign.end());
  const Event event = decode(wire, Binding::kafka);
  EXPECT_EQ(event.headers, foreign);
  EXPECT_EQ(decode(encode(event, Binding::kafka), Binding::kafka), event);
}

TEST(Envelope, ANullOrEmptyAttributeIsNotSet) {
  Wire wire = minimal_wire("ce_");
  wire.headers.push_back({"ce_subject", std::nullopt});
  wire.headers.push_back({"ce_time", ""});
  wire.headers.push_back({"ce_ext", std::nullopt});
  wire.headers.push_back({"ce_ext2", ""});
  wire.headers.push_back({"content-type", ""});
  const Event event = decode(wire, Binding::kafka);
  EXPECT_EQ(event.subject, "");
  EXPECT_EQ(event.time, "");
  EXPECT_EQ(event.content_type, "");
  EXPECT_EQ(event.extensions, (std::map<std::string, ExtensionValue>{{"ext2", ""}}));
}

TEST(Envelope, AnAttributeGivenTwiceMustAgree) {
  Wire wire = minimal_wire("ce_");
  wire.headers.push_back({"CE_Id", "1"});
  wire.headers.push_back({"ce_ext", "a"});
  wire.headers.push_back({"ce_EXT", "a"});
  EXPECT_EQ(decode(wire, Binding::kafka).id, "1");
  wire.headers.push_back({"ce_ext", "b"});
  EXPECT_THAT(why(wire, Binding::kafka), HasSubstr("'ext' is given twice, as 'a' and 'b'"));
  wire.headers.pop_back();
  wire.headers.push_back({"ce_id", "2"});
  EXPECT_THAT(why(wire, Binding::kafka), HasSubstr("'id' is given twice"));
}

TEST(Envelope, ABrokenTraceNeverCostsTheMessage) {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01";
  Wire wire = minimal_wire("ce_");
  wire.headers.push_back({"ce_traceparent", " " + good + "\t"});
  wire.headers.push_back({"ce_tracestate", "FOO=1"});
  EXPECT_EQ(decode(wire, Binding::kafka).traceparent, good);
  EXPECT_EQ(decode(wire, Binding::kafka).tracestate, "");
  wire.headers.push_back({"ce_traceparent", "00-11111111111111111111111111111111-b9c7c989f97918e1-01"});
  EXPECT_EQ(decode(wire, Binding::kafka).traceparent, "");  // two parents are none

  wire = minimal_wire("ce_");
  wire.headers.push_back({"ce_traceparent", "nonsense\n"});
  wire.headers.push_back({"ce_tracestate", "foo=1"});
  EXPECT_EQ(decode(wire, Binding::kafka).traceparent, "");
  EXPECT_EQ(decode(wire, Binding::kafka).tracestate, "");
}

TEST(Envelope, MalformedMessagesAreToldApart) {
  for (const auto& [binding, prefix] :
       {std::pair{Binding::kafka, "ce_"}, std::pair{Binding::amqp, "cloudEvents_"}, std::pair{Binding::nats, "ce-"}}) {
    EXPECT_THAT(why({}, binding), HasSubstr(std::string{"'"} + prefix + "id' is missing"));
    for (std::size_t i = 0; i < 4; ++i) {
      Wire wire = minimal_wire(prefix);
      const std::string name = wire.headers[i].name;
      wire.headers[i].value = "";
      EXPECT_THAT(why(wire, binding), HasSubstr("'" + name + "' is missing or empty"));
      wire.headers.erase(wire.headers.begin() + static_cast<std::ptrdiff_t>(i));
      EXPECT_THAT(why(wire, binding), HasSubstr("'" + name + "' is missing or empty"));
    }
    Wire wire = minimal_wire(prefix);
    wire.headers[0].value = "0.3";
    EXPECT_THAT(why(wire, binding), HasSubstr("'0.3'; only CloudEvents 1.0"));
    wire = minimal_wire(prefix);
    wire.headers.push_back({std::string{prefix} + "time", "yesterday"});
    EXPECT_THAT(why(wire, binding), HasSubstr("time 'yesterday' is no RFC 3339"));
  }
}

TEST(Envelope, BatchesAndOtherFormatsAreMalformed) {
  for (const Binding binding : all_bindings) {
    for (const char* type : {"application/cloudevents-batch+json", "application/cloudevents-batch+json; charset=UTF-8"}) {
      EXPECT_THAT(why({.headers = {{"content-type", type}}, .payload = "[]"}, binding), HasSubstr("batch"));
    }
    EXPECT_THAT(why({.headers = {{"Content-Type", "application/cloudevents+avro"}}, .payload = "x"}, binding),
                HasSubstr("'application/cloudevents+avro' is not read"));
  }
}

// Kafka

TEST(KafkaBinding, WritesWhatTheBindingSays) {
  Event event = full_event();
  event.headers = {{"x", "y"}};
  const Wire wire = encode(event, Binding::kafka);
  EXPECT_EQ(wire.key, event.key);
  EXPECT_EQ(wire.payload, event.data);
  EXPECT_EQ(wire.headers, (Headers{{"ce_specversion", "1.0"},
                                   {"ce_id", event.id},
                                   {"ce_source", event.source},
                                   {"ce_type", event.type},
                                   {"ce_time", event.time},
                                   {"ce_subject", event.subject},
                                   {"content-type", event.content_type},
                                   {"ce_dataschema", event.data_schema},
                                   {"ce_partitionkey", event.key},
                                   {"ce_correlationid", "story"},
                                   {"ce_causationid", "cause"},
                                   {"ce_traceparent", event.traceparent},
                                   {"ce_tracestate", event.tracestate},
                                   {"ce_bytes", "AQ=="},
                                   {"ce_comexampleextension1", "value"},
                                   {"ce_flag", "true"},
                                   {"ce_number", "-5"},
                                   {"x", "y"}}));
}

/// The cases of the CloudEvents conformance suite: a message, and the event that it is.
struct Conformance {
  std::string name;
  Wire wire;
  Event event;
};
void PrintTo(const Conformance& conformance, std::ostream* out) { *out << conformance.name; }  // NOLINT: GoogleTest's name

std::vector<Conformance> conformance() {
  Event binary;
  binary.id = "1234-1234-1234";
  binary.source = "/mycontext/subcontext";
  binary.type = "com.example.someevent";
  binary.time = "2018-04-05T03:56:24Z";
  binary.content_type = "application/json; charset=utf-8";
  binary.key = "mykey";  // the message key is the ordering key
  binary.data = R"({"message": "Hello World!"})";
  std::vector<Conformance> cases{{"Binary",
                                  {.key = "mykey",
                                   .headers = {{"ce_specversion", "1.0"},
                                               {"ce_type", binary.type},
                                               {"ce_time", binary.time},
                                               {"ce_id", binary.id},
                                               {"ce_source", binary.source},
                                               {"content-type", binary.content_type}},
                                   .payload = binary.data},
                                  binary}};
  Event structured = binary;
  structured.id = "4321-4321-4321";
  structured.content_type = "application/json";
  structured.data = R"({"message" : "Hello World!"})";
  structured.extensions = {
      {"comexampleextension1", "value"}, {"comexampleothervalue", 5}, {"flag", true}, {"n", 5}, {"f", "1.50"}};
  structured.headers = {{"x", "y"}};
  for (const auto& [name, type] : {std::pair{"Structured", "application/cloudevents+json"},
                                   {"StructuredWithCharset", "application/cloudevents+json; charset=utf-8"},
                                   {"StructuredInCapitals", "Application/CloudEvents+JSON;charset=UTF-8"},
                                   {"StructuredWithoutFormat", "application/cloudevents"}}) {
    cases.push_back({name,
                     {.key = "mykey",
                      .headers = {{"content-type", type}, {"ce_id", "redundant"}, {"x", "y"}},
                      .payload = R"({"specversion":"1.0","type":"com.example.someevent","time":"2018-04-05T03:56:24Z",
                      "id":"4321-4321-4321","source":"/mycontext/subcontext","comexampleextension1":"value","n":5,"f":1.50,
                      "comexampleothervalue":5,"flag":true,"subject":null,"datacontenttype":"application/json",
                      "data":{"message" : "Hello World!"}})"},
                     structured});
  }
  return cases;
}

class KafkaConformance : public ::testing::TestWithParam<Conformance> {};
TEST_P(KafkaConformance, AMessageIsTheEventThatTheSpecificationSays) {
  const Event event = decode(GetParam().wire, Binding::kafka);
  ASSERT_EQ(event, GetParam().event);
  for (const auto& [name, value] : GetParam().event.extensions)
    EXPECT_EQ(event.extensions.at(name).type(), value.type()) << name;
}
INSTANTIATE_TEST_SUITE_P(Cases, KafkaConformance, ::testing::ValuesIn(conformance()),
                         [](const auto& each) { return each.param.name; });

TEST(KafkaBinding, ATombstoneHasANullValue) {
  Event event = minimal();
  event.key = "k";
  EXPECT_EQ(encode(event, Binding::kafka).payload, std::nullopt);
  EXPECT_EQ(encode(event, Binding::kafka).key, "k");
  EXPECT_TRUE(encode(event, Binding::kafka, Mode::structured).payload.has_value());  // structured mode has none
}

TEST(KafkaBinding, AKeyOfBytesTravelsAsTheMessageKeyAlone) {
  const std::string garbage{"\x00\x01\xff\xfe", 4};
  Wire wire = minimal_wire("ce_");
  wire.key = garbage;
  const Event event = decode(wire, Binding::kafka);
  EXPECT_EQ(event.key, garbage);
  for (const Mode mode : all_modes) {
    const Wire again = encode(event, Binding::kafka, mode);
    EXPECT_EQ(again.key, garbage);
    EXPECT_EQ(header(again, "ce_partitionkey"), std::nullopt);
    EXPECT_EQ(decode(again, Binding::kafka), event);
    for (const Binding binding : {Binding::amqp, Binding::nats})
      EXPECT_EQ(decode(encode(event, binding, mode), binding), event);
  }
}

TEST(KafkaBinding, ThePartitionKeyWinsOverTheMessageKey) {
  Wire wire = minimal_wire("ce_");
  wire.key = "message key";
  wire.headers.push_back({"ce_partitionkey", "attribute"});
  EXPECT_EQ(decode(wire, Binding::kafka).key, "attribute");
  wire.key = "";
  wire.headers.pop_back();
  EXPECT_EQ(decode(wire, Binding::kafka).key, "");
}

TEST(KafkaBinding, ReadsWhatSdksWrite) {
  // A redundant content type (JavaScript), a truth value with a capital (Python), names in any case.
  Wire wire = minimal_wire("ce_");
  wire.headers.push_back({"ce_datacontenttype", "text/plain"});
  wire.headers.push_back({"ce_flag", "True"});
  wire.headers.push_back({"Ce_Subject", "s"});
  wire.headers.push_back({"ce_averyverylongextensionname", "x"});
  EXPECT_EQ(decode(wire, Binding::kafka).content_type, "text/plain");
  wire.headers.push_back({"content-type", "application/json"});
  const Event event = decode(wire, Binding::kafka);
  EXPECT_EQ(event.content_type, "application/json");
  EXPECT_EQ(event.extensions.at("flag").as_boolean(), true);
  EXPECT_EQ(event.subject, "s");
  EXPECT_EQ(event.extensions.count("datacontenttype"), 0U);
}

TEST(Interoperability, WhatTheSdksOfGoJavaAndJavascriptSendToKafka) {
  // sdk-go and sdk-java: attributes, extensions and content type as headers, in no order, times with nanoseconds.
  const Wire binary{.key = "order-17",
                    .headers = {{"ce_type", "com.example.order.placed"},
                                {"content-type", "application/json"},
                                {"ce_specversion", "1.0"},
                                {"ce_subject", "caf\xC3\xA9 \xF0\x9F\x98\x80 100%25"},  // Kafka's binding has no escapes
                                {"ce_id", "9f1c8d0e-3a55-4c52-a0b3-1f1f8e6f7a10"},
                                {"ce_time", "2024-02-29T23:59:59.123456789+01:00"},
                                {"ce_source", "https://example.com/orders?x=%C3%A9"},
                                {"ce_sampledrate", "17"},
                                {"ce_a1b2c3d4e5f6g7h8i9j0k", "a long name"},
                                {"trace", "one"},
                                {"trace", "two"},
                                {"latin1", "caf\xE9"},  // bytes of another encoding
                                {"utf16", std::string{"\xFF\xFEo\0", 4}},
                                {"nothing", std::nullopt}},
                    .payload = std::nullopt};
  const Event event = decode(binary, Binding::kafka);
  EXPECT_EQ(event.key, "order-17");
  EXPECT_EQ(event.subject, "café 😀 100%25");
  EXPECT_EQ(event.time, "2024-02-29T23:59:59.123456789+01:00");
  EXPECT_EQ(event.source, "https://example.com/orders?x=%C3%A9");
  EXPECT_EQ(event.extensions.at("sampledrate").as_integer(), 17);
  EXPECT_EQ(event.extensions.at("a1b2c3d4e5f6g7h8i9j0k").text(), "a long name");
  EXPECT_EQ(event.data, std::nullopt);
  EXPECT_EQ(event.headers, (Headers{binary.headers.end() - 5, binary.headers.end()})) << "each of them, as it came";

  // sdk-javascript and sdk-python, structured: another order of members, a space behind each colon, escapes of all beyond
  // ASCII.
  const Wire json{.key = std::nullopt,
                  .headers = {{"content-type", "application/cloudevents+json; charset=utf-8"}},
                  .payload = R"({"id": "9f1c8d0e-3a55-4c52-a0b3-1f1f8e6f7a10", "time": "2024-02-29T22:59:59.123Z", )"
                             R"("type": "com.example.order.placed", "source": "/orders", "specversion": "1.0", )"
                             R"("subject": "caf\u00e9 \ud83d\ude00", "sampledrate": 17, "urgent": true, "datacontenttype": )"
                             R"("application/json", "data": {"name": "\u00c9milie", "amount": 1.10, "note": null}})"};
  const Event structured_event = decode(json, Binding::kafka);
  EXPECT_EQ(structured_event.subject, "café 😀");
  EXPECT_EQ(structured_event.data, R"({"name": "\u00c9milie", "amount": 1.10, "note": null})");
  EXPECT_EQ(structured_event.extensions.at("sampledrate").type(), ExtensionValue::Type::integer);
  EXPECT_EQ(structured_event.extensions.at("urgent").type(), ExtensionValue::Type::boolean);

  // An attribute in another encoding is no CloudEvent, and the reason names it; the bytes stay for the dead letter.
  Wire broken = minimal_wire("ce_");
  broken.headers.push_back({"ce_subject", "caf\xE9"});
  EXPECT_THAT(why(broken, Binding::kafka), HasSubstr("subject"));
}

TEST(KafkaBinding, AnEmptyIdIsNone) {  // one SDK writes it
  Wire wire = minimal_wire("ce_");
  wire.headers[1].value = "";
  EXPECT_THAT(why(wire, Binding::kafka), HasSubstr("ce_id"));
}

TEST(KafkaBinding, ThePlainTraceHeaderStaysForeign) {
  Wire wire = minimal_wire("ce_");
  wire.headers.push_back({"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"});
  EXPECT_EQ(decode(wire, Binding::kafka).headers.size(), 1U);
  EXPECT_EQ(decode(wire, Binding::kafka).traceparent, "");
}

// AMQP

TEST(AmqpBinding, WritesWhatTheBindingSays) {
  Event event = minimal();
  event.key = "k";
  event.content_type = "application/json";
  event.data = "{}";
  const Wire wire = encode(event, Binding::amqp);
  EXPECT_EQ(wire.key, std::nullopt);
  EXPECT_EQ(wire.headers, (Headers{{"cloudEvents_specversion", "1.0"},
                                   {"cloudEvents_id", "1"},
                                   {"cloudEvents_source", "/shop"},
                                   {"cloudEvents_type", "t"},
                                   {"content-type", "application/json"},
                                   {"cloudEvents_partitionkey", "k"}}));
}

TEST(AmqpBinding, ReadsEverySeparatorInUse) {
  for (const char* prefix : {"cloudEvents_", "cloudEvents:", "cloudevents_", "ce-", "ce_"}) {
    Wire wire = minimal_wire(prefix);
    wire.headers.push_back({std::string{prefix} + "partitionkey", "k"});
    wire.headers.push_back({std::string{prefix} + "ext", "x"});
    wire.headers.push_back({"content-type", "text/plain"});
    wire.headers.push_back({"x-death", "kept"});
    const Event event = decode(wire, Binding::amqp);
    EXPECT_EQ(event.id, "1");
    EXPECT_EQ(event.key, "k");
    EXPECT_EQ(event.content_type, "text/plain");
    EXPECT_EQ(event.extensions.at("ext").text(), "x");
    EXPECT_EQ(event.headers, (Headers{{"x-death", "kept"}}));
  }
}

TEST(AmqpBinding, NamesFitInAShortString) {
  Event event = minimal();
  event.extensions = {{std::string(243, 'x'), "y"}};
  event.headers = {{std::string(255, 'h'), "y"}};
  EXPECT_EQ(decode(encode(event, Binding::amqp), Binding::amqp), event);
  event.headers = {{std::string(256, 'h'), "y"}};
  EXPECT_THROW(static_cast<void>(encode(event, Binding::amqp)), InvalidEvent);
  event.headers.clear();
  event.extensions = {{std::string(244, 'x'), "y"}};
  EXPECT_THROW(static_cast<void>(encode(event, Binding::amqp)), InvalidEvent);
}

// NATS

TEST(NatsBinding, WritesWhatTheBindingSays) {
  Event event = minimal();
  event.key = "k 1";
  event.subject = "Euro € 😀";
  event.content_type = "application/json; charset=\"utf-8\"";
  const Wire wire = encode(event, Binding::nats);
  EXPECT_EQ(wire.key, std::nullopt);
  EXPECT_EQ(wire.headers, (Headers{{"ce-specversion", "1.0"},
                                   {"ce-id", "1"},
                                   {"ce-source", "/shop"},
                                   {"ce-type", "t"},
                                   {"ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"},
                                   {"ce-datacontenttype", "application/json;%20charset=%22utf-8%22"},
                                   {"ce-partitionkey", "k%201"}}));
  EXPECT_EQ(decode(wire, Binding::nats), event);
}

TEST(NatsBinding, LooksNamesUpInAnyCase) {
  Wire wire = minimal_wire("Ce-");
  wire.headers.push_back({"CE-SUBJECT", "s"});
  EXPECT_EQ(decode(wire, Binding::nats).subject, "s");
  wire = {.headers = {{"CONTENT-TYPE", "application/CloudEvents+json"}},
          .payload = R"({"specversion":"1.0","id":"1","source":"/s","type":"t"})"};
  EXPECT_EQ(decode(wire, Binding::nats).id, "1");
}

TEST(NatsBinding, DecodesValues) {
  const auto subject = [](const char* value) {
    Wire wire = minimal_wire("ce-");
    wire.headers.push_back({"ce-subject", value});
    return decode(wire, Binding::nats).subject;
  };
  EXPECT_EQ(subject("Euro%20%E2%82%AC%20%F0%9F%98%80"), "Euro € 😀");
  EXPECT_EQ(subject("\"a \\\"b\\\" %e2%82%ac\""), "a \"b\" €");
  EXPECT_EQ(subject("%41"), "A");
  EXPECT_EQ(subject("Euro € 😀, as Go writes it"), "Euro € 😀, as Go writes it");
  for (const char* bad : {"%C0%A0", "%E0%80%AF", "%FF", "%ED%A0%80", "\xC0\xA0"}) {
    Wire wire = minimal_wire("ce-");
    wire.headers.push_back({"ce-subject", bad});
    EXPECT_THAT(why(wire, Binding::nats), HasSubstr("does not decode to UTF-8")) << bad;
  }
  Wire wire = minimal_wire("ce-");
  wire.headers.push_back({"ce-subject", "a%0Ab"});
  EXPECT_THAT(why(wire, Binding::nats), HasSubstr("subject 'a b'"));
}

TEST(NatsBinding, ReadsAPlainContentTypeWhereTheAttributeIsMissing) {
  Wire wire = minimal_wire("ce-");
  wire.headers.push_back({"Content-Type", "text/plain"});
  EXPECT_EQ(decode(wire, Binding::nats).content_type, "text/plain");
  wire.headers.push_back({"ce-datacontenttype", "application/json"});
  EXPECT_EQ(decode(wire, Binding::nats).content_type, "application/json");
}

TEST(NatsBinding, ReadsStructuredEventsWithoutAnyHeader) {  // as one SDK sends them
  const std::string json = R"( {"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}})";
  EXPECT_EQ(decode({.payload = json}, Binding::nats).data, "{\"a\":1}");
  EXPECT_EQ(decode({.headers = {{"x", "y"}}, .payload = json}, Binding::nats).headers.size(), 1U);
  EXPECT_THAT(why({.payload = "{\"a\":1}"}, Binding::nats), HasSubstr("'id' is missing"));
  EXPECT_THAT(why({.payload = "{\"a\":"}, Binding::nats), HasSubstr("no JSON"));
  EXPECT_THAT(why({.payload = json}, Binding::kafka), HasSubstr("'ce_id' is missing"));
}

TEST(NatsBinding, ForeignHeadersCannotBreakOut) {
  for (const Header& bad :
       Headers{{"x", "a\r\nce-id: 2"}, {"x", "a\n"}, {"x\r\ny", "a"}, {"x:y", "a"}, {"", "a"}, {"x", std::string{"\0", 1}}}) {
    Event event = minimal();
    event.headers = {bad};
    EXPECT_THROW(static_cast<void>(encode(event, Binding::nats)), InvalidEvent);
  }
  Event event = minimal();
  event.headers = {{"x", "a: b, €"}, {"x", std::nullopt}};
  Event expected = event;
  expected.headers[1].value = "";  // NATS has no null
  EXPECT_EQ(decode(encode(event, Binding::nats), Binding::nats), expected);
}

// JSON format

Event structured(const std::string& members) {
  return decode({.headers = {{"content-type", "application/cloudevents+json"}},
                 .payload = R"({"specversion":"1.0","id":"1","source":"/s","type":"t",)" + members + "}"},
                Binding::kafka);
}

std::string why_structured(const std::string& payload) {
  return why({.headers = {{"content-type", "application/cloudevents+json"}}, .payload = payload}, Binding::kafka);
}

TEST(JsonFormat, VectorsOfTheSpecification) {
  const Event text = structured(R"("data": "I'm just a string")");
  EXPECT_EQ(text.data, R"("I'm just a string")");
  EXPECT_EQ(text.content_type, "application/json");
  const Event bytes = structured(R"("data_base64": "eyAieHl6IjogMTIzIH0=")");
  EXPECT_EQ(bytes.data, R"({ "xyz": 123 })");
  EXPECT_EQ(bytes.content_type, "");
}

TEST(JsonFormat, ReadsDataByItsContentType) {
  EXPECT_EQ(structured(R"("datacontenttype":"text/xml","data":"<a b=\"c\"/>")").data, R"(<a b="c"/>)");
  EXPECT_EQ(structured(R"("datacontenttype":"application/json","data":"x")").data, R"("x")");
  EXPECT_EQ(structured(R"("datacontenttype":"application/vnd.x+json","data":{"a" :1.0})").data, R"({"a" :1.0})");
  EXPECT_EQ(structured(R"("datacontenttype":"application/json","data_base64":"AQI=")").data, "\x01\x02");
  EXPECT_EQ(structured(R"("datacontenttype":"application/json","data":null)").data, std::nullopt);
  EXPECT_EQ(structured(R"("datacontenttype":"application/json")").data, std::nullopt);
  EXPECT_EQ(structured(R"("data":null,"data_base64":"AQI=")").data, "\x01\x02");
}

TEST(JsonFormat, WritesDataByItsContentType) {
  Event event = minimal();
  const auto json = [&](const char* type, const char* data) {
    event.content_type = type;
    event.data = data;
    return *encode(event, Binding::kafka, Mode::structured).payload;
  };
  EXPECT_EQ(
      json("application/json", "{\"a\":1}"),
      R"({"specversion":"1.0","id":"1","source":"/shop","type":"t","datacontenttype":"application/json","data":{"a":1}})");
  EXPECT_THAT(json("text/plain", "say \"hi\"\n"), HasSubstr(R"("data":"say \"hi\"\u000a")"));
  EXPECT_THAT(json("application/json", "not json"), HasSubstr(R"("data_base64":"bm90IGpzb24=")"));
  EXPECT_THAT(json("", "{}"), HasSubstr(R"("data_base64":"e30=")"));
  EXPECT_THAT(json("application/protobuf", "x"), HasSubstr(R"("data_base64":"eA==")"));
}

TEST(JsonFormat, KeepsTheTypesOfExtensions) {
  Event event = minimal();
  event.extensions = {{"b", true}, {"i", -2147483647}, {"s", "5"}, {"x", ExtensionValue::binary("\x01")}};
  const Wire wire = encode(event, Binding::kafka, Mode::structured);
  EXPECT_THAT(*wire.payload, HasSubstr(R"("b":true,"i":-2147483647,"s":"5","x":"AQ==")"));
  const Event again = decode(wire, Binding::kafka);
  EXPECT_EQ(again.extensions.at("b").type(), ExtensionValue::Type::boolean);
  EXPECT_EQ(again.extensions.at("i").type(), ExtensionValue::Type::integer);
  EXPECT_EQ(again.extensions.at("s").type(), ExtensionValue::Type::string);
}

TEST(JsonFormat, ReadsEscapesAndNamesInAnyCase) {
  EXPECT_EQ(structured(R"("sub\u006aect":"\u20ac \ud83d\ude00 \"q\" \\")").subject, "€ 😀 \"q\" \\");
  EXPECT_EQ(structured(R"("Subject":"s")").subject, "s");
  EXPECT_EQ(structured(R"("partitionkey":17)").key, "17");
  EXPECT_EQ(structured(R"("big":12345678901234567890)").extensions.at("big").text(), "12345678901234567890");
}

TEST(JsonFormat, RejectsWhatIsNone) {
  const std::string base = R"("specversion":"1.0","id":"1","source":"/s","type":"t")";
  EXPECT_THAT(why_structured(""), HasSubstr("no JSON"));
  EXPECT_THAT(why_structured("{" + base), HasSubstr("no JSON"));
  EXPECT_THAT(why_structured("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(why_structured("{}"), HasSubstr("'id' is missing"));
  EXPECT_THAT(why_structured("{" + base + R"(,"data":1,"data_base64":"AQ=="})"), HasSubstr("both 'data' and 'data_base64'"));
  EXPECT_THAT(why_structured("{" + base + R"(,"data_base64":"*"})"), HasSubstr("no base64"));
  EXPECT_THAT(why_structured("{" + base + R"(,"data_base64":5})"), HasSubstr("no base64"));
  EXPECT_THAT(why_structured("{" + base + R"(,"data":1,"data":2})"), HasSubstr("'data' is given twice"));
  EXPECT_THAT(why_structured("{" + base + R"(,"id":"2"})"), HasSubstr("'id' is given twice"));
  EXPECT_THAT(why_structured("{" + base + R"(,"subject":5})"), HasSubstr("'subject' is '5'; it must be a JSON string"));
  EXPECT_THAT(why_structured("{" + base + R"(,"ext":{"a":1}})"), HasSubstr("'ext' is '{\"a\":1}'"));
  EXPECT_THAT(why_structured("{" + base + R"(,"my_ext":"x"})"), HasSubstr("'my_ext' is no attribute name"));
  EXPECT_THAT(why_structured("{" + base + R"(,"ext":"a\u0000"})"), HasSubstr("ext 'a ' is not UTF-8 without control"));
  EXPECT_THAT(why({.headers = {{"content-type", "application/cloudevents+json"}}}, Binding::kafka), HasSubstr("no JSON"));
}

TEST(JsonFormat, TakesAByteOrderMark) {
  EXPECT_EQ(decode({.headers = {{"content-type", "application/cloudevents+json"}},
                    .payload = "\xEF\xBB\xBF{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}"},
                   Binding::amqp)
                .id,
            "1");
}

}  // namespace
}  // namespace penstock
