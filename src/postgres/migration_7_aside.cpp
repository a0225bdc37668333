// SPDX-License-Identifier: Apache-2.0
#include "postgres/migrations.hpp"

namespace penstock::postgres {

const std::string_view kAside = R"sql(
-- `holds`: a dead letter of the outbox's side whose key waits until it was replayed or discarded; so was each that had something
-- behind it. `next_attempt_at`: in state 'behind', of an event that keeps failing and is tried again then; what comes after it of
-- its key waits until it is gone. By the database's clock.
ALTER TABLE @schema@.dead_letters
  ADD COLUMN holds           boolean NOT NULL DEFAULT false,
  ADD COLUMN next_attempt_at timestamptz;
UPDATE @schema@.dead_letters d SET holds = true WHERE d.state = 'dead' AND d.side = 'outbox' AND EXISTS (
  SELECT FROM @schema@.dead_letters b WHERE b.state = 'behind' AND b.side = 'outbox' AND b.channel = d.channel
    AND b.consumer_group = d.consumer_group AND b.key = d.key);
DROP INDEX @schema@.dead_letters_key;
CREATE INDEX dead_letters_key ON @schema@.dead_letters (consumer_group, hashtextextended(key, 0), id)
  WHERE side = 'outbox' AND (state = 'dead' OR next_attempt_at IS NOT NULL);
)sql";

}  // namespace penstock::postgres
