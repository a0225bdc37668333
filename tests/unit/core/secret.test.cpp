// SPDX-License-Identifier: Apache-2.0
#include "penstock/secret.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "core/tls.hpp"

namespace penstock {
namespace {

using ::testing::HasSubstr;

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

std::string file_with(const std::string& text) {
  const std::string name = ::testing::TempDir() + "penstock-secret-" + std::to_string(::getpid());
  std::ofstream{name, std::ios::binary} << text;
  return name;
}

TEST(Secret, ShowsItselfToNobodyButWhoAsks) {
  const Secret secret = "hunter2";
  std::ostringstream shown;
  shown << secret << Secret{};
  EXPECT_EQ(shown.str(), "***");
  EXPECT_EQ(::testing::PrintToString(secret), "***");
  EXPECT_EQ(secret.reveal(), "hunter2");
  EXPECT_TRUE(Secret{}.empty());
  EXPECT_EQ(Secret{}.reveal(), "");
}

TEST(Secret, AFileIsReadWithoutItsLineBreakAndAnewEachTime) {
  const std::string file = file_with("first\r\n");
  const Secret secret = Secret::from_file(file);
  EXPECT_FALSE(secret.empty());
  EXPECT_EQ(secret.reveal(), "first");
  file_with("second \n");
  EXPECT_EQ(secret.reveal(), "second ");
  std::filesystem::remove(file);
  EXPECT_THROW(static_cast<void>(secret.reveal()), std::runtime_error);
  EXPECT_THAT(error_of([&] { Secret::from_file(file); }), HasSubstr(file));
  EXPECT_THROW(Secret::from_file(file_with("\n")), std::invalid_argument);
}

TEST(Secret, AVariableThatIsNotSetIsNamed) {
  ::setenv("PENSTOCK_TEST_SECRET", "hunter2", 1);
  EXPECT_EQ(Secret::from_env("PENSTOCK_TEST_SECRET").reveal(), "hunter2");
  ::unsetenv("PENSTOCK_TEST_SECRET");
  EXPECT_THAT(error_of([] { Secret::from_env("PENSTOCK_TEST_SECRET"); }), HasSubstr("'PENSTOCK_TEST_SECRET'"));
}

TEST(Tls, WhatCannotWorkIsNamed) {
  const auto refused = [](const TlsOptions& options) { return error_of([&] { tls::check(options, "X::tls"); }); };
  const std::string file = file_with("pem");
  EXPECT_EQ(refused({}), "");
  EXPECT_THAT(refused({.ca_file = "/nowhere"}), HasSubstr("X::tls.ca_file: the file '/nowhere'"));
  EXPECT_THAT(refused({.certificate_file = file}), HasSubstr("key_file is empty"));
  EXPECT_THAT(refused({.key_file = file}), HasSubstr("certificate_file is empty"));
  EXPECT_THAT(refused({.server_name = "a", .verify = false}), HasSubstr("X::tls.server_name is 'a'"));
}

TEST(Tls, TheOptionToLookAtIsNamed) {
  EXPECT_EQ(tls::explained("no idea", "X::tls"), "no idea");
  EXPECT_THAT(tls::explained("unable to get local issuer certificate", "X::tls"), HasSubstr("see X::tls.ca_file"));
  EXPECT_THAT(tls::explained("Hostname mismatch", "X::tls"), HasSubstr("see X::tls.server_name"));
  EXPECT_THAT(tls::explained("tlsv13 alert certificate required", "X::tls"), HasSubstr("see X::tls.certificate_file"));
}

}  // namespace
}  // namespace penstock
