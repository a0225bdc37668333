// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <typeinfo>
#include <vector>

/// Names of exceptions' types, by which a RetryPolicy knows classes of errors.
namespace penstock::error_class {

/// "shop::CardDeclined".
[[nodiscard]] std::string name_of(const std::type_info& type);

/// The type's name and those of all its bases, nearest first.
[[nodiscard]] std::vector<std::string> lineage(const std::type_info& type);

/// The lineage of the exception that is being handled; empty for one that is not of C++. Call it inside `catch`.
[[nodiscard]] std::vector<std::string> of_current_exception();

}  // namespace penstock::error_class
