// SPDX-License-Identifier: Apache-2.0
// Dead letters come back: as jobs in Postgres, cut at any moment, and counted without counting.
// PENSTOCK_REPLAY_LETTERS: how many go through the kills.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "penstock/consumer.hpp"
#include "penstock/outbox.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/relay.hpp"
#include "penstock/replay.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "support/consumer_run.hpp"
#include "support/postgres.hpp"
#include "support/processes.hpp"
#include "support/scripted_source.hpp"

namespace penstock::test {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

/// Whoever waits by it has waited.
class LeapingClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const override { return now_; }
  void wait_until(std::condition_variable_any& /*changed*/, std::unique_lock<std::mutex>& /*lock*/, TimePoint until,
                  std::stop_token /*stop*/) override {
    now_ = std::max(now_, until);
    ++waits;
  }
  int waits = 0;

 private:
  TimePoint now_{};
};

class ReplayTest : public ::testing::Test {
 protected:
  ReplayTest() {
    options.group = "shipping";
    options.retry = RetryPolicy::none();
    options.parked_poll = 10ms;
    schema.exec("CREATE TABLE " + effects + "(id text, key text, data text, n bigint GENERATED ALWAYS AS IDENTITY)");
  }

  void effect(const Message& message, Context& context) const {
    context.tx().exec("INSERT INTO " + effects + "(id, key, data) VALUES (" + context.tx().quote(message.id()) + ", " +
                      context.tx().quote(message.key()) + ", " + context.tx().quote(std::string{message.data()}) + ")");
  }
  std::unique_ptr<Running> consume(Handler handler) {
    return std::make_unique<Running>(
        std::make_unique<Consumer>(std::make_unique<ScriptedSource>(script), store, options, std::move(handler)));
  }
  std::unique_ptr<Running> consume() {
    return consume([this](const Message& message, Context& context) {
      effect(message, context);
      return Verdict::done();
    });
  }
  /// Dead letters of the group, as a consumer writes them.
  void bury(const std::vector<Event>& events, const std::string& reason = "boom: it broke",
            const std::string& group = "shipping", const std::string& channel = "jobs") {
    const auto session = store.session(group);
    for (const Event& event : events) {
      Message message;
      message.event = event;
      message.wire = encode(event, Binding::kafka);
      message.origin = {.backend = "memory", .channel = channel};
      ASSERT_EQ(session->begin(message), Datastore::Admission::fresh);
      session->bury({.error = reason, .at = {}, .host = "here"}, reason);
    }
  }
  ReplayJob replay(ReplayRequest request) {
    request.who = "ada";
    request.why = "it is mended";
    return replays.run(replays.start(request));
  }
  long long count(const std::string& table, const std::string& where = "true") const {
    return schema.value("SELECT count(*) FROM " + schema.table(table) + " WHERE " + where);
  }
  std::string text(const std::string& sql) const { return schema.value<std::string>(sql); }
  std::string order() const { return text("SELECT coalesce(string_agg(id, ' ' ORDER BY n), '') FROM " + effects); }
  void expect_counters_to_agree() const {
    EXPECT_EQ(schema.value("SELECT count(*) FROM (SELECT side, consumer_group, channel, depth FROM " +
                           schema.table("dead_letter_depth") +
                           " WHERE depth <> 0 EXCEPT SELECT side, consumer_group, channel, count(*) FROM " +
                           schema.table("dead_letters") + " WHERE state = 'dead' GROUP BY 1, 2, 3) d"),
              0);
    EXPECT_EQ(schema.value("SELECT coalesce(sum(depth), 0) FROM " + schema.table("dead_letter_depth")),
              count("dead_letters", "state = 'dead'"));
  }

  Schema schema{"replay"};
  std::string effects = schema.table("effects");
  PostgresDatastore store{postgres_url(), {.schema = schema.name()}};
  Replays replays{postgres_url(), {.schema = schema.name()}};
  Outbox outbox{postgres_url(), {.schema = schema.name(), .source = "/test"}};
  std::shared_ptr<Script> script = std::make_shared<Script>();
  ConsumerOptions options;
};

