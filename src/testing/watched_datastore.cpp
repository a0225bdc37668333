// SPDX-License-Identifier: Apache-2.0
#include "testing/watched_datastore.hpp"

#include <utility>
#include <vector>

namespace penstock::testing {

class WatchedDatastore::Watched final : public Datastore::Session {
 public:
  Watched(WatchedDatastore& watch, std::unique_ptr<Session> within) : watch_{watch}, within_{std::move(within)} {}
  ~Watched() override { Watched::abandon(); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  Admission begin(const Message& message) override {
    open();
    try {
      const Admission admission = within_->begin(message);
      if (admission != Admission::fresh) close();
      return admission;
    } catch (...) {
      close();
      throw;
    }
  }
  std::optional<Due> begin_due() override {
    open();
    try {
      std::optional<Due> due = within_->begin_due();
      if (!due) close();
      return due;
    } catch (...) {
      close();
      throw;
    }
  }
  std::size_t due(std::size_t limit) override { return within_->due(limit); }
  pqxx::transaction_base* tx() override { return within_->tx(); }
  void classify(const std::exception_ptr& thrown) override { within_->classify(thrown); }

  void schedule(std::span<const ScheduledEvent> events) override { within_->schedule(events); }
  void complete(std::span<const Event> emitted, const Attempt& attempt) override {
    completing([&] { within_->complete(emitted, attempt); });
  }
  void park(const Attempt& attempt, std::chrono::milliseconds delay) override {
    within_->park(attempt, delay);
    close();
  }
  void bury(const Attempt& attempt, const std::string& reason) override {
    within_->bury(attempt, reason);
    close();
  }
  void bury_malformed(const Message& message) override {
    within_->bury_malformed(message);
    close();
  }
  std::vector<Admission> begin_batch(std::span<const Message* const> messages) override {
    open();
    try {
      std::vector<Admission> admissions = within_->begin_batch(messages);
      if (admissions.empty()) close();
      return admissions;
    } catch (...) {
      close();
      throw;
    }
  }
  void savepoint() override { within_->savepoint(); }
  void undo() override { within_->undo(); }
  void complete_batch(std::span<const Completed> done) override {
    completing([&] { within_->complete_batch(done); });
  }
  std::vector<Begun> begun(std::span<const Message* const> messages) override { return within_->begun(messages); }
  void note_begun(std::span<const Message* const> messages) override { within_->note_begun(messages); }
  void abandon() noexcept override {
    within_->abandon();
    close();
  }
  bool settled(const Message& message) override { return within_->settled(message); }

 private:
  template <class Work>
  void completing(Work work) {
    const bool now = ++watch_.commits_ == watch_.commit_;
    if (now && watch_.how_ == Cut::before) {
      abandon();
      throw DatastoreUnavailable{"cut off before the commit"};
    }
    work();
    close();
    if (now && watch_.how_ == Cut::after) {
      throw DatastoreUnavailable{"cut off after the commit"};
    }
  }

  void open() {
    ++watch_.begun_;
    if (!std::exchange(open_, true)) ++watch_.busy_;
  }
  void close() noexcept {
    if (std::exchange(open_, false)) --watch_.busy_;
  }

  WatchedDatastore& watch_;
  std::unique_ptr<Session> within_;
  bool open_ = false;
};

std::unique_ptr<Datastore::Session> WatchedDatastore::session(const std::string& group) {
  return std::make_unique<Watched>(*this, within_.session(group));
}

}  // namespace penstock::testing
