// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "penstock/datastore.hpp"

namespace penstock::testing {

/// A store that tells when it is in use, and that cuts a session off at a commit, as the death of a process would.
/// Thread safety: any thread. Lifetime: the store within must outlive it.
class WatchedDatastore final : public Datastore {
 public:
  enum class Cut : std::uint8_t { never, before, after };

  explicit WatchedDatastore(Datastore& within) : within_{within} {}

  std::unique_ptr<Session> session(const std::string& group) override;

  /// Cuts at the commit of this number, from 1.
  void cut(Cut how, int commit) {
    how_ = how;
    commit_ = commit;
  }
  [[nodiscard]] int commits() const { return commits_; }
  /// Sessions with a message in work.
  [[nodiscard]] int busy() const { return busy_; }
  /// Grows with everything that is begun.
  [[nodiscard]] std::uint64_t begun() const { return begun_; }

 private:
  class Watched;

  Datastore& within_;
  Cut how_ = Cut::never;  // before the sessions are used
  int commit_ = 0;
  std::atomic<int> commits_{0};
  std::atomic<int> busy_{0};
  std::atomic<std::uint64_t> begun_{0};
};

}  // namespace penstock::testing
