// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

#include <array>
#include <cstddef>

namespace penstock::postgres {
namespace {

// Texts that are indexed or compared have the "C" collation: faster, and a new C library never corrupts an index.
constexpr std::string_view kFirst = R"sql(
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
  data           bytea
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
BEGIN
  IF more IS NULL THEN
    INSERT INTO @schema@.outbox(route, event_id, source, type, key, content_type, data)
      VALUES (type, event_id, source, type, nullif(key, ''), nullif(content_type, ''), data);
  ELSE
    INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,
                                causation_id, traceparent, tracestate, extensions, headers, data)
      VALUES (coalesce(more[1], type), event_id, source, type, more[2], nullif(key, ''), nullif(content_type, ''), more[3],
              more[4], more[5], more[6], more[7], more[8], more[9]::pg_catalog.jsonb, more[10]::pg_catalog.jsonb, data);
  END IF;
  IF pg_catalog.pg_sequence_last_value('@schema@.asleep_until'::pg_catalog.regclass)
      > pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000 THEN
    PERFORM pg_catalog.pg_notify('@wake@', '');
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
BEGIN
  INSERT INTO @schema@.outbox(route, event_id, source, type, subject, key, content_type, data_schema, time, correlation_id,
                              causation_id, traceparent, tracestate, extensions, headers, data)
    SELECT pg_catalog.unnest(route), pg_catalog.unnest(event_id), pg_catalog.unnest(source), pg_catalog.unnest(type),
           pg_catalog.unnest(subject), pg_catalog.unnest(key), pg_catalog.unnest(content_type), pg_catalog.unnest(data_schema),
           pg_catalog.unnest(event_time), pg_catalog.unnest(correlation_id), pg_catalog.unnest(causation_id),
           pg_catalog.unnest(traceparent), pg_catalog.unnest(tracestate), pg_catalog.unnest(extensions),
           pg_catalog.unnest(headers), pg_catalog.unnest(data);
  IF pg_catalog.pg_sequence_last_value('@schema@.asleep_until'::pg_catalog.regclass)
      > pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000 THEN
    PERFORM pg_catalog.pg_notify('@wake@', '');
  END IF;
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
                              causation_id, traceparent, data)
    VALUES (event_type, new_id, event_source, event_type, nullif(append.subject, ''), nullif(event_key, ''), new_type,
            nullif(append.data_schema, ''), nullif(event_time, ''), nullif(append.correlation_id, ''),
            nullif(append.causation_id, ''), nullif(append.traceparent, ''), event_data);
  IF pg_sequence_last_value('@schema@.asleep_until'::regclass) > date_part('epoch', clock_timestamp()) * 1000 THEN
    PERFORM pg_notify('@wake@', '');
  END IF;
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

constexpr std::string_view kReplay = R"sql(
ALTER TABLE @schema@.audit ADD COLUMN actor text, ADD COLUMN note text;  -- who did it, and why, where people act

