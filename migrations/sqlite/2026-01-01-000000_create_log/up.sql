-- The log. Ids are given by the writer, in commit order. `created_at` (µs since 1970, UTC) and
-- `log_offset` (bytes of the log up to and including the row) never decrease with the id, so a
-- search by time or size is a binary search over the primary key.
CREATE TABLE events (
    id          INTEGER  NOT NULL PRIMARY KEY,
    name        TEXT     NOT NULL,
    payload     TEXT     NOT NULL,
    source      TEXT     NOT NULL,
    priority    INTEGER  NOT NULL,
    key         TEXT,
    metadata    TEXT,
    traceparent TEXT,
    created_at  INTEGER  NOT NULL,
    log_offset  INTEGER  NOT NULL
) STRICT;

-- An index entry ends with the row id: this is an index on (name, id).
CREATE INDEX events_name_id ON events (name);

-- Pruned by age; apart from the log, so that random keys cost only those who use them.
CREATE TABLE idempotency_keys (
    key         TEXT     NOT NULL PRIMARY KEY,
    fingerprint BLOB     NOT NULL,
    first_id    INTEGER  NOT NULL,
    last_id     INTEGER  NOT NULL,
    created_at  INTEGER  NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
