// SPDX-License-Identifier: Apache-2.0
// What a consumer on Postgres does, counted in Postgres.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/testing/check_idempotent.hpp"
#include "penstock/uuid.hpp"
#include "support/consumer_run.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"
#include "support/scripted_source.hpp"

namespace penstock::test {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class ConsumerEffects : public ::testing::Test {
 protected:
  ConsumerEffects() {
    options.group = "shipping";
    options.retry = RetryPolicy::fixed(50ms).attempts(3);
    options.parked_poll = 20ms;
    schema.exec("CREATE TABLE " + effects + "(id text, key text, n bigint GENERATED ALWAYS AS IDENTITY)");
  }

  std::unique_ptr<Running> run(Handler handler) { return run(script, std::move(handler)); }
  std::unique_ptr<Running> run(const std::shared_ptr<Script>& from, Handler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(from), store, options, std::move(handler)));
  }

  void effect(const Message& message, Context& context) const {
    context.tx().exec("INSERT INTO " + effects + "(id, key) VALUES (" + context.tx().quote(message.id()) + ", " +
                      context.tx().quote(message.key()) + ")");
  }
  long long count(const std::string& table, const std::string& where = "true") const {
    return schema.value("SELECT count(*) FROM " + schema.table(table) + " WHERE " + where);
  }
  std::string text(const std::string& sql) const { return schema.value<std::string>(sql); }

  Schema schema{"consumer"};
  std::string effects = schema.table("effects");
  PostgresDatastore store{postgres_url(), {.schema = schema.name()}};
  std::shared_ptr<Script> script = std::make_shared<Script>();
  ConsumerOptions options;
};

TEST_F(ConsumerEffects, Rule10_MarkEffectEventsAuditAndCheckpointAreOneTransaction) {
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    context.emit({.type = "test.followed.v1", .key = message.key(), .data = "{}"});
    context.emit({.type = "test.followed.v1", .key = message.key()});
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_EQ(count("effects"), 1);
  EXPECT_EQ(count("inbox", "consumer_group = 'shipping' AND source = '/test' AND id = 'a-1' AND state = 'done'"), 1);
  EXPECT_EQ(count("outbox", "type = 'test.followed.v1' AND causation_id = 'a-1' AND route = type"), 2);
  EXPECT_EQ(count("audit", "event_id = 'a-1' AND outcome = 'done' AND attempt = 1 AND host IS NOT NULL"), 1);
  EXPECT_EQ(count("checkpoints", "channel = 'jobs' AND partition = 0 AND position = 1 AND settled = 1"), 1);
  // One transaction: every row was written by the same one.
  EXPECT_EQ(schema.value("SELECT count(DISTINCT x) FROM (SELECT xmin::text AS x FROM " + effects +
                         " UNION ALL SELECT xmin::text FROM " + schema.table("inbox") + " UNION ALL SELECT xmin::text FROM " +
                         schema.table("outbox") + " UNION ALL SELECT xmin::text FROM " + schema.table("audit") +
                         " UNION ALL SELECT xmin::text FROM " + schema.table("checkpoints") + ") AS rows"),
            1);
}

TEST_F(ConsumerEffects, Rule10_EveryEffectHappensOnceUnderDuplicatesAndTwoConsumers) {
  options.workers = {4, 4};
  const auto other = std::make_shared<Script>();
  const Handler handler = [this](const Message& message, Context& context) {
    effect(message, context);
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  };
  const auto first = run(script, handler);
  const auto second = run(other, handler);
  constexpr int messages = 150;
  for (int round = 0; round < 3; ++round) {
    for (int number = 0; number < messages; ++number) {
      const std::string key = number % 3 == 0 ? "" : "k" + std::to_string(number % 7);
      script->deliver(numbered(key, number));
      other->deliver(numbered(key, number));
    }
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3 * messages && other->acked().size() == 3 * messages; }, 60s));
  EXPECT_EQ(count("effects"), messages);
  EXPECT_EQ(schema.value("SELECT count(DISTINCT id) FROM " + effects), messages);
  EXPECT_EQ(count("inbox", "state = 'done'"), messages);
  EXPECT_EQ(count("outbox"), messages);
  EXPECT_EQ(first->status().done + second->status().done, static_cast<std::uint64_t>(messages));
  EXPECT_EQ(first->status().parked + second->status().parked, 0U);
  EXPECT_EQ(schema.value("SELECT sum(settled) FROM " + schema.table("checkpoints")), messages);
  EXPECT_LE(count("checkpoints"), 10) << "no more rows than transactions at once";
}

TEST_F(ConsumerEffects, Rule10_AFailedStatementLeavesNothingOfItsHandler) {
  options.retry = RetryPolicy::fixed(1ms).attempts(2);
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    context.emit({.type = "test.followed.v1"});
    context.tx().exec("SELECT no_such_function()");
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().dead == 1; }));
  EXPECT_EQ(count("effects"), 0);
  EXPECT_EQ(count("outbox", "type = 'test.followed.v1'"), 0);
  EXPECT_EQ(count("inbox", "state = 'done'"), 0);
  EXPECT_EQ(count("inbox", "state = 'dead'"), 1);
  EXPECT_EQ(count("parked"), 0);
  EXPECT_THAT(text("SELECT last_error FROM " + schema.table("dead_letters")), HasSubstr("no_such_function"));
}

