-- Downstream services by the number that deliveries carry. `paused` says why a service takes nothing
-- (null: it does); `breaker` is the state of its circuit breaker as JSON.
CREATE TABLE services (
    id          INTEGER  NOT NULL PRIMARY KEY,
    name        TEXT     NOT NULL UNIQUE,
    paused      TEXT,
    breaker     TEXT,
    created_at  INTEGER  NOT NULL
) STRICT;

-- The outbox: one row for each event and service that is to get it, written in the transaction of the event.
-- `state`: 0 waiting (never tried), 1 retrying (not before `due_at`), 2 delivered, 3 dead.
-- `lane`: 0 high, 1 normal, 2 low, 3 replay. Times are µs since 1970, UTC.
-- `attempts` counts all, `spent` those before the delivery was last made anew; the rest tells of the last one.
CREATE TABLE deliveries (
    event_id    INTEGER  NOT NULL,
    service     INTEGER  NOT NULL,
    state       INTEGER  NOT NULL,
    lane        INTEGER  NOT NULL,
    due_at      INTEGER  NOT NULL,
    key         TEXT,
    attempts    INTEGER  NOT NULL DEFAULT 0,
    spent       INTEGER  NOT NULL DEFAULT 0,
    finished_at INTEGER,
    took_us     INTEGER,
    http_status INTEGER,
    reason      TEXT,
    PRIMARY KEY (event_id, service)
) STRICT, WITHOUT ROWID;

-- What is not delivered, in the order in which it is claimed and listed. What is delivered costs nothing here.
CREATE INDEX deliveries_open ON deliveries (service, state, lane, event_id) WHERE state <> 2;
CREATE INDEX deliveries_due ON deliveries (service, due_at, event_id) WHERE state = 1;
-- Who comes before whom among the undelivered of an ordering key.
CREATE INDEX deliveries_key ON deliveries (service, key, event_id) WHERE state < 2 AND key IS NOT NULL;

-- Every attempt that failed; the one that succeeded is in the row of its delivery.
CREATE TABLE delivery_attempts (
    event_id    INTEGER  NOT NULL,
    service     INTEGER  NOT NULL,
    attempt     INTEGER  NOT NULL,
    finished_at INTEGER  NOT NULL,
    took_us     INTEGER  NOT NULL,
    http_status INTEGER,
    reason      TEXT     NOT NULL,
    answer      TEXT,
    PRIMARY KEY (event_id, service, attempt)
) STRICT, WITHOUT ROWID;

-- Redrives and replays under way: `next_id` is where to go on.
CREATE TABLE delivery_jobs (
    id          INTEGER  NOT NULL PRIMARY KEY,
    kind        TEXT     NOT NULL,
    service     INTEGER  NOT NULL,
    patterns    TEXT     NOT NULL,
    next_id     INTEGER  NOT NULL,
    through_id  INTEGER  NOT NULL,
    touched     INTEGER  NOT NULL DEFAULT 0,
    state       TEXT     NOT NULL,
    created_at  INTEGER  NOT NULL,
    updated_at  INTEGER  NOT NULL
) STRICT;

-- Events that are to be appended to the log later. `place` tells apart, and orders, those of one transaction.
CREATE TABLE schedules (
    id          TEXT     NOT NULL PRIMARY KEY,
    due_at      INTEGER  NOT NULL,
    created_at  INTEGER  NOT NULL,
    place       INTEGER  NOT NULL,
    name        TEXT     NOT NULL,
    payload     TEXT     NOT NULL,
    source      TEXT     NOT NULL,
    priority    INTEGER  NOT NULL,
    key         TEXT,
    metadata    TEXT,
    traceparent TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_due ON schedules (due_at, created_at, place);