-- `state`: 'dead'; 'behind' (of the outbox's side: the cursor is to publish it, when no earlier letter of its key is dead);
-- 'replayed'; 'discarded'. Payload and headers stay what they were; what is replayed is `edited`, if somebody edited it.
-- `replays` counts for the event in its group, over all of its letters.
ALTER TABLE @schema@.dead_letters
  ADD COLUMN replays     integer NOT NULL DEFAULT 0,
  ADD COLUMN replayed_at timestamptz,
  ADD COLUMN job_id      bigint,
  ADD COLUMN edited      bytea,
  ADD COLUMN error_class text COLLATE "C" GENERATED ALWAYS AS (
    CASE WHEN event_id IS NULL THEN 'malformed'
         WHEN reason COLLATE "C" ~ '^[A-Za-z0-9 _.-]{1,64}:' THEN split_part(reason, ':', 1) ELSE 'error' END) STORED,
  SET (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX dead_letters_dead ON @schema@.dead_letters (side, consumer_group, channel, id) WHERE state = 'dead';
CREATE INDEX dead_letters_key ON @schema@.dead_letters (consumer_group, key, id) WHERE state = 'dead' AND side = 'outbox';
CREATE INDEX dead_letters_behind ON @schema@.dead_letters (consumer_group, id) WHERE state = 'behind';

-- How many dead letters there are. Several rows for each group and channel, of which a transaction takes any that no other one
-- is writing: nobody waits, and there are never more than there were transactions at once.
CREATE TABLE @schema@.dead_letter_counts (
  side           text COLLATE "C" NOT NULL,
  consumer_group text COLLATE "C" NOT NULL,
  channel        text COLLATE "C" NOT NULL,
  slot           integer NOT NULL,
  depth          bigint NOT NULL,
  PRIMARY KEY (side, consumer_group, channel, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
INSERT INTO @schema@.dead_letter_counts
  SELECT side, consumer_group, channel, 1, count(*) FROM @schema@.dead_letters WHERE state = 'dead' GROUP BY 1, 2, 3;
CREATE VIEW @schema@.dead_letter_depth AS
  SELECT c.side, c.consumer_group, c.channel, c.depth, o.created_at AS oldest,
         extract(epoch FROM clock_timestamp() - o.created_at)::float8 AS age_seconds
    FROM (SELECT side, consumer_group, channel, sum(depth)::bigint AS depth FROM @schema@.dead_letter_counts GROUP BY 1, 2, 3) c
    LEFT JOIN LATERAL (SELECT d.created_at FROM @schema@.dead_letters d WHERE d.side = c.side AND d.state = 'dead'
      AND d.consumer_group = c.consumer_group AND d.channel = c.channel ORDER BY d.id LIMIT 1) o ON true;

CREATE FUNCTION @schema@.count_letters(of_side text, of_group text, of_channel text, change bigint) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  free integer;
BEGIN
  SELECT c.slot INTO free FROM @schema@.dead_letter_counts c
    WHERE c.side = of_side AND c.consumer_group = of_group AND c.channel = of_channel
    ORDER BY c.slot LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    SELECT coalesce(max(c.slot), 0) + 1 INTO free FROM @schema@.dead_letter_counts c
      WHERE c.side = of_side AND c.consumer_group = of_group AND c.channel = of_channel;
  END IF;
  INSERT INTO @schema@.dead_letter_counts AS c (side, consumer_group, channel, slot, depth)
    VALUES (of_side, of_group, of_channel, free, change)
    ON CONFLICT (side, consumer_group, channel, slot) DO UPDATE SET depth = c.depth + excluded.depth;
END
$$;
-- With the rights of the owner: whoever may write letters keeps the counters right.
CREATE FUNCTION @schema@.letters_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM @schema@.dead_letter_counts;
  ELSIF TG_OP = 'INSERT' THEN
    PERFORM @schema@.count_letters(side, consumer_group, channel, count(*)) FROM new_rows WHERE state = 'dead'
      GROUP BY side, consumer_group, channel;
  ELSIF TG_OP = 'DELETE' THEN
    PERFORM @schema@.count_letters(side, consumer_group, channel, -count(*)) FROM old_rows WHERE state = 'dead'
      GROUP BY side, consumer_group, channel;
  ELSE
    PERFORM @schema@.count_letters(c.side, c.consumer_group, c.channel, sum(c.n)::bigint)
      FROM (SELECT side, consumer_group, channel, 1 AS n FROM new_rows WHERE state = 'dead'
            UNION ALL SELECT side, consumer_group, channel, -1 FROM old_rows WHERE state = 'dead') c
      GROUP BY c.side, c.consumer_group, c.channel HAVING sum(c.n) <> 0;
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER letters_inserted AFTER INSERT ON @schema@.dead_letters REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION @schema@.letters_changed();
CREATE TRIGGER letters_updated AFTER UPDATE ON @schema@.dead_letters REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION @schema@.letters_changed();
CREATE TRIGGER letters_deleted AFTER DELETE ON @schema@.dead_letters REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION @schema@.letters_changed();
CREATE TRIGGER letters_truncated AFTER TRUNCATE ON @schema@.dead_letters
  FOR EACH STATEMENT EXECUTE FUNCTION @schema@.letters_changed();
CREATE FUNCTION @schema@.letter_again() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  NEW.replays := greatest(NEW.replays, (SELECT max(d.replays) FROM @schema@.dead_letters d
    WHERE d.source = NEW.source AND d.event_id = NEW.event_id AND d.side = NEW.side AND d.consumer_group = NEW.consumer_group));
  RETURN NEW;
END
$$;
CREATE TRIGGER letter_again BEFORE INSERT ON @schema@.dead_letters FOR EACH ROW WHEN (NEW.event_id IS NOT NULL)
  EXECUTE FUNCTION @schema@.letter_again();

CREATE VIEW @schema@.checkpoint_status AS
  SELECT consumer_group, channel, partition, max(position) AS position, sum(settled)::bigint AS settled,
         max(updated_at) AS updated_at
    FROM @schema@.checkpoints GROUP BY consumer_group, channel, partition;

-- A replay. Letters up to `last_id` are dealt with, those after `up_to` are none of its; `next_at` keeps the rate.
CREATE TABLE @schema@.replay_jobs (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  state          text COLLATE "C" NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'running', 'done', 'cancelled')),
  target         text COLLATE "C" NOT NULL CHECK (target IN ('group', 'channel', 'discard')),
  side           text COLLATE "C",
  consumer_group text COLLATE "C",
  channel        text COLLATE "C",
  type           text COLLATE "C",  -- a LIKE pattern
  key            text COLLATE "C",
  error_class    text COLLATE "C",
  since          timestamptz,
  until          timestamptz,
  actor          text NOT NULL CHECK (actor <> ''),
  note           text NOT NULL CHECK (note <> ''),
  rate           float8 NOT NULL DEFAULT 0,
  most_replays   integer NOT NULL,
  batch          integer NOT NULL CHECK (batch > 0),
  dry_run        boolean NOT NULL DEFAULT false,
  planned        bigint NOT NULL DEFAULT 0,
  sent           bigint NOT NULL DEFAULT 0,
  failed         bigint NOT NULL DEFAULT 0,
  last_error     text,
  last_id        bigint NOT NULL DEFAULT 0,
  up_to          bigint NOT NULL,
  next_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at       timestamptz,
  ended_by       text,              -- who cancelled it, and why
  ended_note     text
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
CREATE TABLE @schema@.replay_failures (
  job_id    bigint NOT NULL REFERENCES @schema@.replay_jobs ON DELETE CASCADE,
  letter_id bigint NOT NULL,
  reason    text NOT NULL,
  at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (job_id, letter_id)
);
CREATE TABLE @schema@.letter_edits (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  letter_id bigint NOT NULL REFERENCES @schema@.dead_letters ON DELETE CASCADE,
  at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor     text NOT NULL CHECK (actor <> ''),
  note      text NOT NULL CHECK (note <> ''),
  before    bytea,
  after     bytea NOT NULL,
  diff      jsonb NOT NULL
);
CREATE INDEX letter_edits_letter ON @schema@.letter_edits (letter_id);
)sql";

constexpr std::string_view kPartitions = R"sql(
-- What may be done with one table, and with its columns, may be done with another of the same columns.
CREATE FUNCTION @schema@.copy_grants(from_table regclass, to_table regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT format('GRANT %s ON %s TO %s', a.privilege_type, to_table,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
      FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = from_table AND a.grantee <> c.relowner
    UNION ALL
    SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, t.attname, to_table,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
      FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = from_table LOOP
    EXECUTE statement;
  END LOOP;
END
$$;

-- The inbox is partitioned by the day on which the event was born, which its id tells (UUIDv7): all deliveries of an event meet
-- in one partition, where a unique index holds, and old partitions are dropped. -1: an id that tells nothing.
CREATE FUNCTION @schema@.inbox_day(id text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN id OPERATOR(pg_catalog.~) '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
    THEN (('x' OPERATOR(pg_catalog.||) pg_catalog.substr(id, 1, 8) OPERATOR(pg_catalog.||) pg_catalog.substr(id, 10, 4))
      ::pg_catalog.bit(48)::pg_catalog.int8 OPERATOR(pg_catalog./) 86400000)::pg_catalog.int4 ELSE -1 END
$$;
ALTER TABLE @schema@.inbox RENAME TO inbox_rest;
ALTER INDEX @schema@.inbox_pkey RENAME TO inbox_rest_pkey;
ALTER INDEX @schema@.inbox_seen_at RENAME TO inbox_rest_seen_at;
CREATE TABLE @schema@.inbox (LIKE @schema@.inbox_rest INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
  PARTITION BY RANGE (@schema@.inbox_day(id));
SELECT @schema@.copy_grants('@schema@.inbox_rest', '@schema@.inbox');
-- `inbox_rest` has the ids that tell nothing, and what was there before: rows are deleted from it, in small batches.
-- `inbox_other` has the days without a partition: late events, and all of them if nobody calls upkeep().
DO $$
DECLARE
  first_day integer := floor(extract(epoch FROM now()) / 86400);
BEGIN
  first_day := greatest(first_day, (SELECT max(@schema@.inbox_day(id)) + 1 FROM @schema@.inbox_rest));
  EXECUTE format('ALTER TABLE @schema@.inbox ATTACH PARTITION @schema@.inbox_rest FOR VALUES FROM (MINVALUE) TO (%s)',
    first_day);
END
$$;
CREATE TABLE @schema@.inbox_other PARTITION OF @schema@.inbox (PRIMARY KEY (consumer_group, source, id)) DEFAULT
  WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX inbox_other_seen_at ON @schema@.inbox_other USING brin (seen_at);
-- Up to the end of which day marks of a group were dropped: of an event born then, nobody can tell whether it was handled.
CREATE TABLE @schema@.inbox_horizon (
  consumer_group text COLLATE "C" PRIMARY KEY,
  forgotten      date NOT NULL
);

-- The audit trail is partitioned by the month; what was there before is one partition.
ALTER TABLE @schema@.audit RENAME TO audit_before;
ALTER INDEX @schema@.audit_pkey RENAME TO audit_before_pkey;
ALTER INDEX @schema@.audit_correlation RENAME TO audit_before_correlation;
ALTER INDEX @schema@.audit_event RENAME TO audit_before_event;
DO $$
DECLARE
  last record;
BEGIN
  SELECT coalesce(max(id), 0) + 1 AS next_id, greatest(now(), max(at)) AS at, count(*) = 0 AS empty INTO last
    FROM @schema@.audit_before;
  ALTER TABLE @schema@.audit_before ALTER id DROP IDENTITY;
  CREATE TABLE @schema@.audit (LIKE @schema@.audit_before INCLUDING DEFAULTS) PARTITION BY RANGE (at);
  EXECUTE format('ALTER TABLE @schema@.audit ALTER id ADD GENERATED ALWAYS AS IDENTITY (START %s)', last.next_id);
  PERFORM @schema@.copy_grants('@schema@.audit_before', '@schema@.audit');
  IF last.empty THEN
    DROP TABLE @schema@.audit_before;
  ELSE
    EXECUTE format('ALTER TABLE @schema@.audit ATTACH PARTITION @schema@.audit_before FOR VALUES FROM (MINVALUE) TO (%L)',
      (date_trunc('month', last.at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC');
  END IF;
END
$$;
CREATE INDEX audit_correlation ON @schema@.audit (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX audit_event ON @schema@.audit (source, event_id);
CREATE TABLE @schema@.audit_other PARTITION OF @schema@.audit DEFAULT;
DROP FUNCTION @schema@.copy_grants(regclass, regclass);
-- Who writes the inbox reads this, too.
DO $$
DECLARE
  statement text;
BEGIN
  FOR statement IN SELECT DISTINCT format('GRANT SELECT ON @schema@.inbox_horizon TO %s',
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
      FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = '@schema@.inbox'::regclass AND a.grantee <> c.relowner LOOP
    EXECUTE statement;
  END LOOP;
END
$$;

-- Whether the marks that would tell of this event's handling were dropped. To be asked by a statement that comes after its own
-- mark was made, which keeps those beside it from being dropped meanwhile. `event_time` tells its age where the id does not.
CREATE FUNCTION @schema@.inbox_forgotten(in_group text, in_id text, event_time text) RETURNS boolean
  LANGUAGE plpgsql AS $$
DECLARE
  horizon date;
  day integer := @schema@.inbox_day(in_id);
BEGIN
  IF day >= pg_catalog.date_part('epoch', pg_catalog.now())::bigint / 86400 THEN
    RETURN false;
  END IF;
  SELECT h.forgotten INTO horizon FROM @schema@.inbox_horizon h WHERE h.consumer_group = in_group;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF day >= 0 THEN
    RETURN '1970-01-01'::pg_catalog.date OPERATOR(pg_catalog.+) day <= horizon;
  END IF;
  BEGIN
    RETURN coalesce((nullif(event_time, '')::pg_catalog.timestamptz AT TIME ZONE 'UTC')::pg_catalog.date <= horizon, false);
  EXCEPTION WHEN data_exception THEN  -- a time that this server cannot read
    RETURN false;
  END;
END
$$;

-- One step of upkeep, in a transaction that should hold nothing else: what it did, 'busy' when a lock was not to be had, NULL
-- when nothing is left to do. Waits at most 50 ms for any lock. It drops what is older than the retentions (NULL: nothing),
-- with the owner's rights: not everybody may call it. `ahead`: days, and at most two months, that have their partitions already.
CREATE FUNCTION @schema@.upkeep(inbox_retention interval, audit_retention interval, ahead integer DEFAULT 3) RETURNS text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '50ms' SET enable_seqscan = off AS $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
  cutoff timestamptz := now() - inbox_retention;
  part record;
  month timestamp;
  day date;
  name text;
  gone bigint;
BEGIN
  IF inbox_retention < interval '1 day' OR audit_retention < interval '1 day' THEN
    RAISE EXCEPTION 'upkeep: a retention of less than a day; give at least one, or NULL to keep everything'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF NOT pg_try_advisory_xact_lock(hashtextextended('@wake@.upkeep', 0)) THEN
    RETURN 'busy';
  END IF;
  -- Partitions are there before they are needed. A month or day that has rows in the default partition stays without.
  FOR month IN SELECT date_trunc('month', today::timestamp) + n * interval '1 month' FROM generate_series(0, least(ahead, 2)) n LOOP
    name := 'audit_' || to_char(month, 'YYYY_MM');
    CONTINUE WHEN to_regclass('@schema@.' || name) IS NOT NULL
      OR EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass('@schema@.audit_before')
        AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(.*)''\)')::timestamptz > month AT TIME ZONE 'UTC');
    BEGIN
      EXECUTE format('CREATE TABLE @schema@.%I (LIKE @schema@.audit INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ('
        'autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_freeze_min_age = 0)', name);
      EXECUTE format('ALTER TABLE @schema@.audit ATTACH PARTITION @schema@.%I FOR VALUES FROM (%L) TO (%L)', name,
        month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
      RETURN 'created ' || name;
    EXCEPTION WHEN check_violation THEN NULL;
    END;
  END LOOP;
  FOR day IN SELECT today + n FROM generate_series(0, ahead) n LOOP
    name := 'inbox_' || to_char(day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass('@schema@.' || name) IS NOT NULL
      OR EXISTS (SELECT FROM pg_class c WHERE c.oid = '@schema@.inbox_rest'::regclass
        AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \((.*)\)')::integer > day - '1970-01-01'::date);
    BEGIN
      EXECUTE format('CREATE TABLE @schema@.%I (LIKE @schema@.inbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS,'
        ' PRIMARY KEY (consumer_group, source, id)) WITH (autovacuum_vacuum_insert_threshold = 50000,'
        ' autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0)', name);
      EXECUTE format('CREATE INDEX ON @schema@.%I USING brin (seen_at)', name);
      EXECUTE format('ALTER TABLE @schema@.inbox ATTACH PARTITION @schema@.%I FOR VALUES FROM (%s) TO (%s)', name,
        day - '1970-01-01'::date, day - '1970-01-01'::date + 1);
      RETURN 'created ' || name;
    EXCEPTION WHEN check_violation THEN NULL;
    END;
  END LOOP;
  -- Months of which all is older than the retention.
  FOR part IN SELECT c.oid::regclass AS leaf, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = '@schema@.audit'::regclass AND audit_retention IS NOT NULL
        AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(.*)''\)')::timestamptz <= now() - audit_retention
      ORDER BY c.relname LOOP
    EXECUTE format('DROP TABLE %s', part.leaf);
    RETURN 'dropped ' || part.relname;
  END LOOP;
  -- Days of which all was seen before the retention, and nothing is parked any more. Emptied first, which takes the lock of the
  -- partition alone; dropped when there is a moment in which no consumer is at work.
  FOR part IN SELECT c.oid::regclass AS leaf, c.relname,
        '1970-01-01'::date + substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \((.*)\) TO')::integer AS born
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = '@schema@.inbox'::regclass AND inbox_retention IS NOT NULL AND c.relname ~ '^inbox_[0-9]{8}$'
      ORDER BY c.relname LOOP
    EXIT WHEN part.born >= (cutoff AT TIME ZONE 'UTC')::date;
    -- What is parked from now on has a young mark.
    CONTINUE WHEN EXISTS (SELECT FROM @schema@.parked p WHERE @schema@.inbox_day(p.event_id) = part.born - '1970-01-01'::date);
    BEGIN
      EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', part.leaf);
      EXECUTE format('SELECT count(*) FROM (SELECT FROM %s WHERE seen_at >= $1 LIMIT 1) l', part.leaf) INTO gone USING cutoff;
      CONTINUE WHEN gone > 0;
      EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 1) l', part.leaf) INTO gone;
      IF gone > 0 THEN
        EXECUTE format('INSERT INTO @schema@.inbox_horizon AS h (consumer_group, forgotten)'
          ' WITH RECURSIVE g(name) AS ((SELECT consumer_group FROM %1$s ORDER BY 1 LIMIT 1) UNION ALL SELECT (SELECT'
          ' l.consumer_group FROM %1$s l WHERE l.consumer_group > g.name ORDER BY 1 LIMIT 1) FROM g WHERE g.name IS NOT NULL)'
          ' SELECT name, $1 FROM g WHERE name IS NOT NULL'
          ' ON CONFLICT (consumer_group) DO UPDATE SET forgotten = greatest(h.forgotten, excluded.forgotten)', part.leaf)
          USING part.born;
        EXECUTE format('TRUNCATE %s', part.leaf);
        RETURN 'emptied ' || part.relname;
      END IF;
      EXECUTE format('DROP TABLE %s', part.leaf);
      RETURN 'dropped ' || part.relname;
    EXCEPTION WHEN lock_not_available THEN EXIT;
    END;
  END LOOP;
  FOREACH name IN ARRAY ARRAY['inbox_rest', 'inbox_other'] LOOP
    CONTINUE WHEN inbox_retention IS NULL;
    EXECUTE format('WITH old AS MATERIALIZED (SELECT ctid AS place FROM @schema@.%1$I WHERE seen_at < $1 AND state <> ''parked'''
      ' LIMIT 5000 FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM @schema@.%1$I r USING old WHERE r.ctid = old.place'
      ' RETURNING r.consumer_group), noted AS (INSERT INTO @schema@.inbox_horizon AS h (consumer_group, forgotten)'
      ' SELECT DISTINCT consumer_group, ($1 AT TIME ZONE ''UTC'')::date FROM gone'
      ' ON CONFLICT (consumer_group) DO UPDATE SET forgotten = greatest(h.forgotten, excluded.forgotten))'
      ' SELECT count(*) FROM gone', name) INTO gone USING cutoff;
    IF gone > 0 THEN
      RETURN 'deleted ' || gone || ' of ' || name;
    END IF;
  END LOOP;
  DELETE FROM @schema@.audit_other WHERE ctid = ANY (ARRAY(SELECT ctid FROM @schema@.audit_other
    WHERE at < now() - audit_retention LIMIT 5000));
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN CASE WHEN gone > 0 THEN 'deleted ' || gone || ' of audit_other' END;
EXCEPTION WHEN lock_not_available THEN
  RETURN 'busy';
END
$$;
REVOKE ALL ON FUNCTION @schema@.upkeep(interval, interval, integer) FROM PUBLIC;
DO $$
BEGIN
  WHILE @schema@.upkeep(NULL, NULL, 1) <> 'busy' LOOP
  END LOOP;
END
$$;
)sql";

constexpr std::string_view kConsumer = R"sql(
-- Messages that may have been delivered before and are about to be handled. Written before the handler runs, in a transaction of
-- its own, and deleted by the one that settles the message: what is left belongs to handlers that took their process with them.
CREATE TABLE @schema@.begun (
  consumer_group text COLLATE "C" NOT NULL,
  source         text COLLATE "C" NOT NULL,
  id             text COLLATE "C" NOT NULL,
  times          integer NOT NULL DEFAULT 1,
  begun_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer_group, source, id)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- What a consumer's session does with every message, as routines, since their statements are planned once for a connection.

-- The number of a session among those of its group: its row in `checkpoints`. Held as long as the connection lives, so that no
-- session ever waits for another one's row, and there are never more rows than there were sessions at once.
CREATE FUNCTION @schema@.consumer_member(in_group text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  number integer := 1;
BEGIN
  WHILE NOT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('@wake@.member.' || in_group || '.' || number, 0)) LOOP
    number := number + 1;
  END LOOP;
  RETURN number::text;
END
$$;

-- Marks the inbox. The gate keeps a redelivery from waiting for as long as the handler of the first delivery runs elsewhere.
-- Never by a sequential scan: the plan may be older than the million rows that are parked now.
CREATE FUNCTION @schema@.consumer_begin(in_group text, in_source text, in_id text, in_key text, in_time text,
    OUT admission text, OUT at text, OUT forgotten boolean)
  LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
  at := pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  IF NOT pg_catalog.pg_try_advisory_xact_lock(
      pg_catalog.hashtextextended('@wake@.inbox.' || in_group || '.' || in_source || E'\n' || in_id, 0)) THEN
    admission := 'busy';
    RETURN;
  END IF;
  INSERT INTO @schema@.inbox(consumer_group, source, id) VALUES (in_group, in_source, in_id) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    admission := 'duplicate';
  ELSIF in_key IS NOT NULL AND EXISTS (SELECT FROM @schema@.parked p WHERE p.consumer_group = in_group AND p.key = in_key) THEN
    admission := 'behind';
  ELSE
    admission := 'fresh';
  END IF;
  -- After the mark was made, and with a snapshot of its own.
  forgotten := admission <> 'duplicate' AND @schema@.inbox_forgotten(in_group, in_id, in_time);
END
$$;

-- The same for many, in the order of (source, id), so that two such batches never wait for each other in a circle. Gives the
-- numbers of those that are known, and of those to be taken one by one: their key has parked messages, or they may be forgotten.
CREATE FUNCTION @schema@.consumer_begin_batch(in_group text, sources text[], ids text[], keys text[], times text[],
    OUT known integer[], OUT behind integer[], OUT at text)
  LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  marked bigint;
  any_forgotten boolean;
BEGIN
  at := pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  INSERT INTO @schema@.inbox(consumer_group, source, id)
    SELECT in_group, pg_catalog.unnest(sources), pg_catalog.unnest(ids) ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS marked = ROW_COUNT;
  any_forgotten := EXISTS (SELECT FROM @schema@.inbox_horizon h WHERE h.consumer_group = in_group);
  IF marked < pg_catalog.cardinality(ids) THEN
    SELECT pg_catalog.array_agg(w.n::integer) INTO known
      FROM ROWS FROM (pg_catalog.unnest(sources), pg_catalog.unnest(ids)) WITH ORDINALITY AS w(source, id, n)
      JOIN @schema@.inbox i ON i.consumer_group = in_group AND i.source = w.source AND i.id = w.id
       AND @schema@.inbox_day(i.id) = @schema@.inbox_day(w.id)
     WHERE i.xmin <> pg_catalog.pg_current_xact_id()::xid;
  END IF;
  SELECT pg_catalog.array_agg(w.n::integer) INTO behind
    FROM ROWS FROM (pg_catalog.unnest(keys), pg_catalog.unnest(ids), pg_catalog.unnest(times)) WITH ORDINALITY AS w(key, id, time, n)
   WHERE (SELECT true FROM @schema@.parked p WHERE p.consumer_group = in_group AND p.key = w.key LIMIT 1)
      OR (any_forgotten AND @schema@.inbox_forgotten(in_group, w.id, w.time));
END
$$;

-- Audit row and checkpoint of a message that is done.
CREATE PROCEDURE @schema@.consumer_done(in_group text, in_member text, in_backend text, in_channel text, in_partition integer,
    in_position bigint, in_source text, in_id text, in_type text, in_key text, in_correlation text, in_causation text,
    in_traceparent text, in_attempt integer, in_duration bigint, in_host text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO @schema@.audit(consumer_group, backend, channel, partition, position, source, event_id, type, key, correlation_id,
                             causation_id, traceparent, outcome, attempt, duration_ms, host)
    VALUES (in_group, in_backend, in_channel, in_partition, in_position, in_source, in_id, in_type, in_key, in_correlation,
            in_causation, in_traceparent, 'done', in_attempt, in_duration, in_host);
  UPDATE @schema@.checkpoints SET position = greatest(position, in_position), settled = settled + 1,
      updated_at = pg_catalog.clock_timestamp()
    WHERE consumer_group = in_group AND channel = in_channel AND partition = in_partition AND member = in_member;
  IF NOT FOUND THEN
    INSERT INTO @schema@.checkpoints(consumer_group, channel, partition, member, position, settled)
      VALUES (in_group, in_channel, in_partition, in_member, in_position, 1);
  END IF;
END
$$;

-- The same for many. What was marked and is not done loses its mark again: it is settled by itself.
CREATE PROCEDURE @schema@.consumer_done_batch(in_group text, in_member text, in_backend text, in_channel text,
    partitions integer[], positions bigint[], sources text[], ids text[], types text[], keys text[], correlations text[],
    causations text[], traceparents text[], durations bigint[], in_host text, left_sources text[], left_ids text[])
  LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO @schema@.audit(consumer_group, backend, channel, host, outcome, partition, position, source, event_id, type, key,
                             correlation_id, causation_id, traceparent, duration_ms)
    SELECT in_group, in_backend, in_channel, in_host, 'done', pg_catalog.unnest(partitions), pg_catalog.unnest(positions),
           pg_catalog.unnest(sources), pg_catalog.unnest(ids), pg_catalog.unnest(types), pg_catalog.unnest(keys),
           pg_catalog.unnest(correlations), pg_catalog.unnest(causations), pg_catalog.unnest(traceparents),
           pg_catalog.unnest(durations);
  INSERT INTO @schema@.checkpoints AS c (consumer_group, channel, partition, member, position, settled)
    SELECT in_group, in_channel, w.partition, in_member, pg_catalog.max(w.position), pg_catalog.count(*)
      FROM ROWS FROM (pg_catalog.unnest(partitions), pg_catalog.unnest(positions)) AS w(partition, position)
      GROUP BY w.partition ORDER BY w.partition
    ON CONFLICT (consumer_group, channel, partition, member) DO UPDATE SET settled = c.settled + excluded.settled,
      position = greatest(c.position, excluded.position), updated_at = pg_catalog.clock_timestamp();
  IF pg_catalog.cardinality(left_ids) > 0 THEN
    DELETE FROM @schema@.inbox i
      USING ROWS FROM (pg_catalog.unnest(left_sources), pg_catalog.unnest(left_ids)) AS w(source, id)
      WHERE i.consumer_group = in_group AND i.source = w.source AND i.id = w.id
        AND @schema@.inbox_day(i.id) = @schema@.inbox_day(w.id);
  END IF;
END
$$;
)sql";

constexpr std::array kMigrations{kFirst, kReplay, kPartitions, kConsumer};

}  // namespace

std::string_view migration(int number) noexcept { return kMigrations[static_cast<std::size_t>(number - 1)]; }

int last_migration() noexcept { return static_cast<int>(kMigrations.size()); }

}  // namespace penstock::postgres
