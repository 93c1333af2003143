-- How far the state of each service agrees with the entities of each type that it keeps, as its last check has found.
-- `state`: 'unknown', 'catching_up', 'synced', 'diverged'. `as_of` is what the service has said that it has applied.
-- Times are µs since 1970, UTC. The last four count the differences that were found and are not repaired.
CREATE TABLE syncs (
    service       INTEGER  NOT NULL,
    type          TEXT     NOT NULL,
    state         TEXT     NOT NULL,
    as_of         INTEGER,
    lag           INTEGER,
    checked_at    INTEGER,
    next_check_at INTEGER,
    error         TEXT,
    missing       INTEGER  NOT NULL,
    stale         INTEGER  NOT NULL,
    extra         INTEGER  NOT NULL,
    ahead         INTEGER  NOT NULL,
    PRIMARY KEY (service, type)
) STRICT, WITHOUT ROWID;
