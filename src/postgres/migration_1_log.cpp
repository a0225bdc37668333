// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

// Texts that are indexed or compared have the "C" collation: faster, and a new C library never corrupts an index.
const std::string_view kFirst = R"sql(
-- The log. Rows are only ever inserted. `txid` is the transaction that appended, `id` is drawn when the row is made (CACHE 1:
-- with a larger cache, ids would not follow the order of commits of one key). The order of the two columns matters: defaults
-- are made in it, so that a transaction has its number before its first event has an id. See `floor` of the cursors.
-- It is a ring of segments. A sequence says which one takes the appends, so that no append waits for a lock or reads a row to
-- know; a segment is truncated when every cursor has all of it behind itself.
CREATE SEQUENCE @schema@.outbox_id_seq AS bigint CACHE 1;
CREATE SEQUENCE @schema@.outbox_segment AS smallint MINVALUE 0 MAXVALUE 2 START 0;
SELECT setval('@schema@.outbox_segment', 0);
CREATE TABLE @schema@.outbox (
  txid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
  id             bigint NOT NULL DEFAULT nextval('@schema@.outbox_id_seq'),
  appended_at    timestamptz NOT NULL DEFAULT now(),
  segment        smallint NOT NULL DEFAULT pg_sequence_last_value('@schema@.outbox_segment'::regclass)::smallint,
  route          text COLLATE "C" NOT NULL,
  event_id       text COLLATE "C" NOT NULL,
  source         text COLLATE "C" NOT NULL,
  type           text COLLATE "C" NOT NULL,
  subject        text,
  key            text COLLATE "C",
  content_type   text,
  data_schema    text,
  time           text,           -- NULL: appended_at
  correlation_id text COLLATE "C",
  causation_id   text COLLATE "C",
  traceparent    text,
  tracestate     text,
  extensions     jsonb,          -- {"name": text | number | boolean | {"base64": text}}
  headers        jsonb,          -- [[name, text | null | {"base64": text}], …]
  data           bytea,
  wake           boolean         -- true: a relay sleeps and is to be notified; else NULL
) PARTITION BY LIST (segment);
ALTER SEQUENCE @schema@.outbox_id_seq OWNED BY @schema@.outbox.id;
ALTER SEQUENCE @schema@.outbox_segment OWNED BY @schema@.outbox.segment;
DO $$
BEGIN
  FOR segment IN 0..2 LOOP
    EXECUTE format('CREATE TABLE @schema@.outbox_%1$s PARTITION OF @schema@.outbox (PRIMARY KEY (id)) FOR VALUES IN (%1$s)
      WITH (fillfactor = 100, autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0,
            autovacuum_freeze_min_age = 0, autovacuum_analyze_threshold = 100000, autovacuum_analyze_scale_factor = 0,
            toast.autovacuum_vacuum_insert_threshold = 50000, toast.autovacuum_vacuum_insert_scale_factor = 0,
            toast.autovacuum_freeze_min_age = 0)', segment);
    EXECUTE format('CREATE INDEX outbox_%1$s_txid ON @schema@.outbox_%1$s (txid, id)', segment);
  END LOOP;
END
$$;

-- A relay that sleeps is notified by the end of the transaction and not in it: one that has notified cannot be prepared for a
-- commit in two phases. What is committed in its second phase is found without a notification.
CREATE FUNCTION @schema@.wake_relays() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  ending text := pg_catalog.current_query();
BEGIN
  IF pg_catalog.left(ending, 100) || pg_catalog.right(ending, 400) !~* 'prepare\s+transaction' THEN
    PERFORM pg_catalog.pg_notify('@wake@', '');
  END IF;
  RETURN NULL;
END
$$;
DO $$
BEGIN
  FOR segment IN 0..2 LOOP
    EXECUTE format('CREATE CONSTRAINT TRIGGER wake AFTER INSERT ON @schema@.outbox_%s DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW WHEN (NEW.wake) EXECUTE FUNCTION @schema@.wake_relays()', segment);
  END LOOP;
END
$$;

-- One row per destination: its place in the log and the lease of the relay that owns it. Everything visible in `prev` is
-- settled; of what became visible between `prev` and `cur`, everything up to the id `place`. Transactions that had no number
-- yet at `prev` append only above the id `floor`: that spares a relay that was away a search for where to begin.
-- A row is written when a relay takes it over, and when the log below is folded into it; in between, checkpoints and renewals
-- lock it and are inserted there, because updates several times a second would leave as many dead rows for as long as an old
-- snapshot is held anywhere in the database. What holds is the newest of both: the view `cursor_status`.
CREATE TABLE @schema@.cursors (
  name        text COLLATE "C" PRIMARY KEY,
  owner       text NOT NULL,
  token       bigint NOT NULL,
  lease_until timestamptz NOT NULL,
  prev        pg_snapshot NOT NULL DEFAULT '3:3:',
  cur         pg_snapshot,
  place       bigint NOT NULL DEFAULT 0,
  floor       bigint NOT NULL DEFAULT 0,
  updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
CREATE TABLE @schema@.cursor_log (
  cursor      text COLLATE "C" NOT NULL,
  token       bigint NOT NULL,
  seq         bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
  lease_until timestamptz NOT NULL,
  prev        pg_snapshot NOT NULL,
  cur         pg_snapshot,
  place       bigint NOT NULL,
  floor       bigint NOT NULL,
  updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (cursor, token, seq)
) WITH (autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0);
CREATE VIEW @schema@.cursor_status AS
  SELECT c.name, c.owner, c.token, coalesce(l.lease_until, c.lease_until) AS lease_until, coalesce(l.prev, c.prev) AS prev,
         CASE WHEN l.seq IS NULL THEN c.cur ELSE l.cur END AS cur, coalesce(l.place, c.place) AS place,
         coalesce(l.floor, c.floor) AS floor, coalesce(l.updated_at, c.updated_at) AS updated_at
    FROM @schema@.cursors c LEFT JOIN LATERAL
      (SELECT * FROM @schema@.cursor_log l WHERE l.cursor = c.name AND l.token = c.token ORDER BY l.seq DESC LIMIT 1) l ON true;

-- Until when, in milliseconds since 1970, some relay sleeps and wants to be notified. A sequence, since every append looks at it:
-- it has one row whatever happens, and no versions.
CREATE SEQUENCE @schema@.asleep_until AS bigint MINVALUE 0 START 0;
SELECT setval('@schema@.asleep_until', 0);

CREATE TABLE @schema@.inbox (
  consumer_group text COLLATE "C" NOT NULL,
  source         text COLLATE "C" NOT NULL,
  id             text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL DEFAULT 'done' CHECK (state IN ('done', 'parked', 'dead')),
  seen_at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer_group, source, id)
) WITH (autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0,
        autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX inbox_seen_at ON @schema@.inbox USING brin (seen_at);

CREATE TABLE @schema@.parked (
  seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer_group  text COLLATE "C" NOT NULL,
  key             text COLLATE "C",
  behind          boolean NOT NULL DEFAULT false,
  next_attempt_at timestamptz NOT NULL,
  attempt         integer NOT NULL,
  attempts        jsonb NOT NULL DEFAULT '[]',
  source          text COLLATE "C" NOT NULL,
  event_id        text COLLATE "C" NOT NULL,
  type            text COLLATE "C" NOT NULL,
  backend         text NOT NULL,
  channel         text NOT NULL,
  partition       integer NOT NULL DEFAULT -1,
  position        bigint NOT NULL DEFAULT -1,
  deliveries      bigint NOT NULL DEFAULT 0,
  redelivered     boolean NOT NULL DEFAULT false,
  wire_key        bytea,
  headers         jsonb NOT NULL DEFAULT '[]',  -- as in outbox
  payload         bytea,
  parked_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX parked_due ON @schema@.parked (consumer_group, next_attempt_at) WHERE NOT behind;
CREATE INDEX parked_key ON @schema@.parked (consumer_group, key, seq);

-- `side` is 'outbox' for events that could not be published (consumer_group is then the cursor's name, position the outbox id,
-- and headers follow the Kafka binding), 'consumer' for messages whose handler gave up.
CREATE TABLE @schema@.dead_letters (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  side           text COLLATE "C" NOT NULL CHECK (side IN ('consumer', 'outbox')),
  state          text COLLATE "C" NOT NULL DEFAULT 'dead',
  consumer_group text COLLATE "C" NOT NULL,
  backend        text NOT NULL,
  channel        text COLLATE "C" NOT NULL,
  partition      integer NOT NULL DEFAULT -1,
  position       bigint NOT NULL DEFAULT -1,
  source         text COLLATE "C",
  event_id       text COLLATE "C",
  type           text COLLATE "C",
  key            text COLLATE "C",
  wire_key       bytea,
  headers        jsonb NOT NULL DEFAULT '[]',  -- as in outbox
  payload        bytea,
  reason         text NOT NULL,
  first_error    text,
  last_error     text,
  attempts       jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX dead_letters_event ON @schema@.dead_letters (source, event_id);
CREATE INDEX dead_letters_channel ON @schema@.dead_letters (channel, state, id);

-- Only ever inserted.
CREATE TABLE @schema@.audit (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at             timestamptz NOT NULL DEFAULT clock_timestamp(),
  consumer_group text COLLATE "C" NOT NULL,
  backend        text NOT NULL,
  channel        text NOT NULL,
  partition      integer NOT NULL DEFAULT -1,
  position       bigint NOT NULL DEFAULT -1,
  source         text COLLATE "C",
  event_id       text COLLATE "C",
  type           text COLLATE "C",
  key            text COLLATE "C",
  correlation_id text COLLATE "C",
  causation_id   text COLLATE "C",
  traceparent    text,
  outcome        text COLLATE "C" NOT NULL,
  attempt        integer NOT NULL DEFAULT 1,
  duration_ms    bigint NOT NULL DEFAULT 0,
  error          text,
  host           text
) WITH (autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_freeze_min_age = 0);
CREATE INDEX audit_correlation ON @schema@.audit (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX audit_event ON @schema@.audit (source, event_id);

-- How far a group came on a channel; one row for each worker, so that workers never wait for each other's row lock.
CREATE TABLE @schema@.checkpoints (
  consumer_group text COLLATE "C" NOT NULL,
  channel        text COLLATE "C" NOT NULL,
  partition      integer NOT NULL,
  member         text COLLATE "C" NOT NULL,
  position       bigint NOT NULL,
  settled        bigint NOT NULL DEFAULT 0,
  updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer_group, channel, partition, member)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE FUNCTION @schema@.uuid7() RETURNS text LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
           substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1),
         'hex')::uuid::text
$$;

-- What Outbox::append calls; programs that come by SQL have append() below, which checks what it is given. Procedures, since
-- their INSERT is planned once for a connection, also behind a pooler, where planning it took longer than making the row; and
-- CALL is less work than SELECT. They run with the rights of the caller. They set no search_path, which would cost another
-- tenth, and so name every function's schema.
-- `more`: route (unless it is the type), subject, data_schema, time, correlation_id, causation_id, traceparent, tracestate,
-- extensions, headers. Most events have none of them.
CREATE PROCEDURE @schema@.append_row(event_id text, source text, type text, key text, content_type text, data bytea, more text[])
  LANGUAGE plpgsql AS $$
DECLARE
  asleep constant boolean := CASE WHEN pg_catalog.pg_sequence_last_value('@schema@.asleep_until'::pg_catalog.regclass)
    > pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000 THEN true END;
BEGIN
  IF more IS NULL THEN
    INSERT INTO @schema@.outbox(route, event_id, source, type, key, content_type, data, wake)
      VALUES (type, event_id, source, type, nullif(key, ''), nullif(content_type, ''), data, asleep);
  ELSE
    INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,
                                causation_id, traceparent, tracestate, extensions, headers, data, wake)
      VALUES (coalesce(more[1], type), event_id, source, type, more[2], nullif(key, ''), nullif(content_type, ''), more[3],
              more[4], more[5], more[6], more[7], more[8], more[9]::pg_catalog.jsonb, more[10]::pg_catalog.jsonb, data, asleep);
  END IF;
END
$$;
-- The id is drawn after the lock is held.
CREATE PROCEDURE @schema@.append_row_locked(event_id text, source text, type text, key text, content_type text, data bytea,
    more text[]) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('@wake@.' || key, 0));
  CALL @schema@.append_row(event_id, source, type, key, content_type, data, more);
END
$$;
-- Each array is a column; one without elements is all NULL. Rows come out of several unnest() side by side in the order of the
-- elements, without the tuplestore that each has in FROM.
CREATE PROCEDURE @schema@.append_rows(route text[], event_id text[], source text[], type text[], subject text[], key text[],
    content_type text[], data_schema text[], event_time text[], correlation_id text[], causation_id text[], traceparent text[],
    tracestate text[], extensions jsonb[], headers jsonb[], data bytea[]) LANGUAGE plpgsql AS $$
DECLARE
  asleep constant boolean[] := CASE WHEN pg_catalog.pg_sequence_last_value('@schema@.asleep_until'::pg_catalog.regclass)
    > pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000 THEN ARRAY[true] END;  -- the first row is enough
BEGIN
  INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,
                              causation_id, traceparent, tracestate, extensions, headers, data, wake)
    SELECT pg_catalog.unnest(route), pg_catalog.unnest(event_id), pg_catalog.unnest(source), pg_catalog.unnest(type),
           pg_catalog.unnest(subject), pg_catalog.unnest(key), pg_catalog.unnest(content_type), pg_catalog.unnest(data_schema),
           pg_catalog.unnest(event_time), pg_catalog.unnest(correlation_id), pg_catalog.unnest(causation_id),
           pg_catalog.unnest(traceparent), pg_catalog.unnest(tracestate), pg_catalog.unnest(extensions),
           pg_catalog.unnest(headers), pg_catalog.unnest(data), pg_catalog.unnest(asleep);
