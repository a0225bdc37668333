// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kReplay = R"sql(
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

}  // namespace penstock::postgres
