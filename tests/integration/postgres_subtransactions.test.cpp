// SPDX-License-Identifier: Apache-2.0
// What is done inside a subtransaction by statements with parameters goes when the subtransaction goes, with every libpqxx.
#include <gtest/gtest.h>

#include <string>

#include "penstock/outbox.hpp"
#include "penstock/postgres_datastore.hpp"
#include "support/postgres.hpp"
#include "support/scripted_source.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using test::postgres_url;
using test::Schema;

TEST(Subtransactions, AnAbortTakesTheEventsAlong) {
  const Schema schema{"subtransactions"};
  Outbox outbox{postgres_url(), {.schema = schema.name(), .source = "/shop"}};
  pqxx::connection connection{postgres_url()};
  pqxx::work tx{connection};
  outbox.append(tx, {.id = "1", .type = "t"});
  {
    pqxx::subtransaction undone{tx};
    outbox.append(undone, {.id = "undone", .type = "t"});
    undone.abort();
  }
  {
    pqxx::subtransaction kept{tx};
    outbox.append(kept, {.id = "2", .type = "t"});
    kept.commit();
  }
  tx.commit();
  EXPECT_EQ(schema.value<std::string>("SELECT string_agg(event_id, ' ' ORDER BY id) FROM " + schema.table("outbox")), "1 2");
}

// Rule 10: a failed handler leaves nothing behind, also when it failed at a message that had been parked.
TEST(Subtransactions, Rule10_AFailedRetryLeavesNoEffectOfItsParameterisedStatements) {
  const Schema schema{"subtransactions"};
  schema.exec("CREATE TABLE " + schema.table("effects") + "(id text)");
  PostgresDatastore datastore{postgres_url(), {.schema = schema.name()}};
  const auto session = datastore.session("g");
  Message message;
  message.event = test::numbered("k", 1);
  message.wire = encode(message.event, Binding::kafka);
  message.origin = {.backend = "memory", .channel = "orders", .partition = 0, .position = 1};
  const auto effect = [&] {
    postgres::run(*session->tx(), "INSERT INTO " + schema.table("effects") + "(id) VALUES ($1)", std::string{"m"});
  };
  const auto effects = "SELECT count(*) FROM " + schema.table("effects");

  ASSERT_EQ(session->begin(message), Datastore::Admission::fresh);
  effect();
  session->park({.number = 1, .error = "failed"}, 0ms);
  EXPECT_EQ(schema.value(effects), 0);
  for (int attempt = 2; attempt <= 3; ++attempt) {
    ASSERT_TRUE(session->begin_due());
    // As a handler does it, with nothing before it in its transaction.
#if PENSTOCK_PQXX_PARAMS
    session->tx()->exec("INSERT INTO " + schema.table("effects") + "(id) VALUES ($1)", pqxx::params{"m"});
#else
    session->tx()->exec_params("INSERT INTO " + schema.table("effects") + "(id) VALUES ($1)", "m");
#endif
    if (attempt == 2) {
      session->park({.number = attempt, .error = "failed"}, 0ms);
      EXPECT_EQ(schema.value(effects), 0);
    } else {
      session->complete({}, {.number = attempt});
      EXPECT_EQ(schema.value(effects), 1);
    }
  }
}

}  // namespace
}  // namespace penstock
