// SPDX-License-Identifier: Apache-2.0
// What becomes of messages when Postgres, a connection or a transaction fails under the consumer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>

#include "penstock/consumer.hpp"
#include "penstock/postgres_datastore.hpp"
#include "support/consumer_run.hpp"
#include "support/postgres.hpp"
#include "support/scripted_source.hpp"

// libpqxx 6.4 leaks the result of a statement whose connection breaks.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libpqxx-6"; }  // NOLINT(bugprone-reserved-identifier)

namespace penstock::test {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Admission = Datastore::Admission;

/// A database of its own, that can be closed to everybody.
class Database {
 public:
  Database() {
    admin("CREATE DATABASE " + name_);
    const std::string url = postgres_url();
    const std::size_t slash = url.find('/', url.find("://") + 3);
    const std::size_t query = url.find('?');
    url_ = url.substr(0, slash) + "/" + name_ + (query == std::string::npos ? "" : url.substr(query));
    migrate(url_);
  }
  ~Database() {
    try {
      open();
      admin("DROP DATABASE " + name_ + " WITH (FORCE)");
    } catch (const std::exception&) {  // it stays, under a name nobody uses
    }
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  [[nodiscard]] const std::string& url() const { return url_; }
  void close() const {
    admin("ALTER DATABASE " + name_ + " ALLOW_CONNECTIONS false");
    terminate();
  }
  void open() const { admin("ALTER DATABASE " + name_ + " ALLOW_CONNECTIONS true"); }
  void terminate() const {
    admin("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '" + name_ +
          "' AND pid <> pg_backend_pid()");
  }
  pqxx::result exec(const std::string& sql) const {
    pqxx::connection connection{url_};
    pqxx::nontransaction tx{connection};
    return tx.exec(sql);
  }
  long long value(const std::string& sql) const { return exec(sql)[0][0].as<long long>(); }

 private:
  static void admin(const std::string& sql) {
    pqxx::connection connection{postgres_url()};
    pqxx::nontransaction tx{connection};
    tx.exec(sql);
  }
  std::string name_ = unique_name("consumer_db");
  std::string url_;
};

class ConsumerOutage : public ::testing::Test {
 protected:
  ConsumerOutage() {
    options.group = "shipping";
    options.retry = RetryPolicy::fixed(50ms).attempts(3);
    options.parked_poll = 20ms;
    database.exec("CREATE TABLE effects(id text, n bigint GENERATED ALWAYS AS IDENTITY)");
  }
  std::unique_ptr<Running> run(Handler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), store, options, std::move(handler)));
  }
  static void effect(const Message& message, Context& context) {
    context.tx().exec("INSERT INTO effects(id) VALUES (" + context.tx().quote(message.id()) + ")");
  }
  static Message message(const std::string& key, int number) {
    Message result;
    result.event = numbered(key, number);
    result.wire = encode(result.event, Binding::kafka);
    result.origin = {.backend = "memory", .channel = "jobs", .partition = 0, .position = number};
    return result;
  }

  Database database;
  PostgresDatastore store{database.url()};
  std::shared_ptr<Script> script = std::make_shared<Script>();
  ConsumerOptions options;
};

TEST_F(ConsumerOutage, Rule14_ADatabaseThatIsAwayPausesIntakeAndBurnsNoAttempt) {
  options.workers = {2, 2};
  std::atomic<int> highest{0};
  const auto consumer = run([&](const Message& message, Context& context) {
    highest = std::max(highest.load(), context.attempt());
    effect(message, context);
    return Verdict::done();
  });
  int next = 0;
  const auto deliver = [&](int count) {
    for (int i = 0; i < count; ++i, ++next) script->deliver(numbered("k" + std::to_string(next % 5), next));
  };
  deliver(50);
  ASSERT_TRUE(eventually([&] { return script->acked().size() > 10; }));
  database.close();
  deliver(50);
  ASSERT_TRUE(eventually([&] { return consumer->status().paused && script->paused(); }, 60s));
  const auto acked = script->acked().size();
  EXPECT_LT(acked, 100U);
  const int polls = script->polls();
  ASSERT_TRUE(eventually([&] { return script->polls() > polls + 10; })) << "the source is to be served while paused";
  EXPECT_EQ(script->acked().size(), acked);
  database.open();
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 100; }, 60s));
  EXPECT_FALSE(consumer->status().paused);
  EXPECT_EQ(highest, 1);
  EXPECT_EQ(consumer->status().parked, 0U);
  EXPECT_EQ(consumer->status().dead, 0U);
  EXPECT_EQ(database.value("SELECT count(*) FROM effects"), 100);
  EXPECT_EQ(database.value("SELECT count(DISTINCT id) FROM effects"), 100);
}

