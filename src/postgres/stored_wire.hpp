// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "penstock/envelope.hpp"
#include "postgres/pqxx_compat.hpp"
#include "postgres/text_codec.hpp"

namespace penstock::postgres {

/// By which binding a stored message of a backend is read.
inline Binding binding_of(const std::string& backend) {
  if (backend == "rabbitmq") {
    return Binding::amqp;
  }
  return backend == "nats" ? Binding::nats : Binding::kafka;
}

/// A message of a row's columns wire_key, headers and payload.
inline Wire stored_wire(const pqxx::row& row) {
  const auto bytes = [&](const char* column) {
    return row[column].is_null() ? std::nullopt : std::optional{from_hex(row[column].as<std::string>())};
  };
  const auto headers = row["headers"];
  return {.key = bytes("wire_key"),
          .headers = headers.is_null() ? Headers{} : headers_from_json(headers.as<std::string>()),
          .payload = bytes("payload")};
}

}  // namespace penstock::postgres
