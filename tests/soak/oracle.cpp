// SPDX-License-Identifier: Apache-2.0
// The oracle. It knows what was committed, in the order in which each key's events were, and which of them fail for good; from
// that follows everything else, and is compared with what is there.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "penstock/dead_letter.hpp"
#include "soak.hpp"

namespace soak {
namespace {

/// Whether the effects of a key are promised to come in its order, with several processes in a group, any of which may be
/// killed: docs/guarantees.md, "Order, by backend". The channel holds them in order on each.
bool effects_in_order(const std::string& backend) { return backend == "kafka"; }

/// What the channels hold, and the provider's books, beside the tables. Reading a queue takes away, so rows are added.
void load(const Settings& settings, pqxx::work& tx) {
  tx.exec(R"(
    CREATE TABLE IF NOT EXISTS soak.topic (place bigint GENERATED ALWAYS AS IDENTITY, channel text, id text, key text, n int,
                                           body text, grp text);
    CREATE TABLE IF NOT EXISTS soak.ledger (grp text, key text, n int, idempotency text, attempt int);
    TRUNCATE soak.ledger;)");
  if (settings.backend != "rabbitmq") tx.exec("TRUNCATE soak.topic");
  std::string rows;
  std::size_t many = 0;
  const auto flush = [&](const std::string& table) {
    if (many > 0) tx.exec("INSERT INTO " + table + " VALUES " + rows);
    rows.clear();
    many = 0;
  };
  const auto add = [&](const std::string& table, const std::string& row) {
    rows += (many == 0 ? "(" : ", (") + row + ")";
    if (++many == 500) flush(table);
  };
  const std::string topic = "soak.topic (channel, id, key, n, body, grp)";
  for (const auto& channel : {input, followed}) {
    for (const auto& [name, real] :
         {std::pair{channel, witness(settings, channel)}, std::pair{channel + ".dead", penstock::dead_channel(channel)}}) {
      for (const auto& raw : read_topic(settings, real)) {
        add(topic, tx.quote(name) + ", " + tx.quote(raw.id) + ", " + tx.quote(raw.key) + ", " +
                       std::to_string(parse(raw.body).number) + ", " + tx.quote(raw.body) + ", " + tx.quote(raw.group));
      }
    }
  }
  flush(topic);
  std::ifstream file{settings.ledger};
  for (std::string line; std::getline(file, line);) {
    std::istringstream words{line};
    std::string group;
    std::string key;
    std::string number;
    std::string idempotency;
    std::string attempt;
    if (!(words >> group >> key >> number >> idempotency >> attempt)) throw std::runtime_error{"the ledger: " + line};
    add("soak.ledger", tx.quote(group) + ", " + tx.quote(key) + ", " + number + ", " + tx.quote(idempotency) + ", " + attempt);
  }
  flush("soak.ledger");
}

/// What should be there, as tables of the session.
void expect(pqxx::work& tx, bool replayed) {
  // `rank`: what failed for good comes behind everything else of its key when it is replayed: the first group's, then the
  // second's.
  tx.exec(
      std::string{"CREATE TEMP TABLE expected_apply AS SELECT i.*, 'apply' AS grp, CASE WHEN fatal THEN 1 ELSE 0 END AS rank "
                  "FROM soak.input i WHERE NOT fatal OR "} +
      (replayed ? "true" : "false"));
  // The second group's input is what the first has done, in the order in which it was done.
  tx.exec(std::string{R"(
    CREATE TEMP TABLE emitted AS
      SELECT e.key, e.n, min(e.place) AS at, e.body, i.fatal, i.fatal_follow
      FROM soak.effects e JOIN soak.input i USING (key, n) WHERE e.grp = 'apply' GROUP BY e.key, e.n, e.body, i.fatal, i.fatal_follow;
    CREATE TEMP TABLE expected_follow AS
      SELECT e.*, 'follow' AS grp, CASE WHEN fatal THEN 1 WHEN fatal_follow THEN 2 ELSE 0 END AS rank
      FROM emitted e WHERE NOT fatal_follow OR )"} +
          (replayed ? "true" : "false"));
  tx.exec(R"(
    CREATE TEMP TABLE expected AS
      SELECT grp, key, n, body, row_number() OVER (PARTITION BY key ORDER BY rank, n) AS place FROM expected_apply
      UNION ALL SELECT grp, key, n, body, row_number() OVER (PARTITION BY key ORDER BY rank, at) FROM expected_follow;
    CREATE TEMP TABLE expected_dead AS
      SELECT 'apply' AS grp, key, n, body, event_id FROM soak.input WHERE fatal
      UNION ALL SELECT 'follow', key, n, body, NULL FROM emitted WHERE fatal_follow AND NOT fatal;
    CREATE TEMP TABLE dead AS
      SELECT consumer_group AS grp, key, split_part(convert_from(payload, 'UTF8'), ' ', 1)::int AS n, event_id, state, reason, side
      FROM penstock.dead_letters;
    CREATE TEMP TABLE first_seen AS
      SELECT channel, key, n, id, min(place) AS place, count(*) AS copies FROM soak.topic GROUP BY channel, key, n, id;
    CREATE INDEX ON first_seen (channel, key, n); ANALYZE expected; ANALYZE first_seen; ANALYZE emitted;
    ANALYZE soak.effects; ANALYZE soak.input; ANALYZE soak.ledger)");
}

class Account {
 public:
  explicit Account(pqxx::work& tx) : tx_{tx} {}