TEST_F(ReplayTest, Rule16_AReplayedLetterHasItsEffectOnceAndIsAudited) {
  std::atomic<bool> mended{false};
  const auto consumer = consume([&](const Message& message, Context& context) {
    effect(message, context);
    return mended ? Verdict::done() : Verdict::reject("address unknown");
  });
  script->deliver(numbered("a", 1));
  script->deliver(numbered("", 2));
  ASSERT_TRUE(eventually([&] { return consumer->status().dead == 2; }));
  mended = true;
  const auto job = replay({});
  EXPECT_EQ(job.state, "done");
  EXPECT_EQ(job.planned, 2);
  EXPECT_EQ(job.sent, 2);
  EXPECT_EQ(job.failed, 0);
  ASSERT_TRUE(eventually([&] { return count("effects") == 2; }));
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return consumer->status().duplicates == 1; }));
  EXPECT_EQ(replay({}).sent, 0);
  EXPECT_EQ(count("effects"), 2);
  EXPECT_EQ(count("inbox", "state = 'done'"), 2);
  EXPECT_EQ(count("dead_letters",
                  "state = 'replayed' AND replays = 1 AND replayed_at IS NOT NULL AND job_id = " + std::to_string(job.id)),
            2);
  EXPECT_EQ(count("audit", "outcome = 'replayed' AND actor = 'ada' AND note LIKE '%it is mended' AND event_id = 'a-1'"), 1);
  EXPECT_EQ(count("replay_jobs", "actor = 'ada' AND note = 'it is mended' AND ended_at IS NOT NULL"), 2);
}

TEST_F(ReplayTest, LettersOfAKeyComeBackInTheirOrderBehindWhatIsParked) {
  bury({numbered("a", 1), numbered("b", 1), numbered("a", 2), numbered("a", 3), numbered("", 4)});
  {
    const auto session = store.session("shipping");
    Message waiting;
    waiting.event = numbered("b", 0);
    waiting.wire = encode(waiting.event, Binding::kafka);
    waiting.origin = {.backend = "memory", .channel = "jobs"};
    ASSERT_EQ(session->begin(waiting), Datastore::Admission::fresh);
    session->park({.error = "away"}, 0ms);
  }
  ASSERT_EQ(replay({.batch = 2}).sent, 5);
  EXPECT_EQ(text("SELECT string_agg(event_id || CASE WHEN behind THEN ' waits' ELSE '' END, ', ' ORDER BY seq) FROM " +
                 schema.table("parked")),
            "b-0, a-1, b-1 waits, a-2 waits, a-3 waits, free-4");
  options.workers = {4, 4};
  const auto consumer = consume();
  ASSERT_TRUE(eventually([&] { return count("effects") == 6; }));
  const auto of = [&](const std::string& key) {
    return text("SELECT string_agg(id, ' ' ORDER BY n) FROM " + effects + " WHERE key = '" + key + "'");
  };
  EXPECT_EQ(of("a"), "a-1 a-2 a-3");
  EXPECT_EQ(of("b"), "b-0 b-1");
}

TEST_F(ReplayTest, Rule16_TheCountOfReplaysSurvivesBeingDeadLetteredAgain) {
  const auto consumer =
      consume([](const Message&, Context& context) { return Verdict::reject("no " + std::to_string(context.attempt())); });
  script->deliver(numbered("a", 1));
  ASSERT_TRUE(eventually([&] { return count("dead_letters", "state = 'dead'") == 1; }));
  for (int round = 1; round <= 2; ++round) {
    ASSERT_EQ(replay({.most_replays = 2}).sent, 1);
    ASSERT_TRUE(
        eventually([&] { return count("dead_letters", "state = 'dead' AND replays = " + std::to_string(round)) == 1; }));
  }
  EXPECT_EQ(text("SELECT jsonb_array_length(attempts)::text FROM " + schema.table("dead_letters") + " WHERE state = 'dead'"),
            "3");
  const auto refused = replay({.most_replays = 2});
  EXPECT_EQ(refused.sent, 0);
  EXPECT_EQ(refused.failed, 1);
  EXPECT_THAT(refused.last_error, HasSubstr("it was replayed 2 times and died again, and most_replays is 2"));
  EXPECT_EQ(count("replay_failures", "reason LIKE '%replayed 2 times%'"), 1);
  EXPECT_EQ(count("dead_letters", "state = 'dead'"), 1);
  EXPECT_EQ(replay({.target = ReplayTarget::discard, .most_replays = 2}).sent, 1);
  EXPECT_EQ(count("audit", "outcome = 'discarded'"), 1);
  expect_counters_to_agree();
}

