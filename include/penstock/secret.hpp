// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>
#include <string>
#include <utility>

#include "penstock/export.hpp"

namespace penstock {

/// A password, token or key. Its text comes out by `reveal` alone: a stream shows "***", and no log, error or status of
/// penstock's has it.
///
///     Lane rabbit{{.url = "amqps://worker@rabbit/shop", .password = Secret::from_file("/run/secrets/rabbit")}};
///
/// Thread safety: a value. Lifetime: owns its text.
class PENSTOCK_EXPORT Secret {
 public:
  Secret() = default;                                      ///< none
  Secret(std::string text) : text_{std::move(text)} {}     // NOLINT(google-explicit-constructor)
  Secret(const char* text) : Secret{std::string{text}} {}  // NOLINT(google-explicit-constructor)

  /// The file's content, without one line break at its end. It is read now, to see that it can be, and again for each
  /// connection, so that a file that is replaced takes effect with the next one. Throws std::invalid_argument, naming the file,
  /// when it cannot be read or is empty.
  static Secret from_file(std::string path);
  /// An environment variable, read now. Throws std::invalid_argument, naming it, when it is not set or empty.
  static Secret from_env(const std::string& name);

  [[nodiscard]] bool empty() const noexcept { return text_.empty() && file_.empty(); }
  /// The text itself. Throws std::runtime_error when its file cannot be read any more.
  [[nodiscard]] std::string reveal() const;

  PENSTOCK_EXPORT friend std::ostream& operator<<(std::ostream& stream, const Secret& secret);

 private:
  std::string text_;
  std::string file_;
};

}  // namespace penstock
