// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place that knows that libpqxx changes: everything here compiles without a warning with 6.4 to 7.10.

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if !defined(PQXX_VERSION_MAJOR)
#error "libpqxx 6.4 or newer is needed"
#endif

namespace penstock::postgres {

#if PQXX_VERSION_MAJOR > 7 || (PQXX_VERSION_MAJOR == 7 && PQXX_VERSION_MINOR >= 10)
#define PENSTOCK_PQXX_PARAMS 1
#else
#define PENSTOCK_PQXX_PARAMS 0
#endif

/// Makes a subtransaction begin where it stands. libpqxx 6 sends its SAVEPOINT before its first `exec`, but not before
/// `exec_params`: what was done by statements with parameters alone would outlive its abort.
inline void begin_now([[maybe_unused]] pqxx::transaction_base& tx) {
#if PQXX_VERSION_MAJOR < 7
  if (dynamic_cast<pqxx::subtransaction*>(&tx) != nullptr) {
    tx.exec("SELECT");
  }
#endif
}

/// A parameter in the binary format of its type, of which text and bytea are the bytes themselves. Not owned.
struct Binary {
  std::string_view bytes{};
};

template <class T>
const T& parameter(const T& value) {
  return value;
}
inline auto parameter(const Binary& value) {
#if PQXX_VERSION_MAJOR > 7 || (PQXX_VERSION_MAJOR == 7 && PQXX_VERSION_MINOR >= 9)
  return pqxx::bytes_view{reinterpret_cast<const std::byte*>(value.bytes.data()), value.bytes.size()};
#elif PQXX_VERSION_MAJOR == 7 && PQXX_VERSION_MINOR >= 6
  return std::basic_string_view<std::byte>{reinterpret_cast<const std::byte*>(value.bytes.data()), value.bytes.size()};
#else
  return pqxx::binarystring{value.bytes.data(), value.bytes.size()};
#endif
}

/// Runs one statement with parameters. Give std::string, std::optional<std::string>, integers, bool and Binary; bytes travel as
/// Binary or as hex text (see text_codec.hpp), arrays as one text literal or as a BinaryArray.
template <class... Args>
pqxx::result run(pqxx::transaction_base& tx, const std::string& sql, const Args&... args) {
  if constexpr (sizeof...(Args) == 0) {
    return tx.exec(sql);
  } else {
#if PENSTOCK_PQXX_PARAMS
    return tx.exec(sql, pqxx::params{parameter(args)...});
#else
    begin_now(tx);
    return tx.exec_params(sql, parameter(args)...);
#endif
  }
}

/// Runs a statement that was prepared on the transaction's connection.
inline pqxx::result run_prepared(pqxx::transaction_base& tx, const std::string& name,
                                 const std::vector<std::optional<std::string>>& parameters) {
#if PQXX_VERSION_MAJOR < 7
  return tx.exec_prepared(name, pqxx::prepare::make_dynamic_params(parameters));
#else
  pqxx::params all;
  for (const auto& parameter : parameters) {
    if (parameter) {
      all.append(*parameter);
    } else {
      all.append();
    }
  }
#if PENSTOCK_PQXX_PARAMS
  return tx.exec(pqxx::prepped{name}, all);
#else
  return tx.exec_prepared(name, all);
#endif
#endif
}

/// Keeps libpqxx 6 from reconnecting by itself, which would forget session settings; newer ones never do.
inline void never_reconnect(pqxx::connection& connection) {
#if PQXX_VERSION_MAJOR < 7
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  connection.inhibit_reactivation(true);
#pragma GCC diagnostic pop
#else
  static_cast<void>(connection);
#endif
}

/// The five characters of SQLSTATE; empty when the server gave none.
inline std::string sqlstate(const pqxx::sql_error& error) { return error.sqlstate(); }

/// As above; a rollback by the server is no sql_error in libpqxx 6, which tells its state by the class alone.
inline std::string sqlstate(const pqxx::failure& error) {
  if (const auto* sql = dynamic_cast<const pqxx::sql_error*>(&error)) {
    return sql->sqlstate();
  }
  if (dynamic_cast<const pqxx::deadlock_detected*>(&error) != nullptr) {
    return "40P01";
  }
  return dynamic_cast<const pqxx::serialization_failure*>(&error) != nullptr ? "40001" : "";
}

/// Calls `hint` for each notification on a channel. It is called inside other calls on the connection, never on a thread of its
/// own. Must die before the connection.
class Listener {
 public:
  Listener(pqxx::connection& connection, const std::string& channel, std::function<void()> hint);

 private:
#if PENSTOCK_PQXX_PARAMS
#else
  class Receiver final : public pqxx::notification_receiver {
   public:
    Receiver(pqxx::connection& connection, const std::string& channel, std::function<void()> hint)
        : pqxx::notification_receiver{connection, channel}, hint_{std::move(hint)} {}
    void operator()(const std::string& /*payload*/, int /*backend_pid*/) override { hint_(); }

   private:
    std::function<void()> hint_;
  };
  Receiver receiver_;
#endif
};

#if PENSTOCK_PQXX_PARAMS
inline Listener::Listener(pqxx::connection& connection, const std::string& channel, std::function<void()> hint) {
  connection.listen(channel, [hint = std::move(hint)](const pqxx::notification&) { hint(); });
}
#else
inline Listener::Listener(pqxx::connection& connection, const std::string& channel, std::function<void()> hint)
    : receiver_{connection, channel, std::move(hint)} {}
#endif

}  // namespace penstock::postgres