TEST_F(ReplayTest, APlanCountsByErrorClassAndADryRunChangesNothing) {
  bury({numbered("a", 1), numbered("a", 2)}, "attempts exhausted: away");
  bury({numbered("a", 3)}, "address unknown");
  Message malformed;
  malformed.defect = "no ce_id header";
  malformed.origin = {.backend = "memory", .channel = "jobs"};
  store.session("shipping")->bury_malformed(malformed);
  const auto plan = replays.plan({});
  ASSERT_EQ(plan.letters, 4);
  ASSERT_EQ(plan.classes.size(), 3U);
  EXPECT_EQ(plan.classes[0].error_class, "attempts exhausted");
  EXPECT_EQ(plan.classes[0].letters, 2);
  EXPECT_EQ(plan.classes[0].example, "attempts exhausted: away");
  EXPECT_LE(plan.classes[0].oldest, plan.classes[0].newest);
  EXPECT_EQ(plan.classes[1].error_class, "error");
  EXPECT_EQ(plan.classes[2].error_class, "malformed");
  const auto dry = replay({.dry_run = true});
  EXPECT_EQ(dry.sent, 3);
  EXPECT_EQ(dry.failed, 1);
  EXPECT_THAT(dry.last_error, HasSubstr("no event"));
  EXPECT_EQ(count("parked"), 0);
  EXPECT_EQ(count("dead_letters", "state = 'dead' AND replays = 0"), 4);
  EXPECT_EQ(count("audit", "outcome = 'replayed'"), 0);
  EXPECT_EQ(count("inbox", "state = 'dead'"), 3);
}

TEST_F(ReplayTest, EachPartOfAFilterNarrows) {
  bury({numbered("a", 1), numbered("", 2)}, "away: now");
  bury({numbered("a", 1)}, "bad", "billing");
  bury({numbered("b", 9)}, "bad", "shipping", "other");
  Event typed = numbered("c", 1);
  typed.type = "shop.order_placed.v1";
  bury({typed});
  schema.exec("UPDATE " + schema.table("dead_letters") + " SET created_at = '2026-01-02T00:00:00Z' WHERE key = 'c'");
  const auto matches = [&](const LetterFilter& filter) { return replays.plan({.filter = filter}).letters; };
  EXPECT_EQ(matches({}), 5);
  EXPECT_EQ(matches({.side = "consumer"}), 5);
  EXPECT_EQ(matches({.side = "outbox"}), 0);
  EXPECT_EQ(matches({.group = "billing"}), 1);
  EXPECT_EQ(matches({.channel = "other"}), 1);
  EXPECT_EQ(matches({.type = "shop.order_*"}), 1);
  EXPECT_EQ(matches({.type = "shop_order*"}), 0);
  EXPECT_EQ(matches({.key = "a"}), 2);
  EXPECT_EQ(matches({.key = ""}), 1);
  EXPECT_EQ(matches({.error_class = "away"}), 2);
  EXPECT_EQ(matches({.until = "2026-01-03T00:00:00Z"}), 1);
  EXPECT_EQ(matches({.from = "2026-01-03T00:00:00+01:00"}), 4);
  EXPECT_EQ(matches({.group = "shipping", .key = "a", .error_class = "away"}), 1);
  // A job takes up what its filter says, and what was there when it was made.
  const auto job =
      replays.start({.filter = {.error_class = "away"}, .target = ReplayTarget::discard, .who = "ada", .why = "old"});
  bury({numbered("d", 1)}, "away: again");
  EXPECT_EQ(replays.run(job).sent, 2);
  EXPECT_EQ(matches({}), 4);
}

