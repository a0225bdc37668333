// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kLimits = R"sql(
-- Token buckets that processes share. A bucket is one time: when it will be full again. It lies ahead by one interval for each
-- token that is missing. `promised`: the last turn that was told to one who was refused.
CREATE TABLE @schema@.rate_limits (
  name      text COLLATE "C" PRIMARY KEY,
  full_at   timestamptz NOT NULL,
  promised  timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Takes a turn: seconds until it comes, or, when that is longer than `patience`, refused with a time of its own. All in seconds;
-- `one`: from one token to the next, `saved`: what a full bucket allows at once beside the first.
CREATE FUNCTION @schema@.take_turn(in_name text, one double precision, saved double precision, patience double precision,
    OUT wait double precision, OUT refused boolean) LANGUAGE plpgsql AS $$
DECLARE
  bucket @schema@.rate_limits;
  at timestamptz;
  step constant interval := pg_catalog.make_interval(secs => one);
  ahead constant interval := pg_catalog.make_interval(secs => saved);
  longest constant interval := pg_catalog.make_interval(secs => patience);
BEGIN
  PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
  LOOP
    SELECT * INTO bucket FROM @schema@.rate_limits r WHERE r.name = in_name FOR UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO @schema@.rate_limits VALUES (in_name, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())
      ON CONFLICT DO NOTHING;
  END LOOP;
  at := pg_catalog.clock_timestamp();
  -- Not further ahead than it can have come, should the clock have been set back or the limit raised.
  bucket.full_at := least(greatest(bucket.full_at, at), at + ahead + step + longest);
  wait := greatest(0, extract(epoch FROM bucket.full_at - ahead - at));
  refused := wait > patience;
  IF refused THEN
    bucket.promised := least(greatest(bucket.promised, bucket.full_at), at + '1 day') + step;
    wait := extract(epoch FROM bucket.promised - step - ahead - at);
  ELSE
    bucket.full_at := bucket.full_at + step;
  END IF;
  UPDATE @schema@.rate_limits r SET full_at = bucket.full_at, promised = bucket.promised WHERE r.name = in_name;
END
$$;
)sql";

}  // namespace penstock::postgres
