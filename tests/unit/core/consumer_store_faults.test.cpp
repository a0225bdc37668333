// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <atomic>
#include <deque>
#include <stdexcept>

#include "consumer_support.hpp"

namespace penstock::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A store in memory whose next calls fail as a test says.
class FaultyStore final : public Datastore {
 public:
  enum class Fault { none, conflict, doubt_committed, doubt_undone, away, refuses };

  explicit FaultyStore(Datastore& store) : store_{store} {}

  void fail_complete(Fault fault, int times = 1) { set(complete_, fault, times); }
  void fail_begin(Fault fault, int times = 1) { set(begin_, fault, times); }
  void fail_park(Fault fault, int times = 1) { set(park_, fault, times); }
  /// What `classify` makes of the next exceptions.
  void fail_handler(Fault fault, int times = 1) { set(classify_, fault, times); }
  [[nodiscard]] int asked() const { return asked_; }

  std::unique_ptr<Session> session(const std::string& group) override {
    return std::make_unique<FaultySession>(*this, store_.session(group));
  }

 private:
  class FaultySession final : public Session {
   public:
    FaultySession(FaultyStore& store, std::unique_ptr<Session> session) : store_{store}, session_{std::move(session)} {}

    Admission begin(const Message& message) override {
      store_.raise(store_.begin_, *session_);
      return session_->begin(message);
    }
    std::optional<Due> begin_due() override { return session_->begin_due(); }
    std::size_t due(std::size_t limit) override { return session_->due(limit); }
    pqxx::transaction_base* tx() override { return nullptr; }
    void classify(const std::exception_ptr& /*thrown*/) override { store_.raise(store_.classify_, *session_); }
    void complete(std::span<const Event> emitted, const Attempt& attempt) override {
      const Fault fault = store_.next(store_.complete_);
      if (fault == Fault::doubt_committed) {
        session_->complete(emitted, attempt);
        throw CommitInDoubt{"the connection broke after the commit"};
      }
      if (fault == Fault::doubt_undone) {
        session_->abandon();
        throw CommitInDoubt{"the connection broke before the commit"};
      }
      store_.raise(fault, *session_);
      session_->complete(emitted, attempt);
    }
    void park(const Attempt& attempt, std::chrono::milliseconds delay) override {
      store_.raise(store_.park_, *session_);
      session_->park(attempt, delay);
    }
    void bury(const Attempt& attempt, const std::string& reason) override { session_->bury(attempt, reason); }
    void bury_malformed(const Message& message) override { session_->bury_malformed(message); }
    void abandon() noexcept override { session_->abandon(); }
    bool settled(const Message& message) override {
      ++store_.asked_;
      return session_->settled(message);
    }

   private:
    FaultyStore& store_;
    std::unique_ptr<Session> session_;
  };

  struct Plan {
    Fault fault = Fault::none;
    int times = 0;
  };
  void set(Plan& plan, Fault fault, int times) {
    const std::lock_guard guard{mutex_};
    plan = {fault, times};
  }
  Fault next(Plan& plan) {
    const std::lock_guard guard{mutex_};
    return plan.times > 0 ? (--plan.times, plan.fault) : Fault::none;
  }
  void raise(Plan& plan, Session& session) { raise(next(plan), session); }
  static void raise(Fault fault, Session& session) {
    if (fault == Fault::none) return;
    if (fault != Fault::refuses) session.abandon();
    if (fault == Fault::conflict) throw TransactionConflict{"deadlock detected"};
    if (fault == Fault::away) throw DatastoreUnavailable{"connection refused"};
    throw std::runtime_error{"constraint violated"};
  }

  Datastore& store_;
  std::mutex mutex_;
  Plan complete_, begin_, park_, classify_;
  std::atomic<int> asked_{0};
};
using Fault = FaultyStore::Fault;

class ConsumerStoreFaults : public ConsumerTest {
 protected:
  std::unique_ptr<Running> run_counting() {
    return run(
        [this](const Message& message, Context& context) {
          seen.add(message.id() + "#" + std::to_string(context.attempt()));
          context.emit({.type = "test.followed.v1"});
          return Verdict::done();
        },
        faulty);
  }
  FaultyStore faulty{store};
};

TEST_F(ConsumerStoreFaults, AStoreThatIsAwayPausesIntakeAndBurnsNoAttempt) {
  store.set_away(true);
  const auto consumer = run_counting();
  for (int number = 1; number <= 3; ++number) script->deliver(numbered("a", number));
  ASSERT_TRUE(eventually([&] { return consumer->status().paused && script->paused(); }));
  const int polls = script->polls();
  ASSERT_TRUE(eventually([&] { return script->polls() > polls + 3; })) << "the source is to be served while paused";
  for (int i = 0; i < 100; ++i) clock.advance(1s);
  EXPECT_TRUE(consumer->status().paused);
  EXPECT_THAT(script->acked(), IsEmpty());
  EXPECT_THAT(seen.all(), IsEmpty());

  store.set_away(false);
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 3;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-2#1", "a-3#1"));
  EXPECT_FALSE(consumer->status().paused);
  EXPECT_EQ(consumer->status().parked, 0U);
  EXPECT_FALSE(script->paused());
}

