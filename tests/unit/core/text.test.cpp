// SPDX-License-Identifier: Apache-2.0
#include "core/text.hpp"

#include <gtest/gtest.h>

#include <string>

#include "core/base64.hpp"
#include "core/json_text.hpp"
#include "core/percent.hpp"
#include "core/sha1.hpp"
#include "core/syntax.hpp"

namespace penstock {
namespace {

TEST(Text, KnowsUtf8) {
  for (const char* good : {"", "a", "é", "€", "😀", "\xF4\x8F\xBF\xBF", "\xEF\xBF\xBF"})
    EXPECT_TRUE(text::is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xE2\x82", "\xFF", "a\xE2(\xA1"}) {
    EXPECT_FALSE(text::is_utf8(bad));
  }
}

TEST(Text, LooksAtEveryByteWhateverTheLength) {
  for (std::size_t size = 1; size < 40; ++size) {
    const std::string plain(size, 'a');
    EXPECT_TRUE(text::is_ce_string(plain));
    EXPECT_TRUE(text::is_utf8(plain));
    EXPECT_TRUE(syntax::is_uri_reference(plain));
    for (std::size_t at = 0; at < size; ++at) {
      const auto with = [&](const char* piece) { return std::string{plain}.replace(at, 1, piece); };
      for (const char* bad : {"\x1f", "\n", "\x7f", "\xC2\x85", "\xEF\xBF\xBF", "\x80", "\xE2\x82", "\xFF"}) {
        EXPECT_FALSE(text::is_ce_string(with(bad))) << size << " " << at;
      }
      EXPECT_FALSE(text::is_ce_string(std::string{plain}.replace(at, 1, 1, '\0')));
      for (const char* good : {" ", "~", "é", "€", "😀"}) EXPECT_TRUE(text::is_ce_string(with(good))) << size << " " << at;
      for (const char* bad : {"\x80", "\xE2\x82", "\xFF"}) EXPECT_FALSE(text::is_utf8(with(bad))) << size << " " << at;
      for (const char* good : {"\n", "\x7f", "é", "😀"}) EXPECT_TRUE(text::is_utf8(with(good))) << size << " " << at;
    }
  }
}

TEST(Text, KnowsTheCharactersOfUrisAndTokens) {
  const std::string_view uri = "-._~:/?#[]@!$&'()*+,;=%";
  const std::string_view token = "!#$%&'*+-.^_`|~";
  for (int c = 0; c < 0x80; ++c) {
    const char byte = static_cast<char>(c);
    const bool letter_or_digit = text::is_alpha(byte) || text::is_digit(byte);
    const std::string reference = byte == '%' ? "/%41" : std::string{'/', byte};
    EXPECT_EQ(syntax::is_uri_reference(reference), letter_or_digit || (c != 0 && uri.find(byte) != uri.npos)) << c;
    EXPECT_EQ(syntax::is_media_type(std::string{"a/b"} + byte + 'c'),
              letter_or_digit || (c != 0 && token.find(byte) != token.npos))
        << c;
  }
}

TEST(Text, ShowsValuesShortAndOnOneLine) {
  EXPECT_EQ(text::shown("a\nb\xff"), "'a b?'");
  EXPECT_EQ(text::shown(std::string(80, 'x')), "'" + std::string(80, 'x') + "'");
  EXPECT_EQ(text::shown(std::string(81, 'x')), "'" + std::string(80, 'x') + "…'");
  EXPECT_EQ(text::clean("€€€", 8), "€€");  // no half of a character
  EXPECT_EQ(text::clean("a\xC2\x85z", 8), "a z");
  EXPECT_EQ(text::prefix("a€", 3), "a");
  EXPECT_EQ(text::prefix("a€", 4), "a€");
}

TEST(Base64, HasTheVectorsOfRfc4648) {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, encoded] : vectors) {
    EXPECT_EQ(base64::encode(bytes), encoded);
    EXPECT_EQ(base64::decode(encoded), bytes);
  }
  EXPECT_EQ(base64::decode("Zg"), "f");  // unpadded
  for (const char* bad : {"Z", "Zg=", "Zg===", "Zh==", "Z*==", "Zg==Zg==", "====", "Zm9v\n"}) {
    EXPECT_EQ(base64::decode(bad), std::nullopt) << bad;
  }
}

TEST(Percent, HasTheVectorOfTheBinding) {
  EXPECT_EQ(percent::encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
  EXPECT_EQ(percent::decode("Euro%20%E2%82%AC%20%F0%9F%98%80"), "Euro € 😀");
  EXPECT_EQ(percent::decode("Euro%20%e2%82%ac%20%f0%9f%98%80"), "Euro € 😀");
}

TEST(Percent, KnowsWhatNeedsNoEncodingWhereverItIs) {
  for (std::size_t size = 1; size < 20; ++size) {
    for (std::size_t at = 0; at < size; ++at) {
      for (int c = 0; c < 0x100; ++c) {
        std::string value(size, 'a');
        value[at] = static_cast<char>(c);
        EXPECT_EQ(percent::is_plain(value), c > 0x20 && c < 0x7F && c != '"' && c != '%') << size << " " << at << " " << c;
      }
    }
  }
}

TEST(Percent, EncodesQuotesPercentAndControls) {
  EXPECT_EQ(percent::encode("\"100%\"\x7f!~"), "%22100%25%22%7F!~");
  EXPECT_EQ(percent::decode(percent::encode("\"100%25\"")), "\"100%25\"");
}

TEST(Percent, TakesWhatNeedNotHaveBeenEncoded) {
  EXPECT_EQ(percent::decode("%41%42c"), "ABc");
  EXPECT_EQ(percent::decode("%2541"), "%41");  // one round only
}

TEST(Percent, UnquotesFirst) {
  EXPECT_EQ(percent::decode("\"a b\""), "a b");
  EXPECT_EQ(percent::decode(R"("a \"b\" \\ c%20d")"), "a \"b\" \\ c d");
  EXPECT_EQ(percent::decode(R"("a" and "b")"), R"("a" and "b")");
  EXPECT_EQ(percent::decode(R"("a\")"), R"("a\")");
  EXPECT_EQ(percent::decode("\""), "\"");
}

TEST(Percent, TakesWhatSomeSdksForgetToEncode) {
  EXPECT_EQ(percent::decode("Euro € 😀 100%"), "Euro € 😀 100%");
  EXPECT_EQ(percent::decode("5%zz%"), "5%zz%");
}

TEST(Percent, RejectsWhatIsNoUtf8) {
  for (const char* bad : {"%C0%A0", "%C0%80", "%E0%80%AF", "%ED%A0%80", "%F4%90%80%80", "%FF", "%E2%82", "a%80"}) {
    EXPECT_EQ(percent::decode(bad), std::nullopt) << bad;
  }
}

std::string hex(const std::array<std::uint8_t, 20>& digest) {
  std::string out;
  for (const std::uint8_t byte : digest) {
    out.push_back("0123456789abcdef"[byte >> 4U]);
    out.push_back("0123456789abcdef"[byte & 15U]);
  }
  return out;
}

TEST(Sha1, HasTheVectorsOfFips180) {
  EXPECT_EQ(hex(sha1("")), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(hex(sha1("abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(hex(sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  EXPECT_EQ(hex(sha1(std::string(1'000'000, 'a'))), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST(JsonText, FindsMembersWithoutTouchingValues) {
  const auto members =
      json_text::members(" { \"a\" : [1, {\"b\":\"]}\"}] , \"c\\u0064\":1.00,\"e\":\"x\\\"y\" , \"f\":null } ");
  ASSERT_TRUE(members);
  ASSERT_EQ(members->size(), 4U);
  EXPECT_EQ(members->at(0).value, "[1, {\"b\":\"]}\"}]");
  EXPECT_EQ(members->at(1).name, "cd");
  EXPECT_EQ(members->at(1).value, "1.00");
  EXPECT_EQ(json_text::string_of(members->at(2).value), "x\"y");
  EXPECT_EQ(members->at(3).value, "null");
  EXPECT_TRUE(json_text::members("{}")->empty());
  EXPECT_FALSE(json_text::members("[1]"));
}

TEST(JsonText, KnowsWhatIsNoJson) {
  const std::string_view bad[] = {"", " ", "{", "{} x", "nul", {"{}\0", 3}, {"{}\0{", 4}, "\xEF\xBB\xBF{}", "\"\xff\"", "01"};
  for (const auto text : bad) EXPECT_FALSE(json_text::is_valid(text)) << text;
  for (const char* good : {"{}", " [1.50] ", "\"x\"", "null", "1"}) EXPECT_TRUE(json_text::is_valid(good)) << good;
  EXPECT_TRUE(json_text::is_valid(std::string(100'000, '[') + std::string(100'000, ']')));
}

TEST(Syntax, KnowsFormatsOfMediaTypes) {
  for (const char* type : {"application/json", "Application/JSON; charset=utf-8", "text/json", "application/vnd.shop+json"}) {
    EXPECT_TRUE(syntax::is_json(type)) << type;
  }
  for (const char* type : {"", "application/jsonp", "application/+json", "application/xml; a=\"/json\"", "json"}) {
    EXPECT_FALSE(syntax::is_json(type)) << type;
  }
  EXPECT_TRUE(syntax::is_text("text/plain"));
  EXPECT_TRUE(syntax::is_text("image/svg+xml"));
  EXPECT_FALSE(syntax::is_text("application/octet-stream"));
}

TEST(Text, OneByteThatACloudEventsStringCannotHaveIsFoundWhereverItIs) {
  for (std::size_t size = 1; size <= 20; ++size) {
    for (std::size_t at = 0; at < size; ++at) {
      for (int byte = 0; byte < 256; ++byte) {
        std::string text(size, '~');
        text[at] = static_cast<char>(byte);
        EXPECT_EQ(text::is_ce_string(text), byte >= 0x20 && byte < 0x7F) << "byte " << byte << " at " << at << " of " << size;
      }
    }
  }
  EXPECT_TRUE(text::is_ce_string("0123456€ 89abcdefg😀"));
  EXPECT_FALSE(text::is_ce_string("0123456\xC2\x85 89abcdefg"));
}

}  // namespace
}  // namespace penstock
