// SPDX-License-Identifier: Apache-2.0
#include "tables.hpp"

#include "penstock/migrate.hpp"
#include "sql.hpp"

namespace shop {

void create_tables(const std::string& url) {
  penstock::migrate(url);
  pqxx::connection connection{url};
  pqxx::work tx{connection};
  tx.exec("SELECT pg_advisory_xact_lock(5051927413)");
  // Once they are there, nothing is to be locked: another role may be writing to them.
  if (!tx.exec("SELECT to_regclass('stock.ledger')")[0][0].is_null()) return;
  // What the effects leave behind has no unique constraint on purpose: a double effect must be able to show.
  tx.exec(R"(
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (
      id text PRIMARY KEY,
      reference text NOT NULL,
      idempotency_key text NOT NULL UNIQUE,
      fingerprint bytea NOT NULL,
      kind text NOT NULL,
      customer text,
      country text,
      total numeric(16,3) NOT NULL,
      lines int NOT NULL,
      state text NOT NULL DEFAULT 'placed',
      reason text,
      placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
      settled_at timestamptz
    ) WITH (fillfactor = 70);
    CREATE INDEX orders_open ON shop.orders (placed_at) WHERE settled_at IS NULL;
    CREATE TABLE shop.fulfilments (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      order_id text NOT NULL, outcome text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX fulfilments_order ON shop.fulfilments (order_id);
    CREATE TABLE shop.topic_log (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      order_id text NOT NULL, event_id text NOT NULL, type text NOT NULL, partition int NOT NULL, position bigint NOT NULL,
      at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX topic_log_order ON shop.topic_log (order_id);
    CREATE TABLE shop.notifications (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      order_id text NOT NULL, text text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX notifications_order ON shop.notifications (order_id);
    CREATE SCHEMA payment;
    CREATE TABLE payment.ledger (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      idempotency_key text NOT NULL UNIQUE, order_id text NOT NULL, kind text NOT NULL, amount numeric(16,3) NOT NULL,
      at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE SCHEMA stock;
    CREATE TABLE stock.ledger (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      idempotency_key text NOT NULL UNIQUE, order_id text NOT NULL, pieces bigint NOT NULL, released_at timestamptz,
      at timestamptz NOT NULL DEFAULT clock_timestamp());
  )");
  tx.commit();
}

}  // namespace shop
