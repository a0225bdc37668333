// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

#include <array>
#include <cstddef>

namespace penstock::postgres {
namespace {

constexpr std::array kMigrations{&kFirst, &kReplay, &kPartitions, &kConsumer, &kLimits, &kLongKeys, &kAside};

}  // namespace

std::string_view migration(int number) noexcept { return *kMigrations[static_cast<std::size_t>(number - 1)]; }

int last_migration() noexcept { return static_cast<int>(kMigrations.size()); }

}  // namespace penstock::postgres
