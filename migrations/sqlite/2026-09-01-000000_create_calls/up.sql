-- Requests to services that are no deliveries: each of one owner, who is told by `place` how it ended, in the order in which
-- calls ended. `tag` is the owner's own word for it. `request` (method, path, headers, body, idempotency key), `policy` (when
-- it is tried again) and `last` (what became of the last attempt) are JSON. `state`: 0 waits for its first attempt, 1 an
-- attempt was begun, 2 waits for another one, 3 ended. `may_be_done`: some attempt may have reached the service. Times are µs
-- since 1970, UTC.
CREATE TABLE calls (
    id          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    service     INTEGER NOT NULL,
    owner       TEXT NOT NULL,
    tag         TEXT NOT NULL,
    lane        INTEGER NOT NULL,
    key         TEXT,
    request     TEXT NOT NULL,
    policy      TEXT NOT NULL,
    due_at      INTEGER NOT NULL,
    expires_at  INTEGER,
    state       INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    may_be_done INTEGER NOT NULL,
    last        TEXT,
    ended_at    INTEGER,
    place       INTEGER
) STRICT;
CREATE INDEX calls_open ON calls (service, due_at, id) WHERE state < 3;
CREATE INDEX calls_owner ON calls (owner) WHERE state < 3;
CREATE INDEX calls_ended ON calls (place) WHERE state = 3;

-- The last `place` that was given; places are not given out again when calls were removed.
CREATE TABLE call_ends (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    last     INTEGER NOT NULL
) STRICT;
INSERT INTO call_ends VALUES (1, 0);
