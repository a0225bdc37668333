// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kPartitions = R"sql(
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

}  // namespace penstock::postgres
