// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace penstock::postgres {

/// What turns one payload into the other, as JSON text that Postgres takes: a JSON Patch (RFC 6902) where both are JSON, else
/// {"at": offset, "removed": "\x…", "added": "\x…"}, the bytes that differ between a common beginning and a common end.
std::string payload_diff(const std::string& before, const std::string& after);

}  // namespace penstock::postgres