TEST_F(ConsumerEffects, Rule16_WhateverAMessageHoldsItIsHandledOrADeadLetterAndStopsNobody) {
  std::string text;  // more than an entry of an index takes, and nothing that compresses
  for (int i = 0; i < 100; ++i) text += uuid7();
  std::set<std::string> sent;
  const auto deliver = [&](const auto& change_event, const auto& change_wire) {
    for (const std::string type : {"test.good.v1", "test.bad.v1"}) {
      Event event = numbered("k" + std::to_string(sent.size()), static_cast<int>(sent.size()));
      event.type = type;
      change_event(event);
      Message message;
      message.wire = encode(event, Binding::kafka);
      change_wire(message.wire);
      message.event = decode(message.wire, Binding::kafka);
      sent.insert(message.id());
      script->deliver(std::move(message));
    }
  };
  const auto event = [&](const auto& change) { deliver(change, [](Wire&) {}); };
  const auto wire = [&](const auto& change) { deliver([](Event&) {}, change); };
  options.retry = RetryPolicy::fixed(1ms).attempts(2);
  const auto consumer = run([this](const Message& message, Context& context) {
    if (message.type().rfind("test.bad", 0) == 0) throw std::runtime_error{"no \xff good"};
    context.tx().exec("INSERT INTO " + effects + "(id) VALUES (" + context.tx().quote(message.id()) + ")");
    context.emit({.type = "test.followed.v1"});
    return Verdict::done();
  });
  event([&](Event& e) { e.id += text; });
  event([&](Event& e) { e.source += text; });
  event([&](Event& e) { e.key += text; });
  event([&](Event& e) { e.type += text; });
  event([&](Event& e) { e.correlation_id = text; });
  event([&](Event& e) { e.causation_id = text; });
  event([&](Event& e) { e.subject = text; });
  event([&](Event& e) { e.extensions.emplace("long", ExtensionValue{text}); });
  const auto without_key = [](Wire& w) {
    std::erase_if(w.headers, [](const Header& h) { return h.name == "ce_partitionkey"; });
  };
  wire([&](Wire& w) { without_key(w), w.key = std::string{"a\0nul", 5}; });
  wire([&](Wire& w) { without_key(w), w.key = "\xff\xfe"; });
  wire([&](Wire& w) { w.headers.push_back({"x-bytes", std::string{"\xff\0", 2}}); });
  wire([&](Wire& w) { w.headers.push_back({"\xff\xfe", std::nullopt}); });
  wire([&](Wire& w) { w.payload = std::string{"\xff\0", 2}; });
  EXPECT_TRUE(eventually([&] { return consumer->status().done + consumer->status().dead == sent.size(); }));
  EXPECT_EQ(script->acked().size(), sent.size());
  EXPECT_EQ(consumer->status().done, 8U) << "all that the database can hold as it is";
  EXPECT_EQ(count("dead_letters", "octet_length(payload) > 0"), static_cast<long long>(sent.size()) - 8);
  EXPECT_EQ(count("parked"), 0);
}

TEST_F(ConsumerEffects, AHandlerThatGoesOnAfterAFailedStatementHasFailed) {
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    if (context.attempt() == 1) {
      try {
        context.tx().exec("SELECT 1/0");
      } catch (const std::exception&) {
        return Verdict::done();  // what it did is lost, and it does not know
      }
    }
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().done == 1; }));
  EXPECT_EQ(consumer->status().parked, 1U);
  EXPECT_EQ(count("effects"), 1);
}

TEST_F(ConsumerEffects, AConstraintThatFailsAtCommitIsAFailedAttempt) {
  schema.exec("CREATE TABLE " + schema.table("parents") + "(id text PRIMARY KEY)");
  schema.exec("ALTER TABLE " + effects + " ADD FOREIGN KEY (id) REFERENCES " + schema.table("parents") +
              " DEFERRABLE INITIALLY DEFERRED");
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));  // first as a fresh message, then twice as a parked one
  ASSERT_TRUE(eventually([&] { return consumer->status().dead == 1; }));
  EXPECT_EQ(count("effects"), 0);
  EXPECT_EQ(count("parked"), 0);
  EXPECT_EQ(schema.value("SELECT jsonb_array_length(attempts) FROM " + schema.table("dead_letters")), 3);
  EXPECT_THAT(text("SELECT first_error FROM " + schema.table("dead_letters")), HasSubstr("foreign key"));
}

