// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "penstock/export.hpp"
#include "penstock/tls.hpp"

// What the backends share about TLS.
namespace penstock::tls {

/// Throws std::invalid_argument, naming the option of `owner` ("LaneOptions::tls"), for what cannot work: a file that cannot be
/// read, a certificate without its key, a name that nobody would look at.
PENSTOCK_EXPORT void check(const TlsOptions& options, const std::string& owner);

/// What a client library said of a failed connection, and behind it which option of `owner` to look at, where the words tell.
PENSTOCK_EXPORT std::string explained(std::string said, const std::string& owner);

}  // namespace penstock::tls
