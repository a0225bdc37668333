// SPDX-License-Identifier: Apache-2.0
#include "penstock/publisher.hpp"

namespace penstock {

const char* to_string(Outcome::Status status) noexcept {
  switch (status) {
    case Outcome::Status::confirmed: return "confirmed";
    case Outcome::Status::rejected: return "rejected";
    case Outcome::Status::retryable: return "retryable";
    case Outcome::Status::unknown: return "unknown";
  }
  return "unknown";
}

}  // namespace penstock