TEST_F(ConsumerEffects, Rule14_TheNextAttemptAndItsHistoryAreInTheRow) {
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  const auto consumer = run([](const Message&, Context&) -> Verdict { throw std::runtime_error{"provider \xff away"}; });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  const std::string parked = schema.table("parked");
  EXPECT_EQ(count("parked",
                  "NOT behind AND attempt = 2 AND key = 'a' AND event_id = 'a-1' AND"
                  " next_attempt_at BETWEEN now() + interval '55 minutes' AND now() + interval '61 minutes'"),
            1);
  EXPECT_EQ(text("SELECT attempts->0->>'error' FROM " + parked), "provider ? away");
  EXPECT_EQ(text("SELECT attempts->0->>'number' FROM " + parked), "1");
  EXPECT_LT(
      std::abs(schema.value<double>("SELECT extract(epoch FROM now() - (attempts->0->>'at')::timestamptz) FROM " + parked)),
      60);
  EXPECT_EQ(count("inbox", "state = 'parked'"), 1);
  // Cluster-wide: whoever moves the time moves the attempt.
  EXPECT_EQ(consumer->status().parked, 1U);
  schema.exec("UPDATE " + parked + " SET next_attempt_at = now()");
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 2; }));
  EXPECT_EQ(count("parked", "attempt = 3 AND jsonb_array_length(attempts) = 2"), 1);
  // A redelivery of what is parked is a duplicate.
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().duplicates == 1; }));
  EXPECT_EQ(count("parked"), 1);
}

TEST_F(ConsumerEffects, Rule14_AMessagesPastIsMeasuredByTheDatabase) {
  options.retry = RetryPolicy::fixed(10min).attempts(1'000).within(1h);
  const auto consumer = run([](const Message&, Context&) { return Verdict::retry("away"); });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 1; }));
  // As if it had happened earlier: the row tells, whichever process looks.
  const auto earlier = [&](const std::string& minutes) {
    schema.exec("UPDATE " + schema.table("parked") + " SET next_attempt_at = now(), attempts = jsonb_set(attempts, '{0,at}'," +
                " to_jsonb((now() - interval '" + minutes + " minutes')::text))");
  };
  earlier("40");
  ASSERT_TRUE(eventually([&] { return consumer->status().parked == 2; }));
  EXPECT_EQ(count("dead_letters"), 0);
  earlier("51");
  ASSERT_TRUE(eventually([&] { return count("dead_letters", "reason = 'out of time: away'") == 1; }));
  EXPECT_EQ(count("dead_letters", "jsonb_array_length(attempts) = 3"), 1);
}

TEST_F(ConsumerEffects, Rule21_AnUnknownVersionIsParkedAndBurnsNoAttempt) {
  options.retry = RetryPolicy::none();
  std::atomic<int> calls{0};
  std::atomic<int> highest{0};
  const auto consumer = run([&](const Message& message, Context& context) {
    highest = std::max(highest.load(), context.attempt());
    if (++calls < 4) {
      return Verdict::unknown_version("shop.order.placed.v3", 10ms);
    }
    effect(message, context);
    return Verdict::done();
  });
  script->deliver(numbered("new", 1));
  ASSERT_TRUE(eventually([&] { return count("effects") == 1; }));
  EXPECT_EQ(highest, 1);
  EXPECT_EQ(count("audit", "outcome = 'parked' AND attempt = 0"), 3);
  EXPECT_EQ(count("dead_letters"), 0);
  // Until its time is over, which is counted from its first attempt, by the database's clock.
  calls = -1'000;
  script->deliver(numbered("newer", 1));
  ASSERT_TRUE(eventually([&] { return count("parked", "jsonb_array_length(attempts) >= 2") == 1; }));
  ASSERT_TRUE(eventually([&] {
    schema.exec("UPDATE " + schema.table("parked") + " SET attempts = jsonb_set(attempts, '{0,at}'," +
                " to_jsonb((now() - interval '25 hours')::text))");
    return count("dead_letters", "reason = 'postponed too long: unknown version: shop.order.placed.v3'") == 1;
  }));
}

TEST_F(ConsumerEffects, Rule15_SuccessorsWaitInOrderAndOtherKeysFlow) {
  options.workers = {4, 4};
  options.retry = RetryPolicy::fixed(100ms).attempts(4);
  std::mutex mutex;
  std::map<std::string, int> failures;
  const auto consumer = run([&](const Message& message, Context& context) {
    const std::string number = message.id().substr(message.id().find('-') + 1);
    if (message.key()[0] == 'b' && (number == "1" || number == "5") && context.attempt() < 3) return Verdict::retry("not yet");
    effect(message, context);
    return Verdict::done();
  });
  constexpr int each = 12;
  for (int number = 1; number <= each; ++number) {
    for (const char* key : {"b1", "b2", "g1", "g2"}) script->deliver(numbered(key, number));
  }
  ASSERT_TRUE(eventually([&] { return consumer->status().done == 4 * each; }, 60s));
  EXPECT_EQ(script->acked().size(), 4U * each);
  EXPECT_EQ(count("parked"), 0);
  EXPECT_EQ(count("effects"), 4 * each);
  // `n` counts the effects in the order of their making.
  EXPECT_EQ(schema.value("SELECT count(*) FROM (SELECT substring(id FROM '-(.*)')::int AS number,"
                         " row_number() OVER (PARTITION BY key ORDER BY n) AS place FROM " +
                         effects + ") AS e WHERE number <> place"),
            0);
  EXPECT_GT(schema.value("SELECT min(n) FROM " + effects + " WHERE key = 'b1'"), 1) << "other keys did not wait";
}

