// SPDX-License-Identifier: Apache-2.0
#include "core/relay_unrouted.hpp"

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "penstock/dead_letter.hpp"

namespace penstock {
namespace {

constexpr const char* kBackend = "penstock";
constexpr const char* kName = "unrouted";
constexpr std::size_t kTypes = 1'000;  // that are remembered as reported

/// Takes no event, and says why.
class NoRoute final : public Publisher {
 public:
  NoRoute(std::set<std::string> ours, std::shared_ptr<Logger> logger) : ours_{std::move(ours)}, logger_{std::move(logger)} {}

  std::future<Outcomes> submit(std::span<const Event> events, std::chrono::milliseconds) override {
    const std::lock_guard lock{mutex_};
    Outcomes outcomes;
    for (const Event& event : events) {
      std::string error = "no route of this relay matches the type '" + event.type + "'; give it one";
      if (foreign_) {
        report(event, error);
        outcomes.push_back({Outcome::Status::confirmed, {}});
      } else {
        outcomes.push_back({Outcome::Status::rejected, std::move(error)});
      }
    }
    std::promise<Outcomes> promise;
    promise.set_value(std::move(outcomes));
    return promise.get_future();
  }

  /// The names of all cursors in the log.
  void look(const std::vector<std::string>& cursors) {
    const std::lock_guard lock{mutex_};
    const auto other =
        std::find_if(cursors.begin(), cursors.end(), [this](const auto& name) { return ours_.count(name) == 0; });
    const bool found = other != cursors.end();
    if (found && !foreign_) {
      log("the log has a cursor '" + *other +
          "' that is none of this relay's, so events that no route matches are reported and not dead-lettered. Set "
          "RelayOptions.unrouted to ignore, or give one relay all routes; if nobody uses that cursor any more, drop it");
    }
    foreign_ = found;
  }

 private:
  void report(const Event& event, const std::string& error) {
    if (reported_.size() < kTypes && reported_.insert(event.type).second) {
      log("event " + event.id + " goes nowhere: " + error + ". Others of this type are not mentioned");
    }
  }
  void log(const std::string& message) const noexcept {
    try {
      if (logger_) {
        logger_->log(LogLevel::error, "relay: " + message);
      }
    } catch (...) {  // a logger's own failure is nobody's
    }
  }

  std::mutex mutex_;
  std::set<std::string> ours_;
  std::shared_ptr<Logger> logger_;
  bool foreign_ = false;
  std::set<std::string> reported_;
};

}  // namespace

std::unique_ptr<RelayChannel> watch_unrouted(EventLog& log, const std::vector<Route>& routes, const RelayOptions& options) {
  std::vector<std::string> rest{"!" + dead_letters_of("*")};
  std::set<std::string> ours{std::string{kBackend} + ":" + kName};
  for (const Route& route : routes) {
    rest.push_back("!" + route.pattern);
    ours.insert(route.channel.backend + ":" + route.channel.name);
  }
  const bool everything = std::any_of(routes.begin(), routes.end(), [](const Route& route) {
    return route.pattern.find_first_not_of('*') == std::string::npos;
  });
  if (everything || options.unrouted == Unrouted::ignore) {
    return nullptr;
  }
  auto publisher = std::make_shared<NoRoute>(std::move(ours), options.logger);
  RelayOptions strict = options;
  strict.rejections = 1;
  strict.after_dead_letter = AfterDeadLetter::next;
  strict.systemic.rejected = 0;  // here it is always the event
  auto channel = std::make_unique<RelayChannel>(log, Channel{kBackend, kName, publisher}, std::move(rest), strict);
  channel->on_look([publisher](EventLog::Cursor& cursor) { publisher->look(cursor.siblings()); });
  return channel;
}

}  // namespace penstock
