// SPDX-License-Identifier: Apache-2.0
#include "penstock/upkeep.hpp"

#include <optional>
#include <stdexcept>
#include <utility>

#include "postgres/connection.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/schema_name.hpp"

namespace penstock {
namespace {

std::optional<std::string> interval(const char* option, std::chrono::hours retention) {
  if (retention.count() == 0) {
    return std::nullopt;
  }
  if (retention < std::chrono::hours{24}) {
    throw std::invalid_argument(std::string{"UpkeepOptions."} + option + " is " + std::to_string(retention.count()) +
                                " hours: give at least 24, or 0 to keep everything");
  }
  return std::to_string(retention.count()) + " hours";
}

}  // namespace

UpkeepReport upkeep(const std::string& url, const UpkeepOptions& options) {
  postgres::check_schema_name(options.schema);
  const auto inbox = interval("inbox_retention", options.inbox_retention);
  const auto audit = interval("audit_retention", options.audit_retention);
  const auto connection = postgres::connect(url, {.statement_timeout = options.statement_timeout});
  const std::string step = postgres::in_schema("SELECT @schema@.upkeep($1::interval, $2::interval)", options.schema);
  UpkeepReport report;
  for (;;) {
    pqxx::nontransaction tx{*connection};  // each step commits by itself
    const auto answer = postgres::run(tx, step, inbox, audit);
    if (answer[0][0].is_null()) {
      return report;
    }
    auto done = answer[0][0].as<std::string>();
    if (done == "busy") {
      report.busy = true;
      return report;
    }
    report.done.push_back(std::move(done));
  }
}

}  // namespace penstock