TEST_F(ConsumerEffects, Rule15_ParkedMessagesAreNoneOfTheIntakes) {
  options.in_flight = 4;
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  options.systemic.rejected = 0;
  const auto consumer = run([&](const Message& message, Context& context) {
    if (message.key().empty() || message.key() == "bad") return Verdict::retry("no");
    effect(message, context);
    return Verdict::done();
  });
  for (int number = 0; number < 30; ++number) {
    script->deliver(numbered("bad", number));
    script->deliver(numbered("", number));
    script->deliver(numbered("good", number));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 90; }, 60s));
  EXPECT_EQ(count("effects"), 30);
  EXPECT_EQ(count("parked", "behind"), 29);
  EXPECT_EQ(count("parked", "NOT behind"), 31);
}

TEST_F(ConsumerEffects, Rule15_LookingForDueMessagesIsAnIndexRangeWhateverIsParked) {
  schema.exec(
      "INSERT INTO " + schema.table("parked") +
      "(consumer_group, key, behind, next_attempt_at, attempt, source, event_id, type, backend, channel)"
      " SELECT 'shipping', 'k' || i % 1000, i % 1000 <> i, now() + interval '1 day', 1, '/test', i::text, 't', 'memory', 'jobs'"
      " FROM generate_series(1, 50000) AS i");
  const auto plan = [&](const std::string& sql) {
    std::string lines;
    for (const auto& row : schema.exec("EXPLAIN " + sql)) lines += row[0].as<std::string>() + "\n";
    return lines;
  };
  for (const bool analyzed : {false, true}) {
    if (analyzed) schema.exec("ANALYZE " + schema.table("parked"));
    const std::string due = plan("SELECT seq FROM " + schema.table("parked") +
                                 " WHERE consumer_group = 'shipping' AND NOT behind AND next_attempt_at <= now()"
                                 " ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED");
    EXPECT_THAT(due, HasSubstr("parked_due")) << due;
    EXPECT_THAT(due, ::testing::Not(HasSubstr("Sort"))) << due;
    const std::string next = plan("SELECT min(seq) FROM " + schema.table("parked") +
                                  " WHERE consumer_group = 'shipping' AND key = 'k1' AND seq > 1");
    EXPECT_THAT(next, HasSubstr("parked_key")) << next;
  }
  const auto consumer = run([&](const Message& message, Context& context) {
    effect(message, context);
    return Verdict::done();
  });
  script->deliver(numbered("other", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  script->deliver(numbered("k1", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_EQ(count("parked", "event_id = 'k1-1' AND behind"), 1);
}

TEST_F(ConsumerEffects, Rule16_ADeadLetterIsARowWithTheExactOriginalAndAMessage) {
  Message message;
  message.event = numbered("a", 1);
  message.event.data = std::string{"\x00\xff{\r\n", 5};
  message.wire = encode(message.event, Binding::kafka);
  message.wire.headers.push_back({"raw", std::string{"\x80\x00", 2}});
  message.wire.headers.push_back({"raw", std::nullopt});
  message.wire.headers.push_back({"empty", ""});
  message.event = decode(message.wire, Binding::kafka);
  message.origin.partition = 3;
  message.origin.position = 77;
  const auto consumer = run([](const Message&, Context& context) -> Verdict {
    throw std::runtime_error{"failure " + std::to_string(context.attempt())};
  });
  script->deliver(message);
  ASSERT_TRUE(eventually([&] { return consumer->status().dead == 1; }));

  EXPECT_EQ(count("dead_letters",
                  "side = 'consumer' AND state = 'dead' AND consumer_group = 'shipping' AND backend = 'memory' AND"
                  " channel = 'jobs' AND partition = 3 AND position = 77 AND source = '/test' AND event_id = 'a-1'"
                  " AND key = 'a' AND reason = 'attempts exhausted: failure 3' AND first_error = 'failure 1' AND"
                  " last_error = 'failure 3' AND jsonb_array_length(attempts) = 3 AND wire_key = 'a'::bytea"),
            1);
  EXPECT_EQ(text("SELECT encode(payload, 'hex') FROM " + schema.table("dead_letters")), "00ff7b0d0a");
  EXPECT_EQ(count("dead_letters", R"(headers @> '[["raw", {"base64": "gAA="}], ["raw", null], ["empty", ""]]')"), 1);
  EXPECT_EQ(
      count("outbox", "route = 'penstock.dead.jobs' AND type = 'test.happened.v1' AND encode(data, 'hex') = '00ff7b0d0a'"), 1);
  EXPECT_EQ(count("audit", "outcome = 'parked'"), 2);
  EXPECT_EQ(count("audit", "outcome = 'dead' AND attempt = 3 AND error = 'failure 3'"), 1);
  EXPECT_EQ(count("parked"), 0);
}

TEST_F(ConsumerEffects, NullAndEmptyKeysAndPayloadsStayApart) {
  options.retry = RetryPolicy::none();
  const auto consumer = run([](const Message&, Context&) { return Verdict::reject("no"); });
  for (const bool null : {true, false}) {
    Message message;
    message.event = numbered("", null ? 1 : 2);
    message.event.data.reset();
    message.wire = encode(message.event, Binding::kafka);
    if (!null) {
      message.wire.key = "";
      message.wire.payload = "";
    }
    script->deliver(message);
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_EQ(count("dead_letters", "event_id = 'free-1' AND wire_key IS NULL AND payload IS NULL"), 1);
  EXPECT_EQ(count("dead_letters", "event_id = 'free-2' AND wire_key = '' AND payload = ''"), 1);
}

TEST_F(ConsumerEffects, ARejectedMessageIsADeadLetterAndItsKeyGoesOn) {
  const auto consumer = run([&](const Message& message, Context& context) {
    effect(message, context);
    return message.id() == "a-1" ? Verdict::reject("address unknown") : Verdict::done();
  });
  script->deliver(numbered("a", 1));
  script->deliver(numbered("a", 2));
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_EQ(count("effects", "id = 'a-1'"), 0);
  EXPECT_EQ(count("effects", "id = 'a-2'"), 1);
  EXPECT_EQ(count("dead_letters", "reason = 'address unknown'"), 1);
  EXPECT_EQ(consumer->status().duplicates, 1U);
}

TEST_F(ConsumerEffects, AMessageThatIsNoEventIsKeptExactlyAndOnce) {
  const auto consumer = run([](const Message&, Context&) { return Verdict::done(); });
  Message broken;
  broken.wire = {.key = std::string{"\x00k", 2}, .headers = {{"h", std::nullopt}}, .payload = std::string{"\xff\x00", 2}};
  broken.defect = "no ce_id header";
  broken.origin.partition = 1;
  broken.origin.position = 5;
  script->deliver(broken);
  script->deliver(broken);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2; }));
  EXPECT_EQ(count("dead_letters",
                  "reason = 'no ce_id header' AND event_id IS NULL AND encode(payload, 'hex') = 'ff00' AND"
                  " encode(wire_key, 'hex') = '006b'"),
            1);
  EXPECT_EQ(count("dead_letters"), 1);
  EXPECT_EQ(count("outbox", "type = 'penstock.malformed.v1' AND route = 'penstock.dead.jobs'"), 1);
}

TEST_F(ConsumerEffects, AnIdThatPostgresCannotHoldHoldsUpNothing) {
  const auto consumer = run([](const Message&, Context&) { return Verdict::done(); });
  for (const std::string& id : {std::string{"nul\0", 4}, std::string{"\xc3\x28"}, std::string(10'000, 'x')}) {
    Message message;
    message.event = numbered("a", 1);
    message.wire.payload = "{}";
    message.event.id = id;
    script->deliver(message);
  }
  script->deliver(numbered("a", 2));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 4; }));
  EXPECT_EQ(count("dead_letters"), 3);
  EXPECT_EQ(consumer->status().done, 1U);
}

TEST_F(ConsumerEffects, Rule14_StopIsNeitherSuccessNorAFailedAttempt) {
  std::atomic<bool> started{false};
  const auto consumer = run([&](const Message& message, Context& context) {
    effect(message, context);
    started = true;
    while (!context.stop_token().stop_requested()) std::this_thread::sleep_for(1ms);
    return Verdict::retry("interrupted");
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return started.load(); }));
  EXPECT_TRUE(consumer->stop());
  EXPECT_TRUE(script->acked().empty());
  EXPECT_EQ(count("effects") + count("inbox") + count("parked") + count("audit"), 0);
}