END
$$;

-- What validate() says of these attributes in C++.
CREATE FUNCTION @schema@.check_event(event_type text, event_source text, event_id text, subject text, content_type text,
    correlation_id text, causation_id text, traceparent text, event_time text, data_schema text)
  RETURNS void LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
DECLARE
  name text;
  value text;
  fault text;
BEGIN
  FOR name, value, fault IN SELECT v.* FROM (VALUES
      ('type', event_type, CASE WHEN coalesce(event_type, '') = ''
        THEN 'is not set; give a reverse-DNS name with its version, as shop.order.placed.v1' END),
      ('source', event_source, CASE WHEN coalesce(event_source, '') = ''
        THEN 'is not set; name the producer by a URI-reference, as /shop/orders-api'
        WHEN event_source COLLATE "C" !~ '^([A-Za-z0-9._~:/?#\[\]@!$&''()*+,;=-]|%[0-9A-Fa-f]{2}|[^\u0001-\u007f])+$'
          OR event_source ~ '#.*#' OR (event_source ~ '^[^:/?#]*:' AND event_source COLLATE "C" !~ '^[A-Za-z][A-Za-z0-9+.-]*:')
        THEN 'is no URI-reference; percent-encode what a URI cannot hold, as %20 for a space' END),
      ('dataschema', data_schema,
        CASE WHEN data_schema COLLATE "C" !~ '^[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#\[\]@!$&''()*+,;=-]|%[0-9A-Fa-f]{2}|[^\u0001-\u007f])*$'
          OR data_schema ~ '#.*#' THEN 'is no absolute URI; begin it with a scheme, as urn: or https:' END),
      ('time', event_time, CASE WHEN event_time !~ ('^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)'
          '(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$') THEN 'is no RFC 3339 time'
        WHEN substr(event_time, 9, 2)::int > extract(day FROM make_date(2000 + substr(event_time, 1, 4)::int % 400,
          substr(event_time, 6, 2)::int, 1) + interval '1 month - 1 day') THEN 'is no RFC 3339 time: that month is shorter' END),
      ('datacontenttype', content_type,
        CASE WHEN content_type ~* '^[ \t]*application/cloudevents'
        THEN 'marks a message in structured mode; a payload that is a CloudEvent itself needs another type'
        WHEN content_type COLLATE "C" !~ ('^[A-Za-z0-9!#$%&''*+.^_`|~-]+/[A-Za-z0-9!#$%&''*+.^_`|~-]+[ \t]*(;[ \t]*('
          '[A-Za-z0-9!#$%&''*+.^_`|~-]+=([A-Za-z0-9!#$%&''*+.^_`|~-]+|"([^"\\]|\\.)*"))?[ \t]*)*$')
        THEN 'is no media type; write it as application/json' END),
      ('traceparent', traceparent,
        CASE WHEN traceparent COLLATE "C" !~ '^[ \t]*[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?[ \t]*$'
          OR traceparent ~ '^[ \t]*(ff|..-0{32}|..-.{32}-0{16})' OR traceparent ~ '^[ \t]*00-.{32}-.{16}-..-'
        THEN 'is no W3C trace parent; leave it out to carry no trace' END),
      ('id', event_id, NULL), ('subject', subject, NULL), ('correlationid', correlation_id, NULL),
      ('causationid', causation_id, NULL)) v LOOP
    IF fault IS NULL AND value COLLATE "C" ~ '[\u0001-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff]' THEN
      fault := 'is not text without control characters; remove them or encode the value';
    END IF;
    IF fault IS NOT NULL AND (coalesce(value, '') <> '' OR name IN ('type', 'source')) THEN
      RAISE EXCEPTION 'invalid event: % "%" %', name, left(value, 80), fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
  END LOOP;
