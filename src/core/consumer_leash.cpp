// SPDX-License-Identifier: Apache-2.0
#include "core/consumer_leash.hpp"

namespace penstock::consumer {

Leash::Run::Run(Leash& leash, const std::stop_token& stop) : leash_{leash}, token_{stop} {
  if (leash.timeout_.count() == 0) {
    return;
  }
  deadline_ = leash.now_() + leash.timeout_;
  source_ = std::stop_source{};
  token_ = source_.get_token();
  passed_on_.emplace(stop, Pass{source_});
  const std::lock_guard guard{leash.mutex_};
  leash.until_ = deadline_;
  leash.running_ = source_;
}

Leash::Run::~Run() {
  if (deadline_) {
    const std::lock_guard guard{leash_.mutex_};
    leash_.until_.reset();
  }
}

void Leash::expire(TimePoint now) {
  std::stop_source source{std::nostopstate};
  {
    const std::lock_guard guard{mutex_};
    if (!until_ || now < *until_) {
      return;
    }
    until_.reset();
    source = running_;
  }
  source.request_stop();  // outside: it calls what the handler hung on the token
}

void Solitude::enter(bool alone) {
  std::unique_lock lock{mutex_};
  if (!alone) {
    changed_.wait(lock, [this] { return !alone_ && want_alone_ == 0; });
    ++together_;
    return;
  }
  ++want_alone_;
  changed_.wait(lock, [this] { return !alone_ && together_ == 0; });
  --want_alone_;
  alone_ = true;
}

void Solitude::leave(bool alone) {
  bool wake = alone;
  {
    const std::lock_guard guard{mutex_};
    if (alone) {
      alone_ = false;
    } else {
      wake = --together_ == 0 && want_alone_ > 0;
    }
  }
  if (wake) {
    changed_.notify_all();
  }
}

}  // namespace penstock::consumer