TEST_F(ConsumerEffects, AnEventEmittedWithADelayWaitsInPostgresAndHoldsUpNoKey) {
  const auto consumer = run([&](const Message& message, Context& context) {
    context.emit({.type = "test.expired.v1", .key = message.key(), .data = "\x01{}"}, message.id() == "a-1" ? 1h : 1ms);
    return Verdict::done();
  });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 1; }));
  EXPECT_EQ(count("parked", "key IS NULL AND backend = 'scheduled' AND next_attempt_at > now() + interval '55 minutes'"), 1);
  EXPECT_EQ(count("outbox"), 0);
  script->deliver(numbered("a", 2));  // the key is free, and what was scheduled for it is soon due
  ASSERT_TRUE(eventually([&] { return count("outbox") == 1; }));
  EXPECT_EQ(count("parked"), 1);
  schema.exec("UPDATE " + schema.table("parked") + " SET next_attempt_at = now()");
  ASSERT_TRUE(eventually([&] { return count("outbox") == 2; }));
  EXPECT_EQ(count("parked"), 0);
  EXPECT_EQ(count("outbox", "type = 'test.expired.v1' AND key = 'a' AND causation_id = 'a-1' AND data = '\\x017b7d'"), 1);
  EXPECT_EQ(count("audit", "outcome = 'emitted'"), 2);
  EXPECT_EQ(count("audit", "outcome = 'done'"), 2);
}

