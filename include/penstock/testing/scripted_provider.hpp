// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/export.hpp"

namespace penstock::testing {

/// What a ScriptedProvider answers when it fails.
class PENSTOCK_EXPORT ProviderFailed : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A service elsewhere, as a payment provider, that does what the script says and then succeeds. It knows idempotency keys: a
/// key that it has seen gets the answer from then, and no second effect.
///
///     ScriptedProvider payments{"payments"};
///     payments.fail(2).lose_answers(1);           // then all is well
///     ... in the handler: payments.call(ctx.idempotency_key(), "charge A-1");
///     payments.effects();                         // {"charge A-1"}: once
///
/// Thread safety: any thread. Lifetime: a handle; copies share one provider.
class PENSTOCK_EXPORT ScriptedProvider {
 public:
  explicit ScriptedProvider(std::string name);

  /// The next calls, after those already scripted: fail without an effect; have it, but lose the answer; succeed.
  ScriptedProvider& fail(std::size_t calls, const std::string& error = "unavailable");
  ScriptedProvider& lose_answers(std::size_t calls);
  ScriptedProvider& succeed(std::size_t calls);
  /// All calls that are not scripted fail, until told otherwise.
  ScriptedProvider& set_down(bool down);

  /// Does what is asked and returns a receipt. Throws ProviderFailed. Without a key every call has its effect.
  std::string call(const std::string& idempotency_key, const std::string& request);

  [[nodiscard]] std::size_t calls() const;                 ///< also those that failed
  [[nodiscard]] std::vector<std::string> effects() const;  ///< the requests that had an effect, in order

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::testing
