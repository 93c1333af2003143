-- The nodes that share this store. `generation` rises when a node joins, and when it is found lost: what it held in an
-- earlier one is free. `expires_at` is by the clock of the database, and 0 once the node was found lost. Who leaves in
-- good order is removed.
CREATE TABLE nodes (
    name        TEXT     NOT NULL PRIMARY KEY,
    generation  INTEGER  NOT NULL,
    expires_at  INTEGER  NOT NULL,
    started_at  INTEGER  NOT NULL,
    seen_at     INTEGER  NOT NULL,
    version     TEXT     NOT NULL,
    url         TEXT     NOT NULL,
    last_id     INTEGER  NOT NULL,
    is_draining INTEGER  NOT NULL
) STRICT;

-- Which node does what one node does for all. `generation` rises with each holder, and each write of a holder names it.
-- `wanted_by`: the node to which the holder is asked to hand it over.
CREATE TABLE leases (
    name            TEXT     NOT NULL PRIMARY KEY,
    node            TEXT     NOT NULL,
    node_generation INTEGER  NOT NULL,
    generation      INTEGER  NOT NULL,
    wanted_by       TEXT
) STRICT;