TEST_F(ReplayTest, APayloadIsEditedAndBothAndTheirDifferenceAreKept) {
  bury({numbered("a", 1), numbered("a", 2)});
  const auto letter = schema.value("SELECT min(id) FROM " + schema.table("dead_letters"));
  EXPECT_EQ(replays.edit(letter, R"({"n":7})", "ada", "a typing error"), R"([{"op":"replace","path":"/n","value":7}])");
  EXPECT_EQ(replays.edit(letter + 1, std::string{"\0{\"n\":", 6} + "\xff}", "ada", "bytes"),
            R"({"added":"\\x007b226e223aff","at":0,"removed":"\\x7b226e223a32"})");
  EXPECT_EQ(replays.edit(letter, R"({"n":8})", "bob", "again"), R"([{"op":"replace","path":"/n","value":8}])");
  EXPECT_EQ(text("SELECT encode(payload, 'escape') FROM " + schema.table("dead_letters") + " ORDER BY id LIMIT 1"),
            R"({"n":1})");
  EXPECT_EQ(
      text("SELECT string_agg(actor || ' ' || encode(before, 'escape') || encode(after, 'escape') || note, ', ' ORDER BY id)"
           " FROM " +
           schema.table("letter_edits") + " WHERE letter_id = " + std::to_string(letter)),
      R"(ada {"n":1}{"n":7}a typing error, bob {"n":7}{"n":8}again)");
  EXPECT_EQ(count("audit", "outcome = 'edited'"), 3);
  replay({.filter = {.key = "a"}, .batch = 1});
  const auto consumer = consume([this](const Message& message, Context& context) {
    if (message.id() == "a-1") {
      effect(message, context);
    }
    return Verdict::done();
  });
  ASSERT_TRUE(eventually([&] { return count("effects") == 1 && count("parked") == 0; }));
  EXPECT_EQ(text("SELECT data FROM " + effects), R"({"n":8})");
  // What is not dead, no event, or would become another one.
  EXPECT_THROW(replays.edit(letter, "x", "ada", "too late"), std::invalid_argument);
  EXPECT_THROW(replays.edit(999'999, "x", "ada", "nobody"), std::invalid_argument);
  Message structured;
  structured.event = numbered("s", 1);
  structured.wire = encode(structured.event, Binding::kafka, Mode::structured);
  structured.origin = {.backend = "memory", .channel = "jobs"};
  const auto session = store.session("shipping");
  ASSERT_EQ(session->begin(structured), Datastore::Admission::fresh);
  session->bury({.error = "bad"}, "bad");
  const auto whole = schema.value("SELECT max(id) FROM " + schema.table("dead_letters"));
  EXPECT_THROW(replays.edit(whole, "no JSON", "ada", "broken"), std::invalid_argument);
  EXPECT_THROW(replays.edit(whole, *encode(numbered("s", 2), Binding::kafka, Mode::structured).payload, "ada", "swapped"),
               std::invalid_argument);
}

TEST_F(ReplayTest, TheWholeChannelGetsTheEventAgainUnderItsIdAndWhoHasDoneItIgnoresIt) {
  bury({numbered("a", 1), numbered("a", 2)});
  const auto refused = replay({.target = ReplayTarget::channel});
  EXPECT_EQ(refused.failed, 2);
  EXPECT_THAT(refused.last_error, HasSubstr("no relay of this database carries events to 'memory:jobs'"));
  const auto cursor = outbox.cursor("memory:jobs", {"test.*"});
  ASSERT_TRUE(cursor->acquire());
  EXPECT_EQ(replay({.target = ReplayTarget::channel}).sent, 2);
  const auto entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].event, numbered("a", 1));
  EXPECT_EQ(entries[1].event, numbered("a", 2));
  // The group that failed does it, another one has.
  const auto session = store.session("shipping");
  const auto other = store.session("billing");
  Message message;
  message.event = entries[0].event;
  message.wire = encode(message.event, Binding::kafka);
  message.origin = {.backend = "memory", .channel = "jobs"};
  ASSERT_EQ(other->begin(message), Datastore::Admission::fresh);
  other->complete({}, {});
  EXPECT_EQ(other->begin(message), Datastore::Admission::duplicate);
  ASSERT_EQ(session->begin(message), Datastore::Admission::fresh);
  session->bury({.error = "again"}, "again");
  EXPECT_EQ(count("dead_letters", "state = 'dead' AND replays = 1"), 1);
}