TEST_F(ConsumerEffects, Rule10_AHandlerIsProvedIdempotentOnPostgres) {
  const testing::IdempotenceCheck check{
      .given = {numbered("a", 1), numbered("b", 1), numbered("a", 2)},
      .fresh =
          [&] {
            schema.exec("TRUNCATE " + effects + ", " + schema.table("inbox") + ", " + schema.table("parked"));
            return std::make_unique<PostgresDatastore>(postgres_url(), PostgresDatastoreOptions{.schema = schema.name()});
          },
      .tables =
          [&] {
            pqxx::connection connection{postgres_url()};
            pqxx::work tx{connection};
            return testing::rows_of(tx, {"SELECT id, key FROM " + effects});
          }};
  EXPECT_EQ(testing::check_idempotent(
                [&](const Message& message, Context& context) {
                  effect(message, context);
                  return Verdict::done();
                },
                check),
            "");
  // One that writes beside the transaction: what it wrote stays when the process dies.
  EXPECT_EQ(testing::check_idempotent(
                [&](const Message& message, Context&) {
                  schema.exec("INSERT INTO " + effects + "(id, key) VALUES ('" + message.id() + "', 'outside')");
                  return Verdict::done();
                },
                check),
            "when the process died before commit 1 of 3 (seed 42):\n+ SELECT id, key FROM " + effects + ": (a-1,outside)\n");
}

TEST_F(ConsumerEffects, DrainsUnderLoadAndTheNextConsumerDoesTheRestOnce) {
  options.workers = {3, 3};
  constexpr int messages = 300;
  const Handler handler = [this](const Message& message, Context& context) {
    effect(message, context);
    return Verdict::done();
  };
  {
    const auto consumer = run(handler);
    for (int number = 0; number < messages; ++number) script->deliver(numbered("k" + std::to_string(number % 10), number));
    ASSERT_TRUE(eventually([&] { return script->acked().size() > 30; }));
    EXPECT_TRUE(consumer->stop());
  }
  const auto acked = static_cast<long long>(script->acked().size());
  EXPECT_EQ(count("effects"), acked);
  script = std::make_shared<Script>();  // the broker delivers everything again
  const auto consumer = run(handler);
  for (int number = 0; number < messages; ++number) script->deliver(numbered("k" + std::to_string(number % 10), number));
  ASSERT_TRUE(eventually([&] { return script->acked().size() == messages; }, 60s));
  EXPECT_EQ(count("effects"), messages);
  EXPECT_EQ(schema.value("SELECT count(DISTINCT id) FROM " + effects), messages);
  EXPECT_LE(count("checkpoints"), 8) << "restarts add no rows";
}

// --- batches ----------------------------------------------------------------------------------------------------------------

class ConsumerBatches : public ConsumerEffects {
 protected:
  ConsumerBatches() { options.batch = 100; }
  std::unique_ptr<Running> run_batches(BatchHandler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), store, options, std::move(handler)));
  }
  long long writers() const {
    return schema.value("SELECT count(DISTINCT x) FROM (SELECT xmin::text AS x FROM " + schema.table("inbox") +
                        " UNION ALL SELECT xmin::text FROM " + schema.table("outbox") + " UNION ALL SELECT xmin::text FROM " +
                        schema.table("audit") + " UNION ALL SELECT xmin::text FROM " + schema.table("checkpoints") +
                        ") AS rows");
  }
};

TEST_F(ConsumerBatches, Rule10_ABatchIsOneTransaction) {
  for (int number = 1; number <= 12; ++number) script->deliver(numbered(number % 2 == 0 ? "a" : "", number));
  const auto consumer = run([this](const Message& message, Context& context) {
    EXPECT_EQ(count("inbox") + count("effects"), 0) << "seen from outside";
    effect(message, context);
    context.emit({.type = "test.followed.v1", .key = message.key()});
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 12; }));
  EXPECT_EQ(count("effects"), 12);
  EXPECT_EQ(count("inbox", "state = 'done'"), 12);
  EXPECT_EQ(count("outbox", "type = 'test.followed.v1'"), 12);
  EXPECT_EQ(count("audit", "outcome = 'done' AND attempt = 1 AND host IS NOT NULL AND channel = 'jobs' AND source = '/test'"),
            12);
  EXPECT_EQ(count("audit", "key = 'a'"), 6);
  EXPECT_EQ(count("audit", "key IS NULL"), 6);
  EXPECT_EQ(count("checkpoints", "channel = 'jobs' AND partition = 0 AND position = 12 AND settled = 12"), 1);
  EXPECT_EQ(writers(), 1);
  EXPECT_EQ(count("begun"), 0) << "what may be repeated is noted, and settled with the batch";
}

TEST_F(ConsumerBatches, Rule7_AFailureInABatchCostsItsOwnMessage) {
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"fails", "goes-on", "throws", "rejects", "good"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    context.emit({.type = "test.followed.v1", .key = message.key()});
    const bool second = message.id().ends_with("-2");
    if (second && message.key() == "fails") context.tx().exec("SELECT no_such_function()");
    if (second && message.key() == "throws") throw std::runtime_error{"thrown"};
    if (second && message.key() == "rejects") return Verdict::reject("never");
    if (second && message.key() == "goes-on") {
      try {
        context.tx().exec("SELECT 1/0");
      } catch (const std::exception&) {
        return Verdict::done();  // what it did is lost, and it does not know
      }
    }
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 15; }));
  EXPECT_EQ(count("effects"), 3 + 2 + 1 + 1 + 1);
  EXPECT_EQ(count("effects", "id IN ('fails-2', 'throws-2', 'goes-on-2', 'rejects-2')"), 0);
  EXPECT_EQ(count("inbox", "state = 'done'"), 8);
  EXPECT_EQ(count("outbox", "type = 'test.followed.v1' AND route = type"), 8);
  EXPECT_EQ(count("parked", "NOT behind AND attempt = 2"), 3);
  EXPECT_EQ(count("parked", "behind AND event_id IN ('fails-3', 'throws-3', 'goes-on-3')"), 3);
  EXPECT_EQ(count("dead_letters", "event_id = 'rejects-2' AND reason = 'never'"), 1);
  EXPECT_EQ(count("audit", "outcome = 'done'"), 8);
}

