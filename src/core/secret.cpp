// SPDX-License-Identifier: Apache-2.0
#include "penstock/secret.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <ostream>
#include <stdexcept>

namespace penstock {

Secret Secret::from_file(std::string path) {
  Secret secret;
  secret.file_ = std::move(path);
  try {
    static_cast<void>(secret.reveal());
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument{error.what()};
  }
  return secret;
}

Secret Secret::from_env(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr || *value == '\0') {
    throw std::invalid_argument{"Secret::from_env: the environment variable '" + name +
                                "' is not set; set it, or name another"};
  }
  return Secret{value};
}

std::string Secret::reveal() const {
  if (file_.empty()) return text_;
  std::ifstream in{file_, std::ios::binary};
  std::string text{std::istreambuf_iterator<char>{in}, {}};
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (!in || text.empty()) {
    throw std::runtime_error{"Secret::from_file: the file '" + file_ +
                             "' is empty or cannot be read; check its path and rights"};
  }
  return text;
}

std::ostream& operator<<(std::ostream& stream, const Secret& secret) { return stream << (secret.empty() ? "" : "***"); }

}  // namespace penstock