TEST_F(ReplayTest, Rule6_ALetterOfTheOutboxGoesToItsChannelAgainAndIsReplayedWhenThatIsConfirmed) {
  const auto cursor = outbox.cursor("memory:orders", {"*"});
  ASSERT_TRUE(cursor->acquire());
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox.append(tx, std::vector<Event>{numbered("a", 1), numbered("a", 2), numbered("a", 3), numbered("", 4)});
    tx.commit();
  }
  const auto entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 4U);
  EXPECT_TRUE(cursor->read(10).empty());
  cursor->bury(entries[0], "orders", "too large", 3, true);
  cursor->park(std::vector<EventLog::Parking>{{.entry = &entries[1]}}, "orders");
  cursor->bury(entries[2], "orders", "too large", 3, true);
  cursor->bury(entries[3], "orders", "too large", 3, true);
  cursor->checkpoint(4);
  // The third of the key waits for the first.
  const auto one = replay({.filter = {.type = "test.*", .key = "a", .error_class = "none"}});
  EXPECT_EQ(one.planned, 0);
  schema.exec("UPDATE " + schema.table("dead_letters") + " SET reason = 'other: cause' WHERE event_id = 'a-3'");
  const auto refused = replay({.filter = {.error_class = "other"}});
  EXPECT_EQ(refused.failed, 1);
  EXPECT_THAT(refused.last_error, HasSubstr("of the same key and comes before it"));
  EXPECT_EQ(replay({.filter = {.side = "outbox", .group = "memory:orders"}, .batch = 2}).sent, 3);
  EXPECT_EQ(count("dead_letters", "state = 'behind'"), 4);
  std::vector<EventLog::Entry> again;
  ASSERT_TRUE(eventually([&] {
    for (auto& entry : cursor->read(10)) {
      again.push_back(std::move(entry));
    }
    return again.size() == 4;
  }));
  EXPECT_EQ(again[0].event, entries[0].event);
  EXPECT_EQ(again[1].event, entries[1].event);
  EXPECT_EQ(again[2].event, entries[2].event);
  EXPECT_EQ(again[3].event, entries[3].event);
  cursor->bury(again[3], "orders", "still too large", 3, true);
  cursor->checkpoint(again[3].sequence);
  cursor->release();
  EXPECT_EQ(text("SELECT string_agg(event_id || ' ' || state || ' ' || replays, ', ' ORDER BY id) FROM " +
                 schema.table("dead_letters")),
            "a-1 replayed 1, a-3 replayed 1, free-4 dead 1")
      << "what only waited is gone";
  EXPECT_EQ(count("dead_letters",
                  "first_error = 'too large' AND last_error = 'still too large' AND"
                  " jsonb_array_length(attempts) = 2"),
            1);
  expect_counters_to_agree();
  ASSERT_TRUE(outbox.drop_cursor("memory:orders"));
  EXPECT_THAT(replay({}).last_error, HasSubstr("no relay serves 'memory:orders' any more"));
}

TEST_F(ReplayTest, Rule6_ARelayThatHasNothingToDoNoticesAReplay) {
  ::penstock::testing::MemoryBroker broker{{.seed = 1, .largest_message = 100}};
  broker.declare("orders", 1);
  Relay relay{outbox, {{"*", broker.channel("orders")}}, {.retry = RetryPolicy::fixed(5ms)}};
  std::jthread thread{[&](std::stop_token stop) { relay.run(std::move(stop)); }};
  Event large = numbered("a", 1);
  large.data = std::string(200, 'x');
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox.append(tx, large);
    tx.commit();
  }
  ASSERT_TRUE(eventually([&] { return count("dead_letters", "state = 'dead'") == 1; }));
  EXPECT_EQ(schema.value("SELECT depth FROM " + schema.table("dead_letter_depth") + " WHERE side = 'outbox'"), 1);
  // It rests when its lease is renewed without it.
  const auto renewed = count("cursor_log");
  ASSERT_TRUE(eventually([&] { return count("cursor_log") >= renewed + 2; }));
  replays.edit(schema.value("SELECT id FROM " + schema.table("dead_letters")), "small", "ada", "it was too large");
  ASSERT_EQ(replay({}).sent, 1);
  ASSERT_TRUE(eventually([&] { return count("dead_letters", "state = 'replayed'") == 1; }, 10s));
  const auto published = broker.published("orders");
  ASSERT_EQ(published.size(), 1U);
  EXPECT_EQ(published[0].id, "a-1");
  EXPECT_EQ(published[0].data, "small");
}

