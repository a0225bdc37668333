// SPDX-License-Identifier: Apache-2.0
#include "penstock/testing/scripted_provider.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

namespace penstock::testing {

class ScriptedProvider::Impl {
 public:
  enum class Kind : std::uint8_t { success, failure, lost_answer };
  struct Step {
    Kind kind = Kind::success;
    std::size_t left = 0;
    std::string error{};
  };

  explicit Impl(std::string named) : name{std::move(named)} {}

  Step next() {
    while (!script.empty() && script.front().left == 0) {
      script.pop_front();
    }
    if (script.empty()) {
      return {down ? Kind::failure : Kind::success, 0, "down"};
    }
    --script.front().left;
    return script.front();
  }

  const std::string name;
  std::mutex mutex;
  std::deque<Step> script;
  bool down = false;
  std::size_t calls = 0;
  std::map<std::string, std::string> receipts;  ///< by idempotency key
  std::vector<std::string> effects;
};

ScriptedProvider::ScriptedProvider(std::string name) : impl_{std::make_shared<Impl>(std::move(name))} {}

ScriptedProvider& ScriptedProvider::fail(std::size_t calls, const std::string& error) {
  const std::lock_guard guard{impl_->mutex};
  impl_->script.push_back({Impl::Kind::failure, calls, error});
  return *this;
}

ScriptedProvider& ScriptedProvider::lose_answers(std::size_t calls) {
  const std::lock_guard guard{impl_->mutex};
  impl_->script.push_back({Impl::Kind::lost_answer, calls, "the answer was lost"});
  return *this;
}

ScriptedProvider& ScriptedProvider::succeed(std::size_t calls) {
  const std::lock_guard guard{impl_->mutex};
  impl_->script.push_back({Impl::Kind::success, calls, {}});
  return *this;
}

ScriptedProvider& ScriptedProvider::set_down(bool down) {
  const std::lock_guard guard{impl_->mutex};
  impl_->down = down;
  return *this;
}

std::string ScriptedProvider::call(const std::string& idempotency_key, const std::string& request) {
  const std::lock_guard guard{impl_->mutex};
  ++impl_->calls;
  const Impl::Step step = impl_->next();
  if (step.kind == Impl::Kind::failure) {
    throw ProviderFailed{impl_->name + ": " + step.error};
  }
  const auto known = impl_->receipts.find(idempotency_key);
  std::string receipt;
  if (!idempotency_key.empty() && known != impl_->receipts.end()) {
    receipt = known->second;
  } else {
    impl_->effects.push_back(request);
    receipt = impl_->name + "-" + std::to_string(impl_->effects.size());
    impl_->receipts[idempotency_key] = receipt;
  }
  if (step.kind == Impl::Kind::lost_answer) {
    throw ProviderFailed{impl_->name + ": " + step.error};
  }
  return receipt;
}

std::size_t ScriptedProvider::calls() const {
  const std::lock_guard guard{impl_->mutex};
  return impl_->calls;
}

std::vector<std::string> ScriptedProvider::effects() const {
  const std::lock_guard guard{impl_->mutex};
  return impl_->effects;
}

}  // namespace penstock::testing
