// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kConsumer = R"sql(
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

}  // namespace penstock::postgres