TEST_F(ConsumerStoreFaults, AStoreThatGoesAwayInTheMiddleBurnsNoAttempt) {
  faulty.fail_complete(Fault::away, 2);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return script->acked().size() == 1;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-1#1", "a-1#1"));
  EXPECT_EQ(store.emitted().size(), 1U);
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerStoreFaults, AConnectionThatBreaksUnderTheHandlerBurnsNoAttempt) {
  for (const bool in_classify : {true, false}) {
    script = std::make_shared<Script>();
    std::atomic<int> tries{0};
    if (in_classify) {
      faulty.fail_handler(Fault::away);
    } else {
      faulty.fail_park(Fault::away);
    }
    const auto consumer = run(
        [&](const Message&, Context& context) -> Verdict {
          EXPECT_EQ(context.attempt(), 1);
          if (++tries == 1) throw std::runtime_error{"server closed the connection unexpectedly"};
          return Verdict::done();
        },
        faulty);
    script->deliver(numbered(in_classify ? "a" : "b", 1));
    ASSERT_TRUE(eventually([&] {
      clock.advance(1s);
      return script->acked().size() == 1;
    }));
    EXPECT_EQ(consumer->status().done, 1U);
    EXPECT_EQ(consumer->status().parked, 0U);
  }
}

TEST_F(ConsumerStoreFaults, AConflictIsRunAgainAtOnceAndNotCounted) {
  faulty.fail_complete(Fault::conflict, 3);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));  // no time passes
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-1#1", "a-1#1", "a-1#1"));
  EXPECT_EQ(consumer->status().parked, 0U);
  EXPECT_EQ(store.emitted().size(), 1U);
}

TEST_F(ConsumerStoreFaults, ADeadlockInTheHandlersOwnSqlIsRunAgainAndNotCounted) {
  faulty.fail_handler(Fault::conflict, 2);
  std::atomic<int> tries{0};
  const auto consumer = run(
      [&](const Message&, Context& context) -> Verdict {
        EXPECT_EQ(context.attempt(), 1);
        if (++tries <= 2) throw std::runtime_error{"deadlock detected"};
        return Verdict::done();
      },
      faulty);
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_EQ(tries, 3);
  EXPECT_EQ(consumer->status().parked, 0U);
}

TEST_F(ConsumerStoreFaults, EndlessConflictsWaitALittleAndLetOtherKeysPass) {
  faulty.fail_begin(Fault::conflict, 5);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  script->deliver(numbered("b", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_THAT(script->acked(), ElementsAre("b-1"));
  ASSERT_TRUE(eventually([&] {
    clock.advance(100ms);
    return script->acked().size() == 2;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("b-1#1", "a-1#1"));
}

TEST_F(ConsumerStoreFaults, ACommitInDoubtThatHappenedIsAcknowledgedAndNotRedone) {
  faulty.fail_complete(Fault::doubt_committed);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] {
    clock.advance(100ms);
    return script->acked().size() == 1;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1"));
  EXPECT_EQ(faulty.asked(), 1);
  EXPECT_EQ(store.emitted().size(), 1U);
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerStoreFaults, ACommitInDoubtThatDidNotHappenIsRedone) {
  faulty.fail_complete(Fault::doubt_undone);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] {
    clock.advance(100ms);
    return script->acked().size() == 1;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-1#1"));
  EXPECT_EQ(faulty.asked(), 1);
  EXPECT_EQ(store.emitted().size(), 1U);
  EXPECT_EQ(consumer->status().parked, 0U);
}

TEST_F(ConsumerStoreFaults, AFailureThatShowsAtCommitIsAFailedAttempt) {
  faulty.fail_complete(Fault::refuses);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 1; }));
  EXPECT_EQ(consumer->status().last_error, "constraint violated");
  ASSERT_TRUE(eventually([&] {
    clock.advance(1s);
    return consumer->status().done == 1;
  }));
  EXPECT_THAT(seen.all(), ElementsAre("a-1#1", "a-1#2"));
}

TEST_F(ConsumerStoreFaults, AMessageTheStoreRefusesIsADeadLetterAndHoldsUpNothing) {
  faulty.fail_begin(Fault::refuses);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  script->deliver(numbered("a", 2));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  ASSERT_EQ(store.dead_letters().size(), 1U);
  EXPECT_THAT(store.dead_letters()[0].reason, HasSubstr("constraint violated"));
  EXPECT_THAT(seen.all(), ElementsAre("a-2#1"));
}

TEST_F(ConsumerStoreFaults, StopsWhileTheStoreIsAway) {
  store.set_away(true);
  const auto consumer = run_counting();
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().paused; }));
  EXPECT_TRUE(consumer->stop());
  EXPECT_THAT(script->acked(), IsEmpty());
}

}  // namespace
}  // namespace penstock::test
