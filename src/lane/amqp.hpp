// SPDX-License-Identifier: Apache-2.0
#pragma once

// rabbitmq-c moved its headers in 0.12 and warns about the old place since.
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif

#include <cstdint>
#include <string>
#include <string_view>

namespace penstock::lane {

/// A view of text that must outlive the call it is given to; rabbitmq-c never writes through it.
inline amqp_bytes_t bytes(std::string_view text) {
  return amqp_bytes_t{text.size(), const_cast<char*>(text.data())};  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

inline std::string_view view(amqp_bytes_t value) {
  return value.len == 0 ? std::string_view{} : std::string_view{static_cast<const char*>(value.bytes), value.len};
}

inline std::string text(amqp_bytes_t value) { return std::string{view(value)}; }

inline amqp_table_entry_t entry(std::string_view name, std::string_view value) {
  amqp_table_entry_t made{};
  made.key = bytes(name);
  made.value.kind = AMQP_FIELD_KIND_UTF8;
  made.value.value.bytes = bytes(value);
  return made;
}

inline amqp_table_entry_t entry(std::string_view name, bool value) {
  amqp_table_entry_t made{};
  made.key = bytes(name);
  made.value.kind = AMQP_FIELD_KIND_BOOLEAN;
  made.value.value.boolean = value ? 1 : 0;
  return made;
}

inline amqp_table_entry_t entry(std::string_view name, std::int64_t value) {
  amqp_table_entry_t made{};
  made.key = bytes(name);
  made.value.kind = AMQP_FIELD_KIND_I64;
  made.value.value.i64 = value;
  return made;
}

}  // namespace penstock::lane