TEST_F(ConsumerOutage, ABackendTerminatedUnderTheHandlerBurnsNoAttempt) {
  std::atomic<int> runs{0};
  for (const char* how : {"thrown", "wrapped", "verdict", "swallowed"}) {
    script = std::make_shared<Script>();
    std::atomic<int> tries{0};
    const auto consumer = run([&](const Message& message, Context& context) {
      ++runs;
      EXPECT_EQ(context.attempt(), 1) << how;
      effect(message, context);
      if (++tries == 1) {
        database.terminate();
        try {
          effect(message, context);
        } catch (const std::exception& error) {
          if (how == std::string{"thrown"}) throw;
          if (how == std::string{"wrapped"}) throw std::runtime_error{std::string{"ledger: "} + error.what()};
          if (how == std::string{"verdict"}) return Verdict::retry(error.what());
        }
      }
      return Verdict::done();
    });
    script->deliver(numbered(how, 1));
    ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }, 60s)) << how;
    EXPECT_EQ(consumer->status().done, 1U) << how;
    EXPECT_EQ(consumer->status().parked, 0U) << how << ": " << consumer->status().last_error;
    EXPECT_EQ(database.value("SELECT count(*) FROM effects WHERE id = '" + std::string{how} + "-1'"), 1) << how;
  }
  EXPECT_EQ(runs, 8);
}

TEST_F(ConsumerOutage, ABackendTerminatedBetweenMessagesIsNotNoticed) {
  const auto consumer = run([&](const Message& message, Context& context) {
    effect(message, context);
    return Verdict::done();
  });
  for (int number = 1; number <= 5; ++number) {
    script->deliver(numbered("a", number));
    ASSERT_TRUE(eventually([&] { return script->acked().size() == static_cast<std::size_t>(number); }));
    database.terminate();
  }
  EXPECT_EQ(consumer->status().parked, 0U);
  EXPECT_EQ(database.value("SELECT count(*) FROM effects"), 5);
}

TEST_F(ConsumerOutage, ABackendThatDiesInTheCommitIsInDoubtAndResolvedByTheInbox) {
  // The deferred trigger runs inside COMMIT, and ends its own backend the first time.
  database.exec("CREATE SEQUENCE commits");
  database.exec(
      "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('commits') = 1 THEN"
      " PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF; RETURN NULL; END $$");
  database.exec(
      "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "
      "die()");
  std::atomic<int> runs{0};
  const auto consumer = run([&](const Message& message, Context& context) {
    ++runs;
    EXPECT_EQ(context.attempt(), 1);
    effect(message, context);
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }, 60s));
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(consumer->status().done, 1U);
  EXPECT_EQ(consumer->status().parked, 0U);
  EXPECT_EQ(database.value("SELECT count(*) FROM effects"), 1);
  EXPECT_EQ(database.value("SELECT count(*) FROM penstock.outbox"), 1);
}

TEST_F(ConsumerOutage, ACommitInDoubtIsTold) {
  database.exec(
      "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid());"
      " PERFORM pg_sleep(5); RETURN NULL; END $$");
  database.exec(
      "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "
      "die()");
  const auto session = store.session("g");
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->tx()->exec("INSERT INTO effects(id) VALUES ('a-1')");
  EXPECT_THROW(session->complete({}, {}), CommitInDoubt);
  EXPECT_FALSE(session->settled(message("a", 1)));
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->complete({}, {});
  EXPECT_TRUE(session->settled(message("a", 1)));
}

TEST_F(ConsumerOutage, ADeadlockIsRunAgainAtOnceAndNotCounted) {
  options.workers = {2, 2};
  options.retry = RetryPolicy::none();
  database.exec("CREATE TABLE accounts(id int PRIMARY KEY, balance int NOT NULL)");
  database.exec("INSERT INTO accounts VALUES (1, 0), (2, 0)");
  std::atomic<int> arrived{0};
  std::atomic<int> runs{0};
  const auto consumer = run([&](const Message& message, Context& context) {
    ++runs;
    const bool forward = message.key() == "x";
    context.tx().exec(std::string{"UPDATE accounts SET balance = balance + 1 WHERE id = "} + (forward ? "1" : "2"));
    ++arrived;
    while (arrived < 2) std::this_thread::sleep_for(1ms);
    context.tx().exec(std::string{"UPDATE accounts SET balance = balance + 1 WHERE id = "} + (forward ? "2" : "1"));
    return Verdict::done();
  });
  script->deliver(numbered("x", 1));
  script->deliver(numbered("y", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }, 60s));
  EXPECT_EQ(consumer->status().done, 2U);
  EXPECT_EQ(consumer->status().dead, 0U);
  EXPECT_GE(runs, 3) << "there was no deadlock";
  EXPECT_EQ(database.value("SELECT sum(balance) FROM accounts"), 4);
}

