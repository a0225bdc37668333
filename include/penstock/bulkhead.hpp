// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

#include "penstock/clock.hpp"
#include "penstock/export.hpp"

namespace penstock {

namespace limits {
class Places;
}
class SharedLimits;

struct BulkheadOptions {
  std::string name{};                         ///< required: of the provider, for errors
  std::size_t calls = 0;                      ///< required: most calls at once
  std::chrono::milliseconds patience{1'000};  ///< longest wait for a place; one that is refused comes again after as long
  Clock* clock = &Clock::system();
};

/// Bounds the calls to a provider that run at once, so that a slow one does not take all workers.
///
///     Bulkhead printing{{.name = "printing", .calls = 2}};
///     ... in a handler:
///     const auto place = printing.enter(ctx.stop_token());   // until it goes out of scope
///
/// It counts in this process; SharedLimits makes one that all processes share.
///
/// Thread safety: any thread. Lifetime: a handle; copies share one bulkhead, and places may outlive them. The clock must
/// outlive all of them.
class PENSTOCK_EXPORT Bulkhead {
 public:
  class PENSTOCK_EXPORT Place {
   public:
    Place(Place&&) noexcept = default;
    Place& operator=(Place&&) = delete;
    ~Place();

   private:
    friend class Bulkhead;
    explicit Place(std::shared_ptr<limits::Places> places) : places_{std::move(places)} {}
    std::shared_ptr<limits::Places> places_;
  };

  /// Throws std::invalid_argument, naming the option, the value and the remedy.
  explicit Bulkhead(BulkheadOptions options);

  /// Blocks until there is a place, at most for `patience`. Throws CallRefused, also when `stop` is requested.
  [[nodiscard]] Place enter(const std::stop_token& stop = {});

 private:
  friend class SharedLimits;
  explicit Bulkhead(std::shared_ptr<limits::Places> places) : places_{std::move(places)} {}
  std::shared_ptr<limits::Places> places_;
};

}  // namespace penstock