END
$$;

-- Appends an event from SQL (a trigger, a program in another language) in the current transaction; returns its id. Take the lock
-- on the row the event is about first: events of a key are relayed in the order of the appends made under that lock. Whoever
-- holds no such lock sets lock_key, and the key itself is locked until the transaction ends.
CREATE FUNCTION @schema@.append(event_type text, event_data bytea, event_key text DEFAULT NULL, event_source text DEFAULT NULL,
    event_id text DEFAULT NULL, subject text DEFAULT NULL, content_type text DEFAULT 'application/json',
    correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL, traceparent text DEFAULT NULL,
    event_time text DEFAULT NULL, data_schema text DEFAULT NULL, lock_key boolean DEFAULT false)
  RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
#variable_conflict use_column
DECLARE
  new_id text := coalesce(nullif(append.event_id, ''), @schema@.uuid7());
  new_type text := CASE WHEN event_data IS NOT NULL THEN nullif(append.content_type, '') END;
BEGIN
  PERFORM @schema@.check_event(event_type, event_source, new_id, append.subject, new_type, append.correlation_id,
                               append.causation_id, append.traceparent, event_time, append.data_schema);
  IF lock_key AND event_key <> '' THEN
    PERFORM pg_advisory_xact_lock(hashtextextended('@wake@.' || event_key, 0));
  END IF;
  INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,
                              causation_id, traceparent, data, wake)
    VALUES (event_type, new_id, event_source, event_type, nullif(append.subject, ''), nullif(event_key, ''), new_type,
            nullif(append.data_schema, ''), nullif(event_time, ''), nullif(append.correlation_id, ''),
            nullif(append.causation_id, ''), nullif(append.traceparent, ''), event_data, CASE WHEN
            pg_sequence_last_value('@schema@.asleep_until'::regclass) > date_part('epoch', clock_timestamp()) * 1000 THEN true END);
  RETURN new_id;
END
$$;
CREATE FUNCTION @schema@.append(event_type text, event_data text, event_key text DEFAULT NULL, event_source text DEFAULT NULL,
    event_id text DEFAULT NULL, subject text DEFAULT NULL, content_type text DEFAULT 'application/json',
    correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL, traceparent text DEFAULT NULL,
    event_time text DEFAULT NULL, data_schema text DEFAULT NULL, lock_key boolean DEFAULT false)
  RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
  SELECT @schema@.append(event_type, convert_to(event_data, 'UTF8'), event_key, event_source, event_id, subject, content_type,
                         correlation_id, causation_id, traceparent, event_time, data_schema, lock_key)
$$;
)sql";

}  // namespace penstock::postgres
