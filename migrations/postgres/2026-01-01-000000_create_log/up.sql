-- The log. Ids are given by the writer, in commit order. `created_at` (µs since 1970, UTC) and
-- `log_offset` (bytes of the log up to and including the row) never decrease with the id, so a
-- search by time or size is a binary search over the primary key.
-- Names compare as bytes, so that a prefix is a range of the index.
CREATE TABLE events (
    id          BIGINT             NOT NULL PRIMARY KEY,
    name        TEXT COLLATE "C"   NOT NULL,
    payload     TEXT               NOT NULL,
    source      TEXT               NOT NULL,
    priority    SMALLINT           NOT NULL,
    key         TEXT,
    metadata    TEXT,
    traceparent TEXT,
    created_at  BIGINT             NOT NULL,
    log_offset  BIGINT             NOT NULL
)
-- Retention deletes at the front of the index, where every search for the earliest row begins:
-- vacuum by count, not by a share of a large table.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);

-- `id + 0` and not `id`: a walk along this index asks for just that, so that no plan, however wrong the
-- statistics, walks the primary key in search of a rare name.
CREATE INDEX events_name_id ON events (name, (id + 0));

-- Pruned by age; apart from the log, so that random keys cost only those who use them.
CREATE TABLE idempotency_keys (
    key         TEXT COLLATE "C"   NOT NULL PRIMARY KEY,
    fingerprint BYTEA              NOT NULL,
    first_id    BIGINT             NOT NULL,
    last_id     BIGINT             NOT NULL,
    created_at  BIGINT             NOT NULL
);

CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