  /// A count that is told and not judged.
  void tell(const std::string& what, const std::string& sql) {
    std::printf("  %-74s %10s\n", what.c_str(), tx_.exec(sql)[0][0].as<std::string>("0").c_str());
  }
  /// Rows that should not be; the first of them are shown.
  void none(const std::string& what, const std::string& sql, bool promised = true) {
    const auto wrong = tx_.exec(sql);
    std::printf("  %-74s %10zu%s\n", what.c_str(), static_cast<std::size_t>(wrong.size()),
                wrong.empty() ? "" : (promised ? "  <== WRONG" : "  (not promised)"));
    if (wrong.empty() || !promised) return;
    balances_ = false;
    int shown = 0;
    for (const auto& row : wrong) {
      if (++shown > 8) break;
      std::string text;
      for (const auto& field : row) text += ' ' + field.as<std::string>("-");
      std::printf("     %s\n", text.c_str());
    }
  }
  [[nodiscard]] bool balances() const { return balances_; }

 private:
  pqxx::work& tx_;
  bool balances_ = true;
};

void effects(Account& account, bool in_order) {
  account.tell("effects", "SELECT count(*) FROM soak.effects");
  account.none("lost effects", "SELECT grp, key, n FROM expected EXCEPT SELECT grp, key, n FROM soak.effects ORDER BY 1, 2, 3");
  account.none("double effects", "SELECT grp, key, n, count(*) FROM soak.effects GROUP BY 1, 2, 3 HAVING count(*) > 1");
  account.none("effects of what was not committed, is not so, or fails for good",
               "SELECT grp, key, n, body FROM soak.effects EXCEPT SELECT grp, key, n, body FROM expected");
  account.none(
      "effects out of their place within a key",
      "SELECT e.grp, e.key, e.n, e.place AS is, x.place AS should FROM soak.effects e JOIN expected x USING (grp, key, n) "
      "WHERE e.place <> x.place ORDER BY e.grp, e.key, e.place",
      in_order);
  account.none(
      "counts that are not those of the sequential replay",
      "SELECT grp, key, s.count, x.count FROM soak.state s FULL JOIN (SELECT grp, key, count(*) FROM expected GROUP BY 1, 2) x "
      "USING (grp, key) WHERE s.count IS DISTINCT FROM x.count");
  account.none(
      "hashes that are not those of the sequential replay",
      "SELECT grp, key FROM soak.state s JOIN (SELECT grp, key, soak.chain(body ORDER BY place) AS chain FROM expected "
      "GROUP BY 1, 2) x USING (grp, key) WHERE s.chain <> x.chain",
      in_order);
  account.none(
      "hashes that are not those of their own effects",
      "SELECT grp, key FROM soak.state s JOIN (SELECT grp, key, soak.chain(body ORDER BY place) AS chain FROM soak.effects "
      "GROUP BY 1, 2) x USING (grp, key) WHERE s.chain <> x.chain");
}

void letters(Account& account, bool replayed) {
  account.tell("dead letters", "SELECT count(*) FROM dead");
  account.none("missing dead letters", "SELECT grp, key, n FROM expected_dead EXCEPT SELECT grp, key, n FROM dead");
  account.none(
      "dead letters of what does not fail for good, or of the outbox",
      "SELECT grp, key, n, side, reason FROM dead d WHERE side <> 'consumer' OR reason NOT LIKE 'permanent: %' OR NOT EXISTS "
      "(SELECT FROM expected_dead x WHERE (x.grp, x.key, x.n) = (d.grp, d.key, d.n))");
  account.none("double dead letters", "SELECT grp, key, n, count(*) FROM dead GROUP BY 1, 2, 3 HAVING count(*) > 1");
  account.none("dead letters in another state than they should be",
               std::string{"SELECT grp, key, n, state FROM dead WHERE state <> '"} + (replayed ? "replayed" : "dead") + "'");
  account.none("messages that are still parked", "SELECT consumer_group, key, event_id FROM penstock.parked");
  account.none("dead letters that are not counted",
               "SELECT consumer_group, depth FROM penstock.dead_letter_depth WHERE depth <> (SELECT count(*) FROM dead "
               "WHERE grp = consumer_group AND state = 'dead')");
}

void books(Account& account) {
  account.tell("calls of the provider", "SELECT count(*) FROM soak.ledger");
  account.tell("  of them repeated after a kill or a rollback (the key is the same)",
               "SELECT count(*) - count(DISTINCT (grp, key, n, attempt, idempotency)) FROM soak.ledger");
  account.none("effects without a call", "SELECT grp, key, n FROM soak.effects EXCEPT SELECT grp, key, n FROM soak.ledger");
  account.none("calls of one effect under several idempotency keys",
               "SELECT grp, key, n, count(DISTINCT idempotency) FROM soak.ledger GROUP BY 1, 2, 3 HAVING count(DISTINCT "
               "idempotency) > 1");
  account.none(
      "idempotency keys of several effects",
      "SELECT idempotency, count(DISTINCT (grp, key, n)) FROM soak.ledger GROUP BY 1 HAVING count(DISTINCT (grp, key, n)) > 1");
}

void topics(Account& account) {
  account.tell("messages on all channels", "SELECT count(*) FROM soak.topic");
  account.tell("  of them repeated with the same id", "SELECT sum(copies - 1) FROM first_seen");
  account.none("events that are not on their channel",
               "(SELECT key, n, event_id FROM soak.input EXCEPT SELECT key, n, id FROM first_seen WHERE channel = "
               "'soak-input') UNION ALL "
               "(SELECT key, n, 'emitted' FROM emitted EXCEPT SELECT key, n, 'emitted' FROM first_seen WHERE channel = "
               "'soak-followed')");
  account.none("events that nobody committed",
               "(SELECT key, n, id FROM first_seen WHERE channel = 'soak-input' EXCEPT SELECT key, n, event_id FROM "
               "soak.input) UNION ALL "
               "(SELECT key, n, 'emitted' FROM first_seen WHERE channel = 'soak-followed' EXCEPT SELECT key, n, 'emitted' FROM "
               "emitted)");
  account.none("events under two ids",
               "SELECT channel, key, n FROM first_seen GROUP BY 1, 2, 3 HAVING count(*) > 1 AND channel NOT LIKE '%.dead'");
  account.none("events whose first appearance is out of the key's order",
               "SELECT * FROM (SELECT key, n, place, max(n) OVER (PARTITION BY key ORDER BY place) AS highest FROM first_seen "
               "WHERE channel = 'soak-input') x WHERE n <> highest");
  account.none(
      "emitted events whose first appearance is out of the key's order",
      "SELECT * FROM (SELECT f.key, f.n, e.at, max(e.at) OVER (PARTITION BY key ORDER BY f.place) AS highest FROM first_seen f "
      "JOIN emitted e USING (key, n) WHERE channel = 'soak-followed') x WHERE at <> highest");
  account.none("dead letters that are not on their channel",
               "SELECT grp, key, n FROM expected_dead EXCEPT SELECT grp, key, n FROM soak.topic WHERE channel LIKE '%.dead'");
  account.none("messages of dead letters that are none",
               "SELECT grp, key, n FROM soak.topic WHERE channel LIKE '%.dead' EXCEPT SELECT grp, key, n FROM expected_dead");
  account.none("dead letters under two ids",
               "SELECT channel, key, n FROM first_seen WHERE channel LIKE '%.dead' GROUP BY 1, 2, 3 HAVING count(*) > 1");
}

}  // namespace

bool judge(const Settings& settings, bool replayed) {
  pqxx::connection connection{settings.postgres};
  pqxx::work tx{connection};
  tx.exec("SET LOCAL client_min_messages = warning");
  load(settings, tx);
  expect(tx, replayed);
  Account account{tx};
  std::printf("%s, seed %llu%s\n", settings.backend.c_str(), static_cast<unsigned long long>(settings.seed),
              replayed ? ", after the replay of all dead letters" : "");
  account.tell("business transactions' events that were committed", "SELECT count(*) FROM soak.input");
  account.none(
      "aggregates whose events are not numbered without a gap",
      "SELECT key, events FROM soak.aggregates a WHERE events <> (SELECT count(*) FROM soak.input i WHERE i.key = a.key)");
  effects(account, effects_in_order(settings.backend));
  letters(account, replayed);
  books(account);
  topics(account);
  std::printf("%s\n", account.balances() ? "it balances" : "IT DOES NOT BALANCE");
  tx.commit();
  return account.balances();
}

}  // namespace soak
