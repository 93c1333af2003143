-- Instances of sagas: each one run of a definition. `correlation` is the JSON text of the value that tells which events
-- are for it; of a saga one instance holds a value (`holds`). `trigger` is the event that began it. `state`: 0 queued,
-- 1 running, 2 waiting, 3 compensating, 4 completed, 5 compensated, 6 aborted, 7 needs an operator. `due_at`: when a
-- timer of it is due; of a queued one, since when it may begin. `ended_at` is there in the states 4 to 6. `length`: how
-- many entries its journal has. Times are µs since 1970, UTC.
CREATE TABLE sagas (
    id          TEXT NOT NULL PRIMARY KEY,
    saga        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    correlation TEXT NOT NULL,
    trigger     TEXT NOT NULL,
    made_at     INTEGER NOT NULL,
    start_key   TEXT,
    state       INTEGER NOT NULL,
    holds       INTEGER NOT NULL,
    paused      INTEGER NOT NULL,
    started_at  INTEGER,
    updated_at  INTEGER NOT NULL,
    due_at      INTEGER,
    ended_at    INTEGER,
    length      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sagas_holder ON sagas (saga, correlation) WHERE holds = 1;
CREATE UNIQUE INDEX sagas_start_key ON sagas (saga, start_key) WHERE start_key IS NOT NULL;
CREATE INDEX sagas_queue ON sagas (saga, correlation, id) WHERE state = 0;
CREATE INDEX sagas_ended ON sagas (saga, correlation, id) WHERE ended_at IS NOT NULL;
CREATE INDEX sagas_timers ON sagas (due_at) WHERE state > 0 AND due_at IS NOT NULL;
CREATE INDEX sagas_startable ON sagas (state, due_at, id) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX sagas_old ON sagas (ended_at) WHERE ended_at IS NOT NULL;
-- For lists.
CREATE INDEX sagas_correlation ON sagas (correlation, id);
CREATE INDEX sagas_state ON sagas (state, id);
CREATE INDEX sagas_name_state ON sagas (saga, state, id);

-- What has happened to each instance: entry `n`, from 0 on, is JSON.
CREATE TABLE saga_journal (
    id   TEXT NOT NULL,
    n    INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, n)
) STRICT, WITHOUT ROWID;

-- By which keys events are found to be for an instance, besides its correlation value.
CREATE TABLE saga_awaits (
    key TEXT NOT NULL,
    id  TEXT NOT NULL,
    PRIMARY KEY (key, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX saga_awaits_id ON saga_awaits (id);

-- How many instances there are of each saga in each state.
CREATE TABLE saga_counts (
    saga  TEXT NOT NULL,
    state INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (saga, state)
) STRICT, WITHOUT ROWID;

-- All definitions that instances follow, and that are declared; as JSON.
CREATE TABLE saga_definitions (
    saga    TEXT NOT NULL,
    version INTEGER NOT NULL,
    text    TEXT NOT NULL,
    PRIMARY KEY (saga, version)
) STRICT;

-- Which version of each saga the files of each node declare, and when it has last said so.
CREATE TABLE saga_declarations (
    saga    TEXT NOT NULL,
    node    TEXT NOT NULL,
    version INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (saga, node)
) STRICT, WITHOUT ROWID;

-- The sagas that some node declares. Events after `since` begin instances.
CREATE TABLE saga_names (
    saga  TEXT NOT NULL PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
