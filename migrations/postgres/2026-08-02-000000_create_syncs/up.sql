-- How far the state of each service agrees with the entities of each type that it keeps, as its last check has found.
-- `state`: 'unknown', 'catching_up', 'synced', 'diverged'. `as_of` is what the service has said that it has applied.
-- Times are µs since 1970, UTC. The last four count the differences that were found and are not repaired.
CREATE TABLE syncs (
    service       SMALLINT NOT NULL,
    type          TEXT COLLATE "C" NOT NULL,
    state         TEXT NOT NULL,
    as_of         BIGINT,
    lag           BIGINT,
    checked_at    BIGINT,
    next_check_at BIGINT,
    error         TEXT,
    missing       BIGINT NOT NULL,
    stale         BIGINT NOT NULL,
    extra         BIGINT NOT NULL,
    ahead         BIGINT NOT NULL,
    PRIMARY KEY (service, type)
);
