// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <pqxx/pqxx>
#include <string>
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

/// Connections that threads borrow. One that broke is thrown away. Thread safety: any thread.
class Connections {
 public:
  explicit Connections(std::string url) : url_{std::move(url)} {}

  /// Runs `use(connection)`; its exceptions pass through.
  template <class Use>
  auto with(Use&& use) {
    auto connection = take();
    struct GiveBack {
      Connections& to;
      std::unique_ptr<pqxx::connection>& connection;
      bool whole = false;
      ~GiveBack() {
        if (whole) to.give(std::move(connection));
      }
    } give_back{*this, connection};
    try {
      auto result = use(*connection);
      give_back.whole = true;
      return result;
    } catch (const pqxx::broken_connection&) {
      throw;
    } catch (const pqxx::in_doubt_error&) {
      throw;
    } catch (...) {
      give_back.whole = connection->is_open();
      throw;
    }
  }

 private:
  std::unique_ptr<pqxx::connection> take() {
    {
      const std::lock_guard lock{mutex_};
      if (!idle_.empty()) {
        auto connection = std::move(idle_.back());
        idle_.pop_back();
        return connection;
      }
    }
    return std::make_unique<pqxx::connection>(url_);
  }
  void give(std::unique_ptr<pqxx::connection> connection) {
    const std::lock_guard lock{mutex_};
    idle_.push_back(std::move(connection));
  }

  std::string url_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<pqxx::connection>> idle_;
};

}  // namespace shop