TEST_F(ReplayTest, Rule6_AnUnroutedEventIsAppendedAgainUnderItsId) {
  const auto cursor = outbox.cursor("penstock:unrouted", {"*"});
  ASSERT_TRUE(cursor->acquire());
  Event event = numbered("a", 1);
  event.extensions.emplace("retries", ExtensionValue{std::int32_t{3}});
  {
    pqxx::connection connection{postgres_url()};
    pqxx::work tx{connection};
    outbox.append(tx, event);
    tx.commit();
  }
  const auto entries = cursor->read(10);
  ASSERT_EQ(entries.size(), 1U);
  cursor->bury(entries[0], "unrouted", "no route", 1, false);
  cursor->checkpoint(1);
  EXPECT_EQ(replay({}).sent, 1);
  const auto again = cursor->read(10);
  ASSERT_EQ(again.size(), 1U);
  EXPECT_EQ(again[0].event.id, "a-1");
  EXPECT_EQ(again[0].event.key, "a");
  EXPECT_EQ(again[0].event.data, event.data);
  EXPECT_EQ(count("dead_letters", "state = 'replayed'"), 1);
}

TEST_F(ReplayTest, AJobIsCancelledFromElsewhereAndKeepsItsRate) {
  bury({numbered("a", 1)});
  schema.exec(
      "INSERT INTO " + schema.table("dead_letters") +
      "(side, consumer_group, backend, channel, source, event_id, type, reason, payload)"
      " SELECT 'consumer', 'shipping', 'memory', 'jobs', '/test', 'x-' || i, 't', 'bad', '' FROM generate_series(1, 29) i");
  const auto job = replays.start({.who = "ada", .why = "slowly", .rate = 40});
  std::jthread runner{[&] { replays.run(job); }};
  ASSERT_TRUE(eventually([&] { return replays.job(job).sent > 10; }));
  EXPECT_EQ(replays.job(job).state, "running");
  // Ten at once are a quarter of a second's worth, so the third ten come half a second after the first.
  EXPECT_GE(schema.value<double>("SELECT extract(epoch FROM next_at - created_at)::float8 FROM " + schema.table("replay_jobs")),
            0.5);
  Replays other{postgres_url(), {.schema = schema.name()}};
  EXPECT_TRUE(other.cancel(job, "bob", "wrong filter"));
  EXPECT_FALSE(other.cancel(job, "bob", "wrong filter"));
  runner.join();
  const auto now = replays.job(job);
  EXPECT_EQ(now.state, "cancelled");
  EXPECT_LT(now.sent, 30);
  EXPECT_EQ(count("dead_letters", "state = 'dead'"), 30 - now.sent);
  EXPECT_EQ(count("replay_jobs", "ended_by = 'bob' AND ended_note = 'wrong filter'"), 1);
}

TEST_F(ReplayTest, Rule18_WhoeverHoldsALetterIsNotWaitedForLongerThanAStatementMayTake) {
  bury({numbered("a", 1)});
  pqxx::connection connection{postgres_url()};
  pqxx::work tx{connection};
  tx.exec("SELECT FROM " + schema.table("dead_letters") + " FOR UPDATE");
  LeapingClock clock;
  Replays hasty{postgres_url(), {.schema = schema.name(), .statement_timeout = 10ms, .clock = &clock}};
  const auto job = hasty.start({.who = "ada", .why = "now"});
  EXPECT_THROW(hasty.run(job), pqxx::sql_error);
  EXPECT_EQ(clock.waits, 5) << "it is tried again before that";
  tx.abort();
  EXPECT_EQ(replays.run(job).sent, 1);
}