TEST_F(ConsumerBatches, AConstraintThatFailsAtCommitCostsItsOwnMessage) {
  schema.exec("CREATE TABLE " + schema.table("parents") + "(id text PRIMARY KEY)");
  schema.exec("INSERT INTO " + schema.table("parents") + " SELECT key || '-1' FROM unnest(ARRAY['a', 'c']) AS key");
  schema.exec("ALTER TABLE " + effects + " ADD FOREIGN KEY (id) REFERENCES " + schema.table("parents") +
              " DEFERRABLE INITIALLY DEFERRED");
  options.retry = RetryPolicy::none();
  for (const char* key : {"a", "b", "c"}) script->deliver(numbered(key, 1));
  const auto consumer = run([this](const Message& message, Context& context) {
    effect(message, context);
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 3; }));
  EXPECT_EQ(text("SELECT string_agg(id, ' ' ORDER BY id) FROM " + effects), "a-1 c-1");
  EXPECT_EQ(count("dead_letters", "event_id = 'b-1'"), 1);
}

TEST_F(ConsumerBatches, ABatchHandlerWritesWithOneStatementAndOnlyTheBadMessageIsParked) {
  schema.exec("ALTER TABLE " + effects + " ADD CHECK (id <> 'b-2')");
  options.retry = RetryPolicy::fixed(1h).attempts(3);
  std::atomic<int> whole{0};
  for (int number = 3; number <= 9; ++number) script->deliver(numbered("a", number));
  const auto consumer = run_batches([&](Batch& batch) {
    std::string rows;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Message& message = *batch.messages()[i];
      rows += rows.empty() ? "(" : ", (";
      rows += batch.tx().quote(message.id()) + ", " + batch.tx().quote(message.key()) + ")";
      batch.context(i).emit({.type = "test.followed.v1", .key = message.key()});
    }
    batch.tx().exec("INSERT INTO " + effects + "(id, key) VALUES " + rows);
    whole += batch.size() > 1 ? 1 : 0;
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 7; }));
  EXPECT_EQ(count("effects"), 7);
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"b", "c"}) script->deliver(numbered(key, number));
  }
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 13; }));
  EXPECT_GE(whole, 1);
  EXPECT_EQ(count("effects"), 11);
  EXPECT_EQ(count("outbox", "type = 'test.followed.v1'"), 11);
  EXPECT_EQ(count("parked", "event_id = 'b-2' AND NOT behind"), 1);
  EXPECT_EQ(count("parked", "event_id = 'b-3' AND behind"), 1);
}

TEST_F(ConsumerBatches, Rule10_WhatABatchHandlerWroteBehindAFailedMessageOfItsKeyIsNotWrittenTwice) {
  std::atomic<bool> all_wait{false};
  std::atomic<int> whole{0};
  script->deliver(numbered("z", 1));  // holds the worker until the others wait
  for (int number = 1; number <= 4; ++number) {
    for (const char* key : {"a", "b"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run_batches([&](Batch& batch) -> Verdicts {
    while (batch.messages()[0]->id() == "z-1" && !all_wait) std::this_thread::yield();
    std::vector<Verdict> verdicts;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const bool failed = batch.messages()[i]->id() == "a-2" && batch.context(i).attempt() == 1;
      verdicts.push_back(failed ? Verdict::retry("not yet") : Verdict::done());
      if (!failed) effect(*batch.messages()[i], batch.context(i));
    }
    whole += batch.size() > 3 ? 1 : 0;
    return verdicts;
  });
  ASSERT_TRUE(eventually([&] { return consumer->status().in_flight == 9; }));
  all_wait = true;
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 9 && count("inbox", "state = 'done'") == 9; }));
  EXPECT_GE(whole, 1);
  EXPECT_EQ(text("SELECT string_agg(id, ' ' ORDER BY id) FROM " + effects), "a-1 a-2 a-3 a-4 b-1 b-2 b-3 b-4 z-1");
}

TEST_F(ConsumerBatches, Rule10_ABatchHandlerThatGetsAMessageTwiceInABatchHasItsEffectOnce) {
  options.crashes = 0;  // with it, messages that may be repeated are set aside before
  std::atomic<bool> all_wait{false};
  std::atomic<int> whole{0};
  script->deliver(numbered("z", 1));  // holds the worker until the others wait
  for (const char* key : {"a", "b"}) script->deliver(numbered(key, 1));
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"a", "b", "c"}) script->deliver(numbered(key, number));
  }
  const auto consumer = run_batches([&](Batch& batch) {
    while (batch.messages()[0]->id() == "z-1" && !all_wait) std::this_thread::yield();
    for (std::size_t i = 0; i < batch.size(); ++i) effect(*batch.messages()[i], batch.context(i));
    whole += batch.size() > 2 ? 1 : 0;
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return consumer->status().in_flight == 12; }));
  all_wait = true;
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 12; }));
  EXPECT_GE(whole, 1);
  EXPECT_EQ(text("SELECT string_agg(id, ' ' ORDER BY id) FROM " + effects), "a-1 a-2 a-3 b-1 b-2 b-3 c-1 c-2 c-3 z-1");
}

