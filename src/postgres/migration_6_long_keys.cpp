// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kLongKeys = R"sql(
-- An entry of an index takes 2,704 bytes, and a dead letter must find its row however long its key and its id are: so these hold
-- numbers that are made of them, and who looks by them names the number and the text.
DROP INDEX @schema@.dead_letters_event;
CREATE INDEX dead_letters_event ON @schema@.dead_letters (hashtextextended(event_id, 0));
DROP INDEX @schema@.dead_letters_key;
CREATE INDEX dead_letters_key ON @schema@.dead_letters (consumer_group, hashtextextended(key, 0), id)
  WHERE state = 'dead' AND side = 'outbox';
CREATE OR REPLACE FUNCTION @schema@.letter_again() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog AS $$
BEGIN
  NEW.replays := greatest(NEW.replays, (SELECT max(d.replays) FROM @schema@.dead_letters d
    WHERE hashtextextended(d.event_id, 0) = hashtextextended(NEW.event_id, 0) AND d.source = NEW.source
      AND d.event_id = NEW.event_id AND d.side = NEW.side AND d.consumer_group = NEW.consumer_group));
  RETURN NEW;
END
$$;
)sql";

}  // namespace penstock::postgres
