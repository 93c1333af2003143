-- The state of the whole system, in one row: 'running', 'degraded', 'maintenance', 'draining'. `since` is in µs since
-- 1970, UTC. `reason` and `transition` are those of the change that has led to the state; `change` is the one that is
-- under way, as JSON.
CREATE TABLE system_state (
    only_row   INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    state      TEXT    NOT NULL,
    since      INTEGER NOT NULL,
    reason     TEXT,
    transition TEXT,
    change     TEXT
) STRICT;
INSERT INTO system_state (only_row, state, since)
VALUES (1, 'running', CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000);