TEST_F(ConsumerBatches, Rule10_EveryEffectHappensOnceUnderDuplicatesAndTwoConsumers) {
  options.workers = {3, 3};
  options.batch = 20;
  const auto other = std::make_shared<Script>();
  constexpr int messages = 200;
  for (int round = 0; round < 2; ++round) {
    for (int number = 0; number < messages; ++number) {
      const Event event = numbered(number % 5 == 0 ? "" : "k" + std::to_string(number % 7), number);
      script->deliver(event);
      other->deliver(event);
    }
  }
  const Handler handler = [this](const Message& message, Context& context) {
    if (message.id().ends_with("13") && context.attempt() == 1) return Verdict::retry("not yet");
    effect(message, context);
    return Verdict::done();
  };
  const auto first = run(script, handler);
  const auto second = run(other, handler);
  ASSERT_TRUE(eventually([&] { return script->acked().size() == 2 * messages && other->acked().size() == 2 * messages; }, 60s));
  ASSERT_TRUE(eventually([&] { return count("effects") == messages; }, 60s));
  EXPECT_EQ(schema.value("SELECT count(DISTINCT id) FROM " + effects), messages);
  EXPECT_EQ(count("inbox", "state = 'done'"), messages);
  EXPECT_EQ(count("parked") + count("dead_letters"), 0);
}

// --- handlers that end their process ----------------------------------------------------------------------------------------

class ConsumerCrashes : public ConsumerEffects, public ::testing::WithParamInterface<std::size_t> {
 protected:
  /// A process that gets everything from the broker and dies at one message, or does the rest. Its exit status.
  int live(const std::function<void(const Message&, Context&)>& fatal) {
    Process process{[&] {
      PostgresDatastore own{postgres_url(), {.schema = schema.name()}};
      const auto all = std::make_shared<Script>();
      for (int number = 1; number <= 3; ++number) {
        for (const char* key : {"a", "b", "c"}) all->deliver(numbered(key, number));
      }
      options.workers = {2, 2};
      options.batch = GetParam();
      const Running consumer{std::make_unique<Consumer>(std::make_unique<ScriptedSource>(all), own, options,
                                                        Handler{[&](const Message& message, Context& context) {
                                                          fatal(message, context);
                                                          effect(message, context);
                                                          return Verdict::done();
                                                        }})};
      if (!eventually([&] { return all->acked().size() == 9 && count("parked") == 0; })) {
        throw std::runtime_error{"stands still"};
      }
    }};
    return process.wait();
  }
};

TEST_P(ConsumerCrashes, AMessageThatKillsItsProcessIsADeadLetterAfterThreeDeathsAndCostsNoOther) {
  const auto fatal = [](const Message& message, Context&) {
    if (message.id() == "b-2") ::kill(::getpid(), SIGKILL);
  };
  for (int death = 1; death <= 3; ++death) {
    ASSERT_TRUE(WIFSIGNALED(live(fatal))) << death;
    EXPECT_EQ(count("begun", "id = 'b-2' AND times = " + std::to_string(death)), 1);
    EXPECT_EQ(count("dead_letters"), 0);
  }
  EXPECT_EQ(live(fatal), 0);
  EXPECT_EQ(text("SELECT event_id || ' ' || reason FROM " + schema.table("dead_letters")),
            "b-2 crashed: its handler ended the process 3 times");
  EXPECT_EQ(count("outbox", "route = 'penstock.dead.jobs'"), 1);
  EXPECT_EQ(count("effects"), 8);
  EXPECT_EQ(schema.value("SELECT count(DISTINCT id) FROM " + effects), 8);
  EXPECT_EQ(count("begun"), 0);
}

TEST_P(ConsumerCrashes, SoIsOneThatDoesSoAtARetry) {
  options.retry = RetryPolicy::fixed(1ms).attempts(5);
  options.crashes = 2;
  const auto fatal = [](const Message& message, Context& context) {
    if (message.id() != "b-2") return;
    if (context.attempt() > 1) ::kill(::getpid(), SIGKILL);
    throw std::runtime_error{"at first it only fails"};
  };
  for (int death = 1; death <= 3; ++death) {
    ASSERT_TRUE(WIFSIGNALED(live(fatal))) << death;
    // The first left no trace, as nobody was late.
    schema.exec("UPDATE " + schema.table("parked") + " SET next_attempt_at = now() - interval '2 s' WHERE NOT behind");
  }
  EXPECT_EQ(live(fatal), 0);
  EXPECT_EQ(count("dead_letters", "event_id = 'b-2' AND reason LIKE 'crashed: %'"), 1);
  EXPECT_EQ(count("effects"), 8);
  EXPECT_EQ(count("begun"), 0);
}

INSTANTIATE_TEST_SUITE_P(OneByOneAndInBatches, ConsumerCrashes, ::testing::Values(1, 50));

}  // namespace
}  // namespace penstock::test