TEST_F(ReplayTest, SaysWhatIsWrongWithARequest) {
  const auto refusal = [&](const ReplayRequest& request) -> std::string {
    try {
      replays.start(request);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal({.why = "x"}), HasSubstr("who is empty"));
  EXPECT_THAT(refusal({.who = "ada"}), HasSubstr("why is empty"));
  EXPECT_THAT(refusal({.filter = {.side = "both"}, .who = "ada", .why = "x"}), HasSubstr("LetterFilter.side is 'both'"));
  EXPECT_THAT(refusal({.filter = {.from = "yesterday"}, .who = "ada", .why = "x"}),
              HasSubstr("LetterFilter.from is 'yesterday'"));
  EXPECT_THAT(refusal({.who = "ada", .why = "x", .rate = -1}), HasSubstr("ReplayRequest.rate is -1"));
  EXPECT_THAT(refusal({.who = "ada", .why = "x", .most_replays = 0}), HasSubstr("most_replays is 0"));
  EXPECT_THAT(refusal({.who = "ada", .why = "x", .batch = 0}), HasSubstr("batch is 0"));
  EXPECT_THROW(replays.run(77), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(replays.job(77)), std::invalid_argument);
  EXPECT_THROW(replays.cancel(77, "", "x"), std::invalid_argument);
  EXPECT_FALSE(replays.cancel(77, "ada", "x"));
}

/// Bulk: as a consumer would have written them.
void bury_many(const Schema& schema, int letters, int keys) {
  schema.exec(
      "WITH l AS (SELECT i, 'k' || i % " + std::to_string(keys) + " AS key, 'e-' || i AS id FROM generate_series(1, " +
      std::to_string(letters) + ") i), marked AS (INSERT INTO " + schema.table("inbox") +
      "(consumer_group, source, id, state) SELECT 'shipping', '/test', id, 'dead' FROM l) INSERT INTO " +
      schema.table("dead_letters") +
      "(side, consumer_group, backend, channel, source, event_id, type, key, wire_key, headers, payload, reason)"
      " SELECT 'consumer', 'shipping', 'memory', 'jobs', '/test', id, 'test.happened.v1', key, key::bytea, jsonb_build_array("
      "jsonb_build_array('ce_specversion', '1.0'), jsonb_build_array('ce_id', id), jsonb_build_array('ce_source', '/test'),"
      " jsonb_build_array('ce_type', 'test.happened.v1'), jsonb_build_array('ce_partitionkey', key)), i::text::bytea, 'bad'"
      " FROM l ORDER BY l.i");
}

TEST_F(ReplayTest, Rule3_AReplayKilledTwentyTimesHasEachEffectOnceAndInOrder) {
  const char* wanted = std::getenv("PENSTOCK_REPLAY_LETTERS");
  const int letters = wanted != nullptr ? std::atoi(wanted) : 600;
  constexpr int kKills = 20;
  bury_many(schema, letters, 40);
  const auto job = replays.start({.who = "ada", .why = "the provider is back", .batch = 20});
  std::mt19937 chance{42};
  std::uniform_int_distribution<int> pause{0, 4000};
  options.workers = {2, 2};
  int killed = 0;
  for (int round = 1; round <= kKills; ++round) {
    Process child{[&] {
      const auto consumer = consume();
      Replays{postgres_url(), {.schema = schema.name()}}.run(job);
      for (;;) {
        std::this_thread::sleep_for(1s);
      }
    }};
    const auto sent = letters * static_cast<long long>(round) / (kKills + 1);
    ASSERT_TRUE(eventually([&] { return replays.job(job).sent >= sent; }, 60s));
    std::this_thread::sleep_for(std::chrono::microseconds{pause(chance)});
    child.signal(SIGKILL);
    child.wait();
    killed += replays.job(job).ended() ? 0 : 1;
  }
  EXPECT_GT(killed, kKills / 2) << "most of the kills were to cut the job";
  const auto consumer = consume();
  const auto end = replays.run(job);
  EXPECT_EQ(end.state, "done");
  EXPECT_EQ(end.sent, letters);
  EXPECT_EQ(end.failed, 0);
  ASSERT_TRUE(eventually([&] { return count("parked") == 0; }, 120s));
  EXPECT_EQ(count("effects"), letters);
  EXPECT_EQ(schema.value("SELECT count(DISTINCT id) FROM " + effects), letters);
  EXPECT_EQ(
      schema.value("SELECT count(*) FROM (SELECT data::int < lag(data::int) OVER (PARTITION BY key ORDER BY n) AS wrong FROM " +
                   effects + ") o WHERE wrong"),
      0)
      << "the order of a key was broken";
  EXPECT_EQ(count("audit", "outcome = 'replayed'"), letters);
  EXPECT_EQ(count("dead_letters", "state = 'replayed' AND replays = 1"), letters);
  expect_counters_to_agree();
}

TEST_F(ReplayTest, Rule16_DepthIsCountedByCountersThatNeverDrift) {
  bury({numbered("a", 1)});
  EXPECT_EQ(schema.value("SELECT depth FROM " + schema.table("dead_letter_depth")), 1);
  EXPECT_GE(schema.value<double>("SELECT age_seconds FROM " + schema.table("dead_letter_depth")), 0);
  // Three bury, one of them is killed again and again; two jobs that overlap take away.
  bury_many(schema, 300, 10);
  std::atomic<int> next{0};
  std::atomic<bool> stop{false};
  std::vector<std::unique_ptr<Process>> children;
  for (int round = 0; round < 3; ++round) {
    children.push_back(std::make_unique<Process>([&, round] {
      for (int i = 0;; ++i) {
        bury({numbered("", 1'000'000 * (round + 1) + i)}, "bad", "g" + std::to_string(i % 2));
      }
    }));
  }
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        while (!stop) {
          bury({numbered("", next++)}, "bad", "g" + std::to_string(next % 2));
        }
      });
      threads.emplace_back([&] {
        replays.run(replays.start({.target = ReplayTarget::discard, .who = "ada", .why = "old", .batch = 7}));
        replays.run(replays.start({.who = "ada", .why = "again", .batch = 5}));
      });
    }
    for (auto& child : children) {
      std::this_thread::sleep_for(100ms);
      child->signal(SIGKILL);
      child->wait();
    }
    stop = true;
  }
  // A backend of the killed may still be at it.
  ASSERT_TRUE(eventually([&] {
    return schema.value("SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%" + schema.name() +
                        "%' AND pid <> pg_backend_pid()") == 0;
  }));
  EXPECT_GT(count("dead_letters"), 301);
  EXPECT_GT(count("dead_letters", "state <> 'dead'"), 300);
  expect_counters_to_agree();
  schema.exec("DELETE FROM " + schema.table("dead_letters") + " WHERE consumer_group = 'g1'");
  schema.exec("UPDATE " + schema.table("dead_letters") + " SET state = 'dead' WHERE id % 3 = 0");
  expect_counters_to_agree();
  EXPECT_LT(count("dead_letter_counts"), 40) << "no more rows than there were transactions at once";
  schema.exec("TRUNCATE " + schema.table("dead_letters") + " CASCADE");
  expect_counters_to_agree();
}

TEST_F(ReplayTest, SeveralMayRunOneJob) {
  bury_many(schema, 200, 5);
  const auto job = replays.start({.who = "ada", .why = "together", .batch = 9});
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] { EXPECT_EQ(replays.run(job).state, "done"); });
    }
  }
  EXPECT_EQ(replays.job(job).sent, 200);
  EXPECT_EQ(count("parked"), 200);
  EXPECT_EQ(count("parked", "NOT behind"), 5);
  EXPECT_EQ(
      schema.value("SELECT count(*) FROM (SELECT payload, encode(payload, 'escape')::int < lag(encode(payload, 'escape')::int)"
                   " OVER (PARTITION BY key ORDER BY seq) AS wrong FROM " +
                   schema.table("parked") + ") o WHERE wrong"),
      0);
}

}  // namespace
}  // namespace penstock::test