TEST_F(ConsumerOutage, ADeadlockInAnotherDatabaseIsTheHandlersOwnFailure) {
  const auto consumer = run([&](const Message&, Context& context) {
    if (context.attempt() == 1) throw pqxx::sql_error{"deadlock detected", "", "40P01"};
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().done == 1; }));
  EXPECT_EQ(consumer->status().parked, 1U);
}

TEST_F(ConsumerOutage, ASessionThatDiesBeforeItsCommitLeavesNothing) {
  auto session = store.session("g");
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->tx()->exec("INSERT INTO effects(id) VALUES ('a-1')");
  const auto other = store.session("g");
  EXPECT_THROW(other->begin(message("a", 1)), TransactionConflict) << "it is in work";
  session.reset();
  ASSERT_TRUE(eventually([&] {
    try {
      return other->begin(message("a", 1)) == Admission::fresh;
    } catch (const TransactionConflict&) {
      return false;
    }
  }));
  other->complete({}, {});
  EXPECT_EQ(database.value("SELECT count(*) FROM effects"), 0);
}

TEST_F(ConsumerOutage, AParkedMessageWhoseWorkerDiesIsDueAgain) {
  auto session = store.session("g");
  ASSERT_EQ(session->begin(message("a", 1)), Admission::fresh);
  session->park({.number = 1, .error = "one"}, 0ms);
  ASSERT_EQ(session->begin(message("a", 2)), Admission::behind);
  ASSERT_TRUE(session->begin_due());
  const auto other = store.session("g");
  EXPECT_FALSE(other->begin_due()) << "locked by the first";
  database.terminate();
  EXPECT_THROW(session->park({.number = 2, .error = "two"}, 0ms), DatastoreUnavailable);
  std::optional<Datastore::Due> due;
  ASSERT_TRUE(eventually([&] {
    try {
      due = other->begin_due();
    } catch (const DatastoreUnavailable&) {
      return false;
    }
    return due.has_value();
  }));
  EXPECT_EQ(due->attempt, 2);
  EXPECT_EQ(due->message.wire, message("a", 1).wire);
  EXPECT_EQ(due->message.event, message("a", 1).event);
  EXPECT_EQ(due->message.origin.position, 1);
  other->complete({}, {.number = 2});
  due = other->begin_due();
  ASSERT_TRUE(due);
  EXPECT_EQ(due->message.id(), "a-2");
  EXPECT_EQ(due->attempt, 1);
}

TEST_F(ConsumerOutage, AMessageThatArrivesAsTheLastParkedOneOfItsKeySettlesIsNotLeftBehind) {
  const auto session = store.session("g");
  const auto other = store.session("g");
  for (int round = 0; round < 30; ++round) {
    const std::string key = "r" + std::to_string(round);
    ASSERT_EQ(session->begin(message(key, 1)), Admission::fresh);
    session->park({.number = 1, .error = "one"}, 0ms);
    ASSERT_TRUE(session->begin_due());
    Admission admission = Admission::duplicate;
    std::jthread arrives{[&] {
      admission = other->begin(message(key, 2));
      if (admission == Admission::fresh) other->complete({}, {});
    }};
    session->complete({}, {.number = 2});
    arrives.join();
    if (admission == Admission::behind) {
      const auto due = session->begin_due();
      ASSERT_TRUE(due) << "parked behind nobody";
      EXPECT_EQ(due->message.id(), key + "-2");
      session->complete({}, {.number = 1});
    } else {
      EXPECT_EQ(admission, Admission::fresh);
    }
  }
  EXPECT_EQ(database.value("SELECT count(*) FROM penstock.parked"), 0);
  EXPECT_EQ(database.value("SELECT count(*) FROM penstock.inbox WHERE state = 'done'"), 60);
}

TEST_F(ConsumerOutage, ASchemaThatIsMissingPausesAndSaysSo) {
  database.exec("DROP SCHEMA penstock CASCADE");
  const auto consumer = run([](const Message&, Context&) { return Verdict::done(); });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().paused; }));
  EXPECT_THAT(consumer->status().last_error, HasSubstr("migrate"));
  migrate(database.url());
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_EQ(consumer->status().dead, 0U);
}

}  // namespace
}  // namespace penstock::test
