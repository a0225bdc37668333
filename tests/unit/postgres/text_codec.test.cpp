// SPDX-License-Identifier: Apache-2.0
#include "postgres/text_codec.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace penstock::postgres {
namespace {

std::string every_byte() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    bytes += static_cast<char>(i);
  }
  return bytes;
}

TEST(TextCodec, BytesSurviveAsHex) {
  EXPECT_EQ(to_hex(""), "\\x");
  EXPECT_EQ(to_hex(std::string_view{"\0\x0a\xff", 3}), "\\x000aff");
  EXPECT_EQ(from_hex(to_hex(every_byte())), every_byte());
  EXPECT_EQ(from_hex("\\x0AfF"), "\x0a\xff");
  for (const auto* bad : {"", "x", "\\", "00", "\\x0", "\\x0g", "\\y00"}) {
    EXPECT_THROW(from_hex(bad), std::invalid_argument) << bad;
  }
}

TEST(TextCodec, AnyHeadersSurvive) {
  const Headers headers{{"a", "1"},
                        {"a", "2"},
                        {"null", std::nullopt},
                        {"empty", ""},
                        {"", "no name"},
                        {"\xff", "\xfe"},
                        {"bytes", every_byte()},
                        {"text", "Euro € 😀 \"\\{}[]"},
                        {"b", "{\"base64\":\"AA==\"}"},
                        {"short utf-8", "\xe2\x82"},
                        {"surrogate", "\xed\xa0\x80"}};
  EXPECT_EQ(headers_from_json(headers_to_json(headers)), headers);
  EXPECT_EQ(headers_to_json({}), "[]");
  EXPECT_EQ(headers_to_json({{"a", "1"}, {"n", std::nullopt}}), R"([["a","1"],["n",null]])");
}

TEST(TextCodec, ExtensionsKeepTheirTypes) {
  const std::map<std::string, ExtensionValue> extensions{
      {"text", "42"}, {"number", -42}, {"yes", true}, {"no", false}, {"bytes", ExtensionValue::binary(every_byte())},
      {"empty", ""}};
  const auto read = extensions_from_json(extensions_to_json(extensions));
  EXPECT_EQ(read, extensions);
  for (const auto& [name, value] : extensions) {
    EXPECT_EQ(read.at(name).type(), value.type()) << name;
  }
}

TEST(TextCodec, ArrayLiteralsQuoteEveryElement) {
  ArrayLiteral array;
  array.add("a");
  array.add_null();
  array.add("NULL");
  array.add("");
  array.add("\"{,}\\ ");
  EXPECT_EQ(array.take(), R"({"a",NULL,"NULL","","\"{,}\\ "})");
  ArrayLiteral nothing;
  nothing.add_null();
  EXPECT_EQ(nothing.take(), std::nullopt);
}

TEST(TextCodec, BinaryArraysHoldEveryElementAsItIs) {
  const auto bytes = [](std::initializer_list<int> values) {
    std::string result;
    for (const int value : values) {
      result += static_cast<char>(value);
    }
    return result;
  };
  BinaryArray array{BinaryArray::Type::text};
  array.add("a");
  array.add_null();
  array.add("");
  array.add("\"{,}\\ '");
  EXPECT_EQ(array.take(), bytes({0, 0, 0,   1,   0,   0,   0,   1, 0, 0, 0, 25, 0, 0, 0, 4,   0,   0,   0,   1,    0,   0,
                                 0, 1, 'a', 255, 255, 255, 255, 0, 0, 0, 0, 0,  0, 0, 7, '"', '{', ',', '}', '\\', ' ', '\''}));
  BinaryArray versioned{BinaryArray::Type::jsonb};
  versioned.add("[]");
  EXPECT_EQ(versioned.take(), bytes({0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 14, 218, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3, 1, '[', ']'}));
  BinaryArray nothing{BinaryArray::Type::bytea};
  nothing.add_null();
  EXPECT_EQ(nothing.take(), bytes({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17}));
}

TEST(TextCodec, PatternsMeanTheSameToLike) {
  EXPECT_EQ(like_pattern("shop.order.*"), "shop.order.%");
  EXPECT_EQ(like_pattern("a_b%c\\d*"), "a\\_b\\%c\\\\d%");
}

}  // namespace
}  // namespace penstock::postgres
