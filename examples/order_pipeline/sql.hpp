// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <pqxx/pqxx>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace shop {

/// One statement with parameters, in whichever way this libpqxx likes.
template <class... Args>
pqxx::result run(pqxx::transaction_base& tx, const std::string& sql, Args&&... args) {
#if PQXX_VERSION_MAJOR > 7 || (PQXX_VERSION_MAJOR == 7 && PQXX_VERSION_MINOR >= 10)
  return tx.exec(sql, pqxx::params{std::forward<Args>(args)...});
#else
  return tx.exec_params(sql, std::forward<Args>(args)...);
#endif
}

/// Whether an error says that the database is away, and not that the statement is wrong: the connection broke, the server goes
/// or comes (57P01 to 57P03), or a statement took longer than it may (57014).
inline bool is_away(const pqxx::failure& error) {
  if (dynamic_cast<const pqxx::broken_connection*>(&error) != nullptr) return true;
  const auto* sql = dynamic_cast<const pqxx::sql_error*>(&error);
  return sql != nullptr && std::string{sql->sqlstate()}.rfind("57", 0) == 0;
}

/// Connections that threads borrow. One that broke is thrown away. Thread safety: any thread.
class Connections {
 public:
  explicit Connections(std::string url) : url_{std::move(url)}, watch_{[this](const std::stop_token& stop) { watch(stop); }} {}

  /// Runs `use(connection)`. Throws pqxx::broken_connection whenever the database is away, also while it is there and says
  /// nothing: then after `patience`. Other exceptions pass through, pqxx::in_doubt_error among them.
  template <class Use>
  auto with(Use&& use) {
    const Borrowed connection{*this};
    try {
      return use(*connection.own);
    } catch (const pqxx::in_doubt_error&) {
      throw;
    } catch (const pqxx::failure& error) {
      if (is_away(error) || !connection.own->is_open()) throw pqxx::broken_connection{error.what()};
      throw;
    }
  }

 private:
  using Time = std::chrono::steady_clock;
  static constexpr std::chrono::seconds patience{6};  // a little more than the server has for a statement

  /// A connection while it is used; the socket has a second name, so that it is still this one when libpq has closed its own.
  struct Borrowed {
    explicit Borrowed(Connections& from) : pool{from}, own{from.take()}, socket{::dup(own->sock())} {
      const std::lock_guard lock{pool.mutex_};
      pool.deadlines_[socket] = Time::now() + patience;
      pool.wake_.notify_all();
    }
    ~Borrowed() {
      const std::lock_guard lock{pool.mutex_};
      pool.deadlines_.erase(socket);
      ::close(socket);
      if (own->is_open()) pool.idle_.push_back(std::move(own));
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;

    Connections& pool;
    std::unique_ptr<pqxx::connection> own;
    int socket;
  };

  std::unique_ptr<pqxx::connection> take() {
    {
      const std::lock_guard lock{mutex_};
      while (!idle_.empty()) {
        auto connection = std::move(idle_.back());
        idle_.pop_back();
        if (!ended(*connection)) return connection;
      }
    }
    return connect(url_);
  }

  static std::unique_ptr<pqxx::connection> connect(const std::string& url) {
    auto connection = std::make_unique<pqxx::connection>(url);
#if PQXX_VERSION_MAJOR < 7
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    connection->inhibit_reactivation(true);  // it would forget the session's settings
#pragma GCC diagnostic pop
#endif
    pqxx::nontransaction tx{*connection};
    tx.exec("SET statement_timeout = '5s'");
    tx.commit();
    return connection;
  }

  /// Whether the server has hung up while nobody used the connection, or has said something, which can only be its last word.
  static bool ended(const pqxx::connection& connection) {
    char byte = 0;
    return ::recv(connection.sock(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
  }

  /// libpq waits for ever for a server that is there and does not answer. Its socket is shut down under it, which breaks the
  /// connection.
  void watch(const std::stop_token& stop) {
    std::unique_lock lock{mutex_};
    while (wake_.wait(lock, stop, [this] { return !deadlines_.empty(); })) {
      for (const auto& [socket, deadline] : deadlines_) {
        if (Time::now() >= deadline) ::shutdown(socket, SHUT_RDWR);
      }
      wake_.wait_for(lock, stop, std::chrono::milliseconds{100}, [] { return false; });
    }
  }

  std::string url_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::vector<std::unique_ptr<pqxx::connection>> idle_;
  std::map<int, Time::time_point> deadlines_;  // of the sockets in use
  std::jthread watch_;
};

}  // namespace shop
